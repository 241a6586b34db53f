"""How many requests a second come to an end, so that as many that wait can begin?

Pure. By Little's law, n requests under way that are held for W seconds each end at n / W a second.
W is measured from those that ended in about the last 10 s. It is known also after a quiet time,
when an end counted per second would say that little was asked for and not that little is possible.

W cannot be less than the time for which all places have been taken without one request ending. That
bound makes the rate fall when the engines stall and nothing ends that could be measured.
"""

from __future__ import annotations

from math import inf

WINDOW_S = 10.0
"""How far back ends count, fading in proportion to their age."""

MIN_HELD_S = 1e-6
"""A request that took no measurable time still took some: rates stay finite."""


class DrainRate:
    """The measured rate of one cluster."""

    __slots__ = ("_count", "_full_since", "_held_s", "_last")

    def __init__(self) -> None:
        self._count = 0.0
        self._held_s = 0.0
        self._last = -inf
        self._full_since = -inf

    def ended(self, held_s: float, now: float) -> None:
        """A request ended that was under way for `held_s` seconds. 0.15 µs."""
        keep = 1.0 - (now - self._last) / WINDOW_S
        if keep > 0.0:
            self._count = self._count * keep + 1.0
            self._held_s = self._held_s * keep + held_s
        else:
            self._count = 1.0
            self._held_s = held_s
        self._last = now

    def filled(self, now: float) -> None:
        """All places are taken from here on: the first request has to wait."""
        self._full_since = now

    def per_s(self, inflight: int, now: float, *, waiting: bool) -> float:
        """Return the rate at which `inflight` requests end; always above 0.

        While none are `waiting`, a time without an end says only that little was asked for. Before
        the first end only that time is known; the rate is then at its highest when it is asked
        for first, so that a start is not mistaken for a stall.
        """
        stalled_s = now - max(self._last, self._full_since) if waiting else 0.0
        mean_s = self._held_s / self._count if self._count else 0.0
        return max(inflight, 1) / max(mean_s, stalled_s, MIN_HELD_S)

"""Does the event loop run so late that new work would only make everything later?

Pure. A shell sleeps for 0.1 s at a time and says when it wanted to wake and when it did. What
counts is a peak that fades: a lag takes effect at once and is forgotten with a time constant of
`FADE_S`.

    accepting ── lag > max_lag_s ──► shedding
        ▲                               │
        └────── lag < max_lag_s / 2 ────┘

The gap between the two keeps it from flapping around one value.
"""

from __future__ import annotations

from math import ceil, exp, log

FADE_S = 1.0
"""Time constant of forgetting. A lag just over the limit is shed for for FADE_S * ln 2 = 0.7 s."""


class LoopLag:
    """The lag of one event loop, in seconds."""

    __slots__ = ("_at", "_max_lag_s", "last_s", "peak_s", "shedding")

    def __init__(self, max_lag_s: float) -> None:
        self._max_lag_s = max_lag_s
        self._at = 0.0
        self.last_s = 0.0
        """The lag of the last tick."""
        self.peak_s = 0.0
        """The largest lag, faded to the last tick."""
        self.shedding = False
        """Whether new work is to be refused."""

    def tick(self, expected: float, actual: float) -> bool:
        """Take in one tick, wanted at `expected` and run at `actual`, both monotonic seconds.

        Returns whether `shedding` has changed.
        """
        self.last_s = max(0.0, actual - expected)
        faded = self.peak_s * exp(-max(0.0, actual - self._at) / FADE_S)
        self.peak_s = max(self.last_s, faded)
        self._at = actual
        before = self.shedding
        if self.peak_s > self._max_lag_s:
            self.shedding = True
        elif self.peak_s < self._max_lag_s / 2:
            self.shedding = False
        return self.shedding is not before

    def limit(self, max_lag_s: float) -> None:
        """Hold to another limit from the next tick on: the configuration was reloaded."""
        self._max_lag_s = max_lag_s

    def retry_after_s(self) -> int:
        """Return in how many whole seconds the shedding ends if nothing is late from here on."""
        if not self.shedding:
            return 1
        return max(1, ceil(FADE_S * log(2 * self.peak_s / self._max_lag_s)))

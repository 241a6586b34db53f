"""When is a worker that has ended started again, and when is the gateway's end nearer?

Pure; one object per worker.

    starting --up--> running --ended--> waiting --delay over--> starting
        └─────────────ended────────────────┤
                                           └──nobody is up, and it goes on──> given up

The first end after a long run is followed by a start at once: whatever it was, it is rare. Ends in
a row double the wait up to 10 s, so that a defect that shows at once does not take a core.
"""

from __future__ import annotations

from random import Random

STABLE_S = 10.0
"""A worker that has run so long did not end because of how it was started."""

FIRST_S, MAX_S = 0.25, 10.0
"""The second wait in a row, and the longest one, in seconds."""

MAX_FAILURES = 5
"""Ends in a row, with no other worker up, after which the gateway ends: about 4 s of trying."""


class Restarts:
    """What has become of one worker's processes so far."""

    __slots__ = ("_rng", "_up_at", "ever_up", "failures", "total")

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._up_at: float | None = None
        self.failures = 0
        """Ends in a row, each soon after its start."""
        self.total = 0
        """How often it was started again."""
        self.ever_up = False

    def up(self, now: float) -> None:
        """Note that it takes requests."""
        self._up_at = now
        self.ever_up = True

    def ended(self, now: float, status: int, *, alone: bool) -> float | None:
        """Return the seconds after which to start it again; None to give up.

        `status` is the exit code, or minus the signal; `alone` says that no worker is up. A worker
        that was never up and has ended by itself has said why: it would end so again.
        """
        if self._up_at is not None and now - self._up_at >= STABLE_S:
            self.failures = 0
        self._up_at = None
        self.failures += 1
        hopeless = (not self.ever_up and status > 0) or self.failures >= MAX_FAILURES
        if alone and hopeless:
            return None
        self.total += 1
        if self.failures == 1:
            return 0.0
        wait_s = min(MAX_S, FIRST_S * 2.0 ** (self.failures - 2))
        return wait_s * self._rng.uniform(0.5, 1.0)

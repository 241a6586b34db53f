"""What time is it? Shells hold a Clock; cores take `now`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Both times of a process: `monotonic` for durations, `wall` for people."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""

    def wall(self) -> float:
        """Seconds since the epoch."""


class SystemClock:
    """The machine's own clocks."""

    # Plain attributes, not methods: a call through a wrapper would double the 45 ns that one costs.
    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)  # noqa: TID251  the one place that reads it

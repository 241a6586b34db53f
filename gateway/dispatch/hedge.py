"""When is an attempt so slow that a second one beside it is worth its price?

Pure. A hedge starts when no first token has come within the time that most of the cluster's recent
requests took (Dean and Barroso, "The Tail at Scale", 2013: the 95th percentile, for about 5 % more
load). It does not start when the cluster is busy, since then everything is slow and more load is
the wrong answer, nor when the retry budget is spent.
"""

from __future__ import annotations

from math import ceil

from gateway.config.cluster import Hedging
from gateway.dispatch.budget import RetryBudget

SIZE = 256
"""Times that are remembered: 13 of them are above the 95th percentile, which steadies it."""

ENOUGH = 20
"""Times before a quantile is given: with fewer, the 95th percentile is the maximum."""

STALE = 16
"""Observations that a quantile may miss. Sorting takes 7 µs, or 0.4 µs for each of them."""


class Recent:
    """The last times to the first token, in seconds, of one cluster.

    An attempt that was cancelled for the sake of its hedge should be observed too, with the time
    that it had taken by then. Without it, each hedge hides a slow time, and the quantile sinks.
    """

    __slots__ = ("_count", "_ring", "_sorted", "_sorted_at")

    def __init__(self) -> None:
        self._ring = [0.0] * SIZE
        self._count = 0
        self._sorted: list[float] = []
        self._sorted_at = 0

    def observe(self, seconds: float) -> None:
        """Remember one time, and forget the oldest: 0.1 µs."""
        self._ring[self._count % SIZE] = seconds
        self._count += 1

    def quantile(self, share: float) -> float | None:
        """Return the time that `share` (0 to 1) of the requests did not exceed.

        It is the smallest such time (nearest rank). None before `ENOUGH` observations. Up to
        `STALE` - 1 of the newest may not be in it yet.
        """
        if self._count < ENOUGH:
            return None
        if not self._sorted or self._count - self._sorted_at >= STALE:
            self._sorted = sorted(self._ring[: self._count])
            self._sorted_at = self._count
        times = self._sorted
        return times[max(0, ceil(share * len(times)) - 1)]


def hedge_after(spec: Hedging, recent: Recent) -> float | None:
    """Return how many seconds into an attempt `may_hedge` is to be asked; None for never."""
    return recent.quantile(spec.quantile) if spec.enabled else None


def may_hedge(
    spec: Hedging, inflight: int, capacity: int | None, budget: RetryBudget, now: float
) -> bool:
    """Say whether the second attempt may start now; True has taken it from the budget.

    `inflight` are the requests that the cluster works on, this one included, `capacity` is the most
    that it may. Without a capacity the budget alone decides.
    """
    if not spec.enabled or (capacity is not None and inflight > spec.max_load * capacity):
        return False
    return budget.withdraw(now)

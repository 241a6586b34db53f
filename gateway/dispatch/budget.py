"""How many retries may a cluster add to its load?

Pure. Retries multiply: where every endpoint fails, three attempts for each request triple the load
of engines that are down because of load. So retries are paid for, and there are two purses:

    request ──► deposits, each kept for at most 10 s ──┐
                                                       ├──► withdraw: one retry, or none
    time ─────► reserve, at most one second's worth ───┘

A request deposits `percent` of a retry. (Finagle's RetryBudget, whose default is 20 %; a deposit
expires after 10 s there too.) The reserve is for low traffic: `min_per_s` retries a second that
need no deposit (Envoy's default is 3). It is a floor and not an addition: a retry that the deposits
pay for is taken from the reserve as well, so that the reserve pays only while the deposits give
less than it would.

What holds, with D = `percent` / 100, M = `min_per_s`, and F = M (1 if M is between 0 and 1):

- A burst of n requests that all fail adds at most D * n + F retries: 1.2 * n + 3 attempts with the
  defaults. The same holds for steady traffic of M / D requests a second or more, for any time.
- Any T seconds see at most D * n + F + M * T retries, n being the requests in them and in the 10 s
  before.
- After F / M seconds without a retry, F of them (rounded down) are free, whatever the traffic.
"""

from __future__ import annotations

from collections import deque

KEPT_S = 10
"""Seconds that a deposit is kept at most; Finagle's default. They are counted by the second, so
that the oldest tenth goes at once: a deposit is good for 9 s at least."""


class RetryBudget:
    """One cluster's budget. Hedges are paid from it too."""

    __slots__ = (
        "_capacity",
        "_deposits",
        "_per_s",
        "_price",
        "_reserve",
        "_seen_at",
        "ends_at",
        "fresh",
    )

    def __init__(self, percent: float, min_per_s: float) -> None:
        # Deposits are counted in requests, which are whole numbers: no sum of fifths to round.
        self._price = 100 / percent if percent else float("inf")
        self._per_s = min_per_s
        self._capacity = max(min_per_s, 1.0) if min_per_s else 0.0
        self._reserve = self._capacity
        self._seen_at = 0.0
        self.fresh: float = 0
        """What the requests of this second have left."""
        self.ends_at = 0.0
        """When this second ends."""
        self._deposits: deque[float] = deque([0.0] * (KEPT_S - 1), KEPT_S - 1)
        """What those of earlier seconds have left, the oldest first."""

    def request(self, now: float) -> None:
        """Deposit for one request, once, however many attempts it takes: 0.06 µs."""
        if now >= self.ends_at:
            self._turn(now)
        self.fresh += 1

    def withdraw(self, now: float) -> bool:
        """Take one retry; False if it cannot be afforded, and then nothing is taken."""
        if now >= self.ends_at:
            self._turn(now)
        if now > self._seen_at:
            self._reserve = min(self._capacity, self._reserve + (now - self._seen_at) * self._per_s)
            self._seen_at = now
        if self.fresh + sum(self._deposits) >= self._price:
            self._pay()
            self._reserve = max(0.0, self._reserve - 1)
            return True
        if self._reserve >= 1:
            self._reserve -= 1
            return True
        return False

    def _pay(self) -> None:
        """Take the price from the deposits that expire first."""
        due = self._price
        for second, deposit in enumerate(self._deposits):
            taken = min(due, deposit)
            self._deposits[second] = deposit - taken
            due -= taken
        self.fresh -= due

    def _turn(self, now: float) -> None:
        """Begin the second that `now` is in; drop what has been kept for long enough."""
        passed = min(int(now - self.ends_at) + 1, KEPT_S)
        for _ in range(passed):
            self._deposits.append(self.fresh)
            self.fresh = 0
        self.ends_at = float(int(now) + 1)

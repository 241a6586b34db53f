"""Does an endpoint do so much worse than its peers that it should leave the pool for a while?

    in --`failures` in a row--> ejected
    in --success share over 30 s too low, while the others do better--> ejected
    ejected --n times eject_s are over, or probes brought it back--> in

n is the number of ejections, less one for each full `eject_s` spent in the pool since the last.
Where the breaker asks whether an endpoint works at all, this compares it with the rest: when all
fail alike, the cause is not in one of them.

The rules and defaults are those of Envoy's outlier detection (5 in a row, n times 30 s up to 300 s,
at most a share of the hosts) and of Finagle's success-rate accrual (0.8 over 30 s).

Pure: callers pass `now`; `record` returns what it decided.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_S = 30.0
"""The stretch of time of a success share. Finagle's default is 30 s."""

BUCKETS = 10
BUCKET_S = WINDOW_S / BUCKETS


@dataclass(frozen=True, slots=True)
class OutlierSpec:
    """When an endpoint is ejected, for how long, and how many may be out at once."""

    failures: int = 5
    min_success: float = 0.8
    min_requests: int = 20
    eject_s: float = 30.0
    max_eject_s: float = 300.0
    max_ejected_percent: float = 50.0


class Member:
    """What is counted of one endpoint: a window of 10 times 3 s, and its ejections."""

    __slots__ = (
        "_bad",
        "_good",
        "_slot",
        "ejected_until",
        "ejections",
        "ejections_total",
        "in_row",
    )

    def __init__(self) -> None:
        self._good = [0] * BUCKETS
        self._bad = [0] * BUCKETS
        self._slot = 0  # Number of the bucket being filled, counted from time 0.
        self.in_row = 0
        self.ejected_until = 0.0
        self.ejections = 0
        self.ejections_total = 0
        """How often it was ejected since it is known."""

    def succeed(self, now: float) -> None:
        """Count a success, unless it is ejected: what comes in then began before. 0.2 µs."""
        if now >= self.ejected_until:
            slot = int(now / BUCKET_S)
            if slot != self._slot:
                self._forget(slot)
            self.in_row = 0
            self._good[slot % BUCKETS] += 1

    def fail(self, now: float) -> None:
        """Count a failure."""
        slot = int(now / BUCKET_S)
        if slot != self._slot:
            self._forget(slot)
        self.in_row += 1
        self._bad[slot % BUCKETS] += 1

    def counts(self, now: float) -> tuple[int, int]:
        """Return the good and the bad results of the window."""
        self._forget(int(now / BUCKET_S))
        return sum(self._good), sum(self._bad)

    def eject(self, until: float) -> None:
        """Leave the pool. What was counted does not count again after the return."""
        self.ejected_until = until
        self.ejections_total += 1
        self.in_row = 0
        self._good = [0] * BUCKETS
        self._bad = [0] * BUCKETS

    def _forget(self, slot: int) -> None:
        for passed in range(max(self._slot, slot - BUCKETS) + 1, slot + 1):
            self._good[passed % BUCKETS] = self._bad[passed % BUCKETS] = 0
        self._slot = slot


class Outliers:
    """The detector of one cluster."""

    __slots__ = ("_members", "spec")

    def __init__(self, spec: OutlierSpec | None = None) -> None:
        self.spec = spec or OutlierSpec()
        """May be replaced at any time; the next result is judged by it."""
        self._members: list[Member] = []

    def join(self) -> Member:
        """Add an endpoint to those that are compared."""
        member = Member()
        self._members.append(member)
        return member

    def leave(self, member: Member) -> None:
        """Take an endpoint out of the comparison."""
        self._members.remove(member)

    def record(self, member: Member, good: bool, now: float) -> bool:
        """Count one result; return whether it ejects the endpoint. O(members) only if it may.

        While it is ejected nothing is counted: what comes in began before.
        """
        if now < member.ejected_until:
            return False
        if good:
            member.succeed(now)
            return False
        member.fail(now)
        if not (self._fails(member) or self._lags(member, now)):
            return False
        if not self._may_eject(now):
            return False
        spec = self.spec
        returns = (now - member.ejected_until) // spec.eject_s if member.ejections else 0
        member.ejections = max(0, member.ejections - int(returns)) + 1
        member.eject(now + min(spec.eject_s * member.ejections, spec.max_eject_s))
        return True

    def _fails(self, member: Member) -> bool:
        return member.in_row >= self.spec.failures

    def _lags(self, member: Member, now: float) -> bool:
        spec = self.spec
        good, bad = member.counts(now)
        if good + bad < spec.min_requests or good >= spec.min_success * (good + bad):
            return False
        others_good = others_bad = 0
        for other in self._members:
            if other is not member:
                more_good, more_bad = other.counts(now)
                others_good += more_good
                others_bad += more_bad
        others = others_good + others_bad
        # "Better" is: at most half as many failures a request. Chance alone seldom looks like it.
        return others >= spec.min_requests and others_bad / others <= bad / (good + bad) / 2

    def _may_eject(self, now: float) -> bool:
        count, percent = len(self._members), self.spec.max_ejected_percent
        if count < 2 or percent == 0:
            return False
        allowed = max(1, int(count * percent / 100))
        return sum(now < member.ejected_until for member in self._members) < allowed

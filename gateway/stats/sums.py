"""What does a process keep of an arm's measurements, so that they can be compared later?

Sums only: they merge by addition, over processes and over time, and every test of this package
works from them alone. A window of time is the difference of two states. Nothing here needs numpy,
so a process that never analyses never pays for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import exp2, isfinite, log, log2
from operator import mul
from typing import Self, TypeAlias

BUCKETS_PER_OCTAVE = 32
"""Bucket edges are powers of 2^(1/32), so that multiplying all values by a power of it moves every
bucket by a whole number. A bucket's middle is at most 1.1 % from any value in it."""

SMALLEST = 2.0**-30
"""About a nanosecond. Values at or below it, zero and negative ones too, share bucket 0."""

_WIDTH = log(2.0) / BUCKETS_PER_OCTAVE
_OFFSET = 30 * BUCKETS_PER_OCTAVE + 1
_PENDING = 1024


class Rate:
    """Of `n` requests, `hits` had the property. Adding costs 0.06 µs."""

    __slots__ = ("hits", "n")

    def __init__(self, n: int = 0, hits: int = 0) -> None:
        self.n = n
        self.hits = hits

    @classmethod
    def of(cls, flat: Mapping[str, float]) -> Self:
        """Read back what `flat` gave; keys that are missing count as zero."""
        return cls(int(flat.get("n", 0)), int(flat.get("hits", 0)))

    @property
    def mean(self) -> float:
        """The share of hits; 0.0 without requests."""
        return self.hits / self.n if self.n else 0.0

    def add(self, hit: bool) -> None:
        """Count one request."""
        self.n += 1
        if hit:
            self.hits += 1

    def merge(self, other: Rate) -> None:
        """Add the counts of another process or time to these."""
        self.n += other.n
        self.hits += other.hits

    def minus(self, earlier: Rate) -> Rate:
        """Return what came after `earlier`, a state of the same counts."""
        return Rate(self.n - earlier.n, self.hits - earlier.hits)

    def copy(self) -> Rate:
        """Return an independent state, to take a window from later."""
        return Rate(self.n, self.hits)

    def flat(self) -> dict[str, float]:
        """Return the counts by name, for JSON; two such dicts merge by adding name by name."""
        return {"n": self.n, "hits": self.hits}


class Values:
    """Count, sum, sum of squares and a histogram of finite numbers.

    `add` only appends (0.1 µs). Whenever a sum is read, and at the latest after 1,024 values, what
    was appended is folded in at once (0.2 to 0.3 µs a value). The histogram is the logarithmic one
    of DDSketch (Masson, Rim and Lee, VLDB 2019): a quantile read from it is off by a factor of
    1.011 at most, and merged histograms give what one histogram of all values would.
    """

    __slots__ = ("_buckets", "_n", "_pending", "_squares", "_total")

    def __init__(
        self,
        n: int = 0,
        total: float = 0.0,
        squares: float = 0.0,
        buckets: Mapping[int, int] | None = None,
    ) -> None:
        self._n = n
        self._total = total
        self._squares = squares
        self._buckets = dict(buckets or ())
        self._pending: list[float] = []

    @classmethod
    def of(cls, flat: Mapping[str, float]) -> Self:
        """Read back what `flat` gave; keys that are missing count as zero."""
        buckets = {int(key[1:]): int(n) for key, n in flat.items() if key[0] == "b" and n}
        return cls(int(flat.get("n", 0)), flat.get("total", 0.0), flat.get("squares", 0.0), buckets)

    def add(self, value: float) -> None:
        """Count one value. ValueError if it is not finite; then nothing is counted."""
        if value - value != 0.0:  # the cheapest test for nan and both infinities
            raise ValueError("not a finite number")
        pending = self._pending
        pending.append(value)
        if len(pending) >= _PENDING:
            self._fold()

    @property
    def n(self) -> int:
        """How many values."""
        return self._n + len(self._pending)

    @property
    def total(self) -> float:
        """Their sum."""
        self._fold()
        return self._total

    @property
    def squares(self) -> float:
        """The sum of their squares."""
        self._fold()
        return self._squares

    @property
    def buckets(self) -> Mapping[int, int]:
        """How many values each bucket holds; `edge(i)` is the lower end of bucket i."""
        self._fold()
        return self._buckets

    @property
    def mean(self) -> float:
        """The average; 0.0 without values."""
        return self.total / self.n if self.n else 0.0

    def quantile(self, q: float) -> float:
        """Return the value that a share `q` of all lies at or below; 0.0 without values."""
        need = q * self.n
        seen = 0
        for bucket, count in sorted(self.buckets.items()):
            seen += count
            if seen >= need:
                return middle(bucket)
        return 0.0

    def merge(self, other: Values) -> None:
        """Add the sums of another process or time to these."""
        self._fold()
        buckets = self._buckets
        for bucket, count in other.buckets.items():
            buckets[bucket] = buckets.get(bucket, 0) + count
        self._n += other.n
        self._total += other.total
        self._squares += other.squares

    def minus(self, earlier: Values) -> Values:
        """Return what came after `earlier`, a state of the same sums."""
        left = {
            bucket: count - earlier.buckets.get(bucket, 0) for bucket, count in self.buckets.items()
        }
        return Values(
            self.n - earlier.n,
            self.total - earlier.total,
            max(0.0, self.squares - earlier.squares),
            {bucket: count for bucket, count in left.items() if count},
        )

    def copy(self) -> Values:
        """Return an independent state, to take a window from later."""
        return Values(self.n, self.total, self.squares, self.buckets)

    def flat(self) -> dict[str, float]:
        """Return all sums by name, for JSON; two such dicts merge by adding name by name."""
        flat: dict[str, float] = {"n": self.n, "total": self.total, "squares": self.squares}
        flat.update((f"b{bucket}", count) for bucket, count in self.buckets.items())
        return flat

    def _fold(self) -> None:
        pending = self._pending
        if not pending:
            return
        self._pending = []
        self._n += len(pending)
        self._total += sum(pending)
        self._squares += sum(map(mul, pending, pending))
        buckets = self._buckets
        if min(pending) <= SMALLEST:
            above = [value for value in pending if value > SMALLEST]
            buckets[0] = buckets.get(0, 0) + len(pending) - len(above)
            pending = above
        # Floats are counted and made integers afterwards: that halves the cost of a value.
        for place, count in Counter([x // _WIDTH for x in map(log, pending)]).items():
            bucket = int(place) + _OFFSET
            buckets[bucket] = buckets.get(bucket, 0) + count


Sums: TypeAlias = Rate | Values
"""What one metric of one arm is kept as."""


def edge(bucket: int) -> float:
    """Return the lower end of a bucket; minus infinity for bucket 0."""
    if bucket <= 0:
        return float("-inf")
    return exp2((bucket - _OFFSET) / BUCKETS_PER_OCTAVE)


def middle(bucket: int) -> float:
    """Return the value that stands for a bucket: its geometric middle, 0.0 for bucket 0."""
    if bucket <= 0:
        return 0.0
    return exp2((bucket - _OFFSET + 0.5) / BUCKETS_PER_OCTAVE)


def steps(ratio: float) -> float:
    """Return by how many buckets a factor moves values; not a whole number in general.

    ValueError if the factor is not positive and finite.
    """
    if not (ratio > 0 and isfinite(ratio)):
        raise ValueError("a ratio must be positive")
    return log2(ratio) * BUCKETS_PER_OCTAVE

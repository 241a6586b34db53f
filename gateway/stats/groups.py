"""By how much do requests of the same user or session blur a comparison?

A sticky split sends all requests of a key to one arm, and requests of one key resemble each other:
a user with a bad network cancels again and again. A hundred requests of ten users are then worth
hardly more than ten, and a test that takes them for a hundred finds differences that are none.

So the keys are hashed into 64 groups, and each arm keeps its sums by group. Groups hold different
keys, therefore they vary independently; how much more their sums vary than those of independent
requests would is the design effect (Kish 1965), the factor by which samples are overcounted. It is
estimated from the groups as in a survey with 64 random groups (Wolter, Introduction to Variance
Estimation, 2007, chapter 2; the "buckets" of web experiments). Its own error is about a sixth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from gateway.stats.sums import Rate, Sums

GROUPS = 64

_FEW = 8
"""With fewer groups their variance is a guess, and the worst is assumed."""


class Groups:
    """Count and sum of one arm's metric by group of keys. Adding costs 0.1 µs."""

    __slots__ = ("counts", "totals")

    def __init__(self) -> None:
        self.counts = [0] * GROUPS
        self.totals = [0.0] * GROUPS

    @classmethod
    def of(cls, flat: Mapping[str, float]) -> Self:
        """Read back what `flat` gave; keys that are missing count as zero."""
        groups = cls()
        for group in range(GROUPS):
            groups.counts[group] = int(flat.get(f"g{group}n", 0))
            groups.totals[group] = flat.get(f"g{group}t", 0.0)
        return groups

    def add(self, key: int, value: float) -> None:
        """Count a request of a key, given as a hash of it; a hit of a rate is 1.0."""
        group = key % GROUPS
        self.counts[group] += 1
        self.totals[group] += value

    def merge(self, other: Groups) -> None:
        """Add the sums of another process or time to these."""
        for group in range(GROUPS):
            self.counts[group] += other.counts[group]
            self.totals[group] += other.totals[group]

    def minus(self, earlier: Groups) -> Groups:
        """Return what came after `earlier`, a state of the same sums."""
        window = Groups()
        for group in range(GROUPS):
            window.counts[group] = self.counts[group] - earlier.counts[group]
            window.totals[group] = self.totals[group] - earlier.totals[group]
        return window

    def flat(self) -> dict[str, float]:
        """Return the sums by name, for JSON; no name of theirs is one of `Rate` or `Values`."""
        flat: dict[str, float] = {}
        for group, count in enumerate(self.counts):
            if count:
                flat[f"g{group}n"] = count
                flat[f"g{group}t"] = self.totals[group]
        return flat


def design_effect(arms: Sequence[tuple[Sums, Groups]]) -> float:
    """Return by what factor the variance of the arms' difference exceeds that of independence.

    At least 1, and at most what it would be if all requests of a group were the same. Arms that
    do not vary at all give 1.
    """
    independent = sum(_variance(sums) for sums, _ in arms)
    if independent <= 0.0:
        return 1.0
    samples = sum(sums.n for sums, _ in arms)
    groups = [_number(group) for _, group in arms]
    worst = samples / sum(groups)
    if min(groups) < _FEW:
        return max(1.0, worst)
    grouped = sum(_grouped(group) for _, group in arms)
    return max(1.0, min(grouped / independent, worst))


def crowding(arms: Sequence[Groups]) -> float:
    """Return how many requests make one assignment of a key: sum of r^2 / sum of r over the keys.

    r is the number of a key's requests. How much the groups differ in size shows it: the variance
    of a group's size is (sum of r^2) / 64 for keys that fall into groups at random. At least 1.
    """
    sizes = [sum(arm.counts[group] for arm in arms) for group in range(GROUPS)]
    n = sum(sizes)
    if not n:
        return 1.0
    spread = sum((size - n / GROUPS) ** 2 for size in sizes) * GROUPS / (GROUPS - 1)
    return max(1.0, spread / n)


def _variance(sums: Sums) -> float:
    """Return the variance of the mean of independent samples; 0.0 without samples."""
    if not sums.n:
        return 0.0
    mean = sums.mean
    squares = sums.hits if isinstance(sums, Rate) else sums.squares
    return max(0.0, squares / sums.n - mean * mean) / sums.n


def _number(groups: Groups) -> float:
    """Return how many groups of equal size would carry as much; 1.0 without samples."""
    squares = sum(count * count for count in groups.counts)
    return sum(groups.counts) ** 2 / squares if squares else 1.0


def _grouped(groups: Groups) -> float:
    """Return the variance of the mean of samples that depend on each other within groups."""
    n = sum(groups.counts)
    mean = sum(groups.totals) / n
    squares = sum(
        (total - mean * count) ** 2
        for count, total in zip(groups.counts, groups.totals, strict=True)
    )
    number = _number(groups)
    return squares / (n * n) * number / (number - 1)

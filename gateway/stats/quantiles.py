"""How do the p50, p95 or p99 of two arms compare, as a ratio, from histograms alone?

If x is the true q-quantile, a value lies at or below it with probability q, whatever the values'
distribution. So "b's quantile is r times a's" says: for some x, a share q of a lies below x and
a share q of b below r x. Its evidence is the least over x of the likelihood ratio of the two
counts, a profile likelihood (Howard and Ramdas, Bernoulli 2022, build quantile confidence
sequences from the same counts; Wilks 1938 for the profile). The ratio runs over powers of the
bucket width, so x and r x are in buckets that are a whole number apart, and what a bucket hides
is always taken to speak for the null: an interval is a bucket (2.2 %) too wide at either end, and
never too narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import numpy.typing as npt
from scipy.special import xlogy

from gateway.stats.sequential import Mixture, effective, rho2
from gateway.stats.sums import BUCKETS_PER_OCTAVE, Values, edge

Counts = npt.NDArray[np.float64]

_FARTHEST = 20 * BUCKETS_PER_OCTAVE
"""Ratios beyond 2^20 are as good as infinite."""


def ratio_interval(a: Values, b: Values, q: float, reach: float) -> tuple[float, float]:
    """Return the ratios of b's q-quantile to a's whose root stays within the reach.

    0 and infinity where the data set no limit. About 2 ms.
    """
    if not (a.n and b.n):
        return 0.0, inf
    comparison = _Shifts(a, b, q)
    centre = comparison.likeliest()
    beyond = reach * reach / 2
    low = _last_within(lambda by: comparison.evidence(centre - by) <= beyond, _FARTHEST)
    high = _last_within(lambda by: comparison.evidence(centre + by) <= beyond, _FARTHEST)
    return (
        0.0 if low is None else 2.0 ** ((centre - low - 1) / BUCKETS_PER_OCTAVE),
        inf if high is None else 2.0 ** ((centre + high + 1) / BUCKETS_PER_OCTAVE),
    )


def interval_of_one(b: Values, q: float, reach: float) -> tuple[float, float]:
    """Return the values that b's q-quantile may have; minus and plus infinity for no limit."""
    if not b.n:
        return -inf, inf
    first, below = _cumulated(b)
    evidence = b.n * _divergence(below / b.n, q)
    short = (below < q * b.n) & (evidence > reach * reach / 2)
    over = (below >= q * b.n) & (evidence > reach * reach / 2)
    # below[i] counts all up to the lower end of bucket first + i.
    low = edge(first + int(np.flatnonzero(short)[-1])) if short.any() else -inf
    high = edge(first + int(np.flatnonzero(over)[0])) if over.any() else inf
    return low, high


def p_value(a: Values, b: Values, q: float, alpha: float, tuned_for: float) -> float:
    """Return the always-valid p value of "the q-quantiles are equal"."""
    if not (a.n and b.n):
        return 1.0
    mixture = Mixture(effective(a.n, b.n), rho2(alpha, tuned_for))
    return float(mixture.p_value(np.sqrt(2 * _Shifts(a, b, q).evidence(0))))


class _Shifts:
    """The evidence against "b's quantile is a's, moved by so many buckets"."""

    __slots__ = ("_a", "_b", "_first_a", "_first_b", "_q")

    def __init__(self, a: Values, b: Values, q: float) -> None:
        self._first_a, self._a = _cumulated(a)
        self._first_b, self._b = _cumulated(b)
        self._q = q

    def likeliest(self) -> int:
        """Return how many buckets b's sample quantile lies above a's."""
        at_a = self._first_a + int(np.searchsorted(self._a, self._q * self._a[-1]))
        at_b = self._first_b + int(np.searchsorted(self._b, self._q * self._b[-1]))
        return at_b - at_a

    def evidence(self, shift: int) -> float:
        """Return the least log-likelihood ratio over where a's quantile may lie."""
        start = min(self._first_a, self._first_b - shift) - 1
        stop = max(self._first_a + len(self._a), self._first_b - shift + len(self._b))
        at = np.arange(start, stop)
        of_a = _box(self._a, at - self._first_a, self._q)
        of_b = _box(self._b, at + shift - self._first_b, self._q)
        return float(np.min(of_a + of_b))


def _cumulated(values: Values) -> tuple[int, Counts]:
    """Return the first bucket and, from it on, how many values lie below each lower bucket end."""
    buckets = values.buckets
    first = min(buckets)
    counts = np.zeros(max(buckets) - first + 2)
    for bucket, count in buckets.items():
        counts[bucket - first + 1] = count
    return first, np.cumsum(counts)


def _box(below: Counts, at: npt.NDArray[np.int64], q: float) -> Counts:
    """Return the least log-likelihood ratio of "a share q lies below x", x within each bucket."""
    n = below[-1]
    last = len(below) - 1
    least, most = below[np.clip(at, 0, last)] / n, below[np.clip(at + 1, 0, last)] / n
    return n * _divergence(np.clip(q, least, most), q)  # type: ignore[no-any-return]  # numpy's clip


def _divergence(share: Counts, q: float) -> Counts:
    gap = xlogy(share, share / q) + xlogy(1 - share, (1 - share) / (1 - q))
    return np.maximum(gap, 0.0)  # type: ignore[no-any-return]  # scipy has no types


def _last_within(within: Callable[[int], bool], limit: int) -> int | None:
    """Return the largest step that is within, None if the limit is; beyond it all are out."""
    if within(limit):
        return None
    low, high = 0, limit
    while high - low > 1:
        step = (low + high) // 2
        if within(step):
            low = step
        else:
            high = step
    return low

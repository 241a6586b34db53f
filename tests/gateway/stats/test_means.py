"""Does an average differ between two arms? With figures for what the tests promise."""

from collections.abc import Callable
from math import inf

import numpy as np
import pytest
from scipy import stats

from gateway.stats import means, samples
from gateway.stats.means import SMALLEST_ARM, Moments, moments
from gateway.stats.sequential import Mixture, effective, rho2
from gateway.stats.sums import Values
from tests.gateway.stats.simulation import Array, values

ALPHA = 0.05


def filled(numbers: Array) -> Values:
    sums = Values()
    for number in numbers:
        sums.add(float(number))
    return sums


def latencies(seed: int, n: int, median: float = 1.0) -> Values:
    return filled(median * np.random.default_rng(seed).lognormal(0.0, 0.7, n))


def test_welch_gives_the_numbers_of_scipy() -> None:
    """From sums alone: p value and interval."""
    x, y = np.random.default_rng(1).normal(3, 1, 80), np.random.default_rng(2).normal(3.4, 2, 50)
    want = stats.ttest_ind(y, x, equal_var=False)
    low, high = want.confidence_interval(1 - ALPHA)
    found = means.welch(filled(x), filled(y), ALPHA)
    assert found.value == pytest.approx(y.mean() - x.mean())
    assert found.p == pytest.approx(want.pvalue, rel=1e-9)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_welch_needs_two_values_and_something_that_varies() -> None:
    """Arms of zeros are equal, arms of different constants are not."""
    zeros = filled(np.zeros(5))
    assert means.welch(filled(np.ones(1)), zeros, ALPHA).p == 1.0
    assert means.welch(zeros, zeros, ALPHA).p == 1.0
    apart = means.welch(filled(np.full(50, 0.1)), filled(np.full(50, 0.2)), ALPHA)
    assert apart.p < 1e-9
    assert apart.low == pytest.approx(0.1, rel=1e-4)


def test_nothing_is_claimed_of_small_arms() -> None:
    """Neither by the root nor by any interval, until both have their 30 values."""
    few, many = latencies(1, SMALLEST_ARM - 1), latencies(2, 500, median=9.0)
    assert means.signed_root(moments(few), moments(many)) == 0.0
    assert means.interval(few, many, 2.0) == (-inf, inf)
    assert means.ratio_interval(few, many, 2.0) == (0.0, inf)
    assert means.interval_of_one(few, 2.0) == (-inf, inf)
    few.add(1.0)
    assert means.signed_root(moments(few), moments(many)) > 2.0


def test_the_interval_ends_where_the_root_reaches() -> None:
    """For the difference, for the ratio and for one arm."""
    a, b = latencies(3, 300), latencies(4, 80, median=1.2)
    low, high = means.interval(a, b, 2.5)
    assert low < b.mean - a.mean < high
    for end, sign in ((low, 1), (high, -1)):
        root = sign * float(means.signed_root(moments(a), moments(b), end))
        assert root == pytest.approx(2.5, rel=1e-6)
    low, high = means.ratio_interval(a, b, 2.5)
    assert low < b.mean / a.mean < high
    for end, sign in ((low, 1), (high, -1)):
        root = sign * float(means.signed_root(moments(a), moments(b), 0.0, end))
        assert root == pytest.approx(2.5, rel=1e-4)
    low, high = means.interval_of_one(b, 2.0)
    error = means.deviation(b) / np.sqrt(b.n)
    assert (high - low) / 2 == pytest.approx(2.0 * error, rel=0.03)


def test_a_ratio_has_no_upper_end_if_the_baseline_may_be_zero() -> None:
    """And no ends at all if it is."""
    rare = filled(np.r_[np.zeros(99), 5.0])
    low, high = means.ratio_interval(rare, latencies(5, 200), 3.0)
    assert low > 1.0
    assert high == inf
    assert means.ratio_interval(filled(np.zeros(99)), latencies(5, 200), 3.0) == (0.0, inf)


def test_an_arm_of_zeros_has_the_ratio_zero() -> None:
    low, high = means.ratio_interval(latencies(6, 200), filled(np.zeros(200)), 3.0)
    assert low == 0.0
    assert high < 0.01


def test_equal_constants_are_equal_whatever_rounding_leaves_of_them() -> None:
    """A hundred times a tenth is not ten; that is no evidence."""
    a, b = filled(np.full(1000, 0.1)), filled(np.full(333, 0.1))
    assert abs(float(means.signed_root(moments(a), moments(b)))) < 0.01


def test_different_constants_are_proof() -> None:
    a, b = filled(np.full(100, 1.0)), filled(np.full(100, 2.0))
    assert means.sequential(a, b, ALPHA, 200).p < 1e-6


def heavy(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return rng.lognormal(0.0, 1.0, shape)


def outliers(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    return np.where(rng.random(shape) < 0.01, 30.0, 1.0) + rng.random(shape)


@pytest.mark.parametrize(
    ("draw", "share_b"), [(heavy, 0.5), (heavy, 0.01), (outliers, 0.1), (outliers, 0.99)]
)
def test_a_look_after_every_sample_keeps_to_alpha_on_skewed_values(
    draw: Callable[[np.random.Generator, tuple[int, int]], Array], share_b: float
) -> None:
    """Two-sided and one-sided, 150 A/A runs of 20,000 samples of long-tailed latencies."""
    runs = 150
    wrong = np.zeros(3)
    for a, b in values(1, (runs, 20_000), draw, share_b):
        m = effective(a.n, b.n)
        root = means.signed_root(a, b)
        side = Mixture(m, rho2(2 * ALPHA, 200))
        for i, evidence in enumerate(
            (
                Mixture(m, rho2(ALPHA, 2500)).log_evidence(root),
                side.log_evidence_above(root),
                side.log_evidence_above(-root),
            )
        ):
            wrong[i] += (evidence >= -np.log(ALPHA)).any(axis=1).sum()
    assert (wrong <= stats.binom.ppf(0.999, runs, ALPHA)).all(), wrong / runs


def test_equal_means_of_unequal_spread_keep_to_alpha() -> None:
    """The smaller arm varies three times as much: where a pooled variance alone fails."""
    runs, wrong, pooled_wrong = 150, 0, 0
    for a, b in values(
        2, (runs, 20_000), lambda r, s: r.normal(0.0, 1.0, s), 0.1, lambda x: 3.0 * x
    ):
        m = effective(a.n, b.n)
        reach = Mixture(m, rho2(ALPHA, 2500)).reach(ALPHA)
        wrong += int((np.abs(means.signed_root(a, b)) >= reach).any(axis=1).sum())
        spread = a.squares - a.total**2 / np.maximum(a.n, 1)
        spread += b.squares - b.total**2 / np.maximum(b.n, 1)
        gap = b.total / np.maximum(b.n, 1) - a.total / np.maximum(a.n, 1)
        z = np.abs(gap) * np.sqrt(m * (a.n + b.n) / np.maximum(spread, 1e-9))
        pooled_wrong += int((z[:, 1000:] >= reach[:, 1000:]).any(axis=1).sum())
    assert wrong <= stats.binom.ppf(0.999, runs, ALPHA)
    assert pooled_wrong / runs > 0.2


def test_the_interval_covers_a_true_ratio_at_every_look() -> None:
    """b takes 1.3 times as long as a; all 5,000 looks of a run together."""
    runs, missed = 150, 0
    for a, b in values(3, (runs, 5000), heavy, 0.3, lambda x: 1.3 * x):
        reach = Mixture(effective(a.n, b.n), rho2(ALPHA, 2500)).reach(ALPHA)
        missed += int((np.abs(means.signed_root(a, b, 0.0, 1.3)) > reach).any(axis=1).sum())
    assert missed <= stats.binom.ppf(0.999, runs, ALPHA)


def test_a_true_difference_is_found_within_the_stated_samples() -> None:
    """A tenth of a deviation, power 0.8."""
    n = samples.for_sequential(1.0, 0.1, ALPHA, 0.8, 0.5, 2500)
    assert n < 2 * samples.for_means(1.0, 0.1, ALPHA, 0.8)
    runs, found = 300, 0
    for a, b in values(4, (runs, n), lambda r, s: r.normal(5.0, 1.0, s), 0.5, lambda x: x + 0.1):
        reach = Mixture(effective(a.n, b.n), rho2(ALPHA, 2500)).reach(ALPHA)
        found += int((means.signed_root(a, b) >= reach).any(axis=1).sum())
    assert found / runs >= 0.8


def test_moments_are_those_of_the_values() -> None:
    assert moments(filled(np.array([1.0, 2.0]))) == Moments(2.0, 3.0, 5.0)
    assert means.deviation(filled(np.array([1.0, 3.0]))) == pytest.approx(np.sqrt(2))
    assert means.deviation(Values()) == 0.0

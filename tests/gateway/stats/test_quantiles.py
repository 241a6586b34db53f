"""How do quantiles of two arms compare, from histograms alone?"""

from math import inf

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gateway.stats import quantiles
from gateway.stats.sequential import Mixture, effective, rho2
from gateway.stats.sums import BUCKETS_PER_OCTAVE, Values

ALPHA = 0.05
BUCKET = 2 ** (1 / BUCKETS_PER_OCTAVE)


def filled(numbers: npt.NDArray[np.float64]) -> Values:
    sums = Values()
    for number in numbers:
        sums.add(float(number))
    return sums


def drawn(seed: int, n: int, median: float = 1.0) -> Values:
    return filled(median * np.random.default_rng(seed).lognormal(0.0, 0.8, n))


@settings(deadline=None)  # other work on the machine is no failure
@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.95, 0.99]), st.floats(1.0, 4.0))
def test_the_interval_holds_the_ratio_of_the_samples(seed: int, q: float, reach: float) -> None:
    """And a wider reach holds a narrower one."""
    a, b = drawn(seed, 200), drawn(seed + 1, 60, median=2.0)
    low, high = quantiles.ratio_interval(a, b, q, reach)
    assert low <= b.quantile(q) / a.quantile(q) <= high
    wider = quantiles.ratio_interval(a, b, q, reach + 0.5)
    assert wider[0] <= low
    assert high <= wider[1]


def test_the_ratio_of_swapped_arms_is_the_inverse() -> None:
    a, b = drawn(1, 500), drawn(2, 300, median=1.5)
    low, high = quantiles.ratio_interval(a, b, 0.9, 2.0)
    back = quantiles.ratio_interval(b, a, 0.9, 2.0)
    assert (1 / back[1], 1 / back[0]) == (
        pytest.approx(low, rel=0.03),
        pytest.approx(high, rel=0.03),
    )


def test_scaling_an_arm_moves_the_interval_with_it() -> None:
    """By exactly the factor, if it is a whole number of buckets."""
    x = np.random.default_rng(3).lognormal(0.0, 0.8, 500)
    a = drawn(4, 500)
    low, high = quantiles.ratio_interval(a, filled(x), 0.5, 2.5)
    assert quantiles.ratio_interval(a, filled(4 * x), 0.5, 2.5) == (4 * low, 4 * high)


def test_few_samples_set_no_limit_where_they_cannot() -> None:
    """Of 20 values, none need lie beyond the p99."""
    few, many = drawn(5, 20), drawn(6, 5000)
    assert quantiles.ratio_interval(many, few, 0.99, 3.0)[1] == inf
    assert quantiles.ratio_interval(few, many, 0.99, 3.0)[0] == 0.0
    assert quantiles.interval_of_one(few, 0.99, 3.0)[1] == inf


def test_empty_arms_say_nothing() -> None:
    assert quantiles.ratio_interval(Values(), drawn(1, 9), 0.5, 2.0) == (0.0, inf)
    assert quantiles.interval_of_one(Values(), 0.5, 2.0) == (-inf, inf)
    assert quantiles.p_value(Values(), drawn(1, 9), 0.5, ALPHA, 100) == 1.0


def test_arms_of_one_value_each_have_its_ratio_to_a_bucket() -> None:
    a, b = filled(np.full(400, 1.0)), filled(np.full(400, 3.0))
    low, high = quantiles.ratio_interval(a, b, 0.5, 3.0)
    assert low <= 3.0 <= high
    assert high / low < BUCKET**4


def test_one_arm_is_bounded_like_the_order_statistics_of_its_sample() -> None:
    """The binomial interval for the median of 1,000, to a bucket at either end."""
    x = np.sort(np.random.default_rng(7).lognormal(0.0, 0.8, 1000))
    low, high = quantiles.interval_of_one(filled(x), 0.5, 1.96)
    first, last = 500 - round(1.96 * np.sqrt(250)), 500 + round(1.96 * np.sqrt(250))
    assert x[first] / BUCKET**2 < low < x[first] * BUCKET**2
    assert x[last] / BUCKET**2 < high < x[last] * BUCKET**2


def test_equal_arms_are_no_evidence_and_shifted_ones_are() -> None:
    a = drawn(8, 3000)
    assert quantiles.p_value(a, drawn(9, 3000), 0.95, ALPHA, 200) > ALPHA
    assert quantiles.p_value(a, drawn(9, 3000, median=1.5), 0.95, ALPHA, 200) < 0.001


@pytest.mark.parametrize(("q", "share_b"), [(0.5, 0.5), (0.95, 0.1)])
def test_many_looks_keep_to_alpha(q: float, share_b: float) -> None:
    """60 A/A runs of 20,000 samples, 45 looks each, the first after 4 samples."""
    runs, wrong = 60, 0
    looks = np.unique(np.geomspace(4, 20_000, 45).astype(int))
    rng = np.random.default_rng(10)
    for _ in range(runs):
        x, in_b = rng.lognormal(0.0, 1.0, 20_000), rng.random(20_000) < share_b
        buckets = np.floor(np.log2(x) * BUCKETS_PER_OCTAVE + 2000).astype(int)
        counts = np.zeros((2, 4000), dtype=int)
        seen, failed = 0, False
        for look in looks:
            np.add.at(counts, (in_b[seen:look].astype(int), buckets[seen:look]), 1)
            seen = int(look)
            n_a, n_b = counts.sum(axis=1)
            if not (n_a and n_b):
                continue
            arms = [
                Values(int(of.sum()), buckets={int(i): int(of[i]) for i in np.flatnonzero(of)})
                for of in counts
            ]
            failed = failed or quantiles.p_value(arms[0], arms[1], q, ALPHA, 200) <= ALPHA
        wrong += failed
    assert wrong <= stats.binom.ppf(0.999, runs, ALPHA)


def test_a_slow_canary_is_found_within_some_hundred_of_its_requests() -> None:
    """p95 twice the baseline's, a tenth of the traffic."""
    rng = np.random.default_rng(12)
    a, b = Values(), Values()
    for n in range(1, 20_000):
        if n % 10:
            a.add(float(rng.lognormal(0.0, 0.5)))
        else:
            b.add(float(2 * rng.lognormal(0.0, 0.5)))
            reach = Mixture(effective(a.n, b.n), rho2(2 * ALPHA, 200)).reach_above(ALPHA)
            if quantiles.ratio_interval(a, b, 0.95, float(reach))[0] > 1.2:
                break
    assert b.n < 400

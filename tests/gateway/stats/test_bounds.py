"""What do the bounds prove of a limit: that it holds, that it is broken, or nothing yet?"""

from __future__ import annotations

import random

import pytest

from gateway.stats import bounds
from gateway.stats.bounds import Bounds
from gateway.stats.sums import Rate, Values

ALPHA, TUNED_FOR = 0.05, 200.0
FAILS, HOLDS, OPEN = "fails", "holds", "open"


def drawn(seed: int, n: int, median: float) -> Values:
    rng = random.Random(seed)
    sums = Values()
    for _ in range(n):
        sums.add(median * rng.lognormvariate(0.0, 0.5))
    return sums


def proven(found: Bounds, at_most: float, at_least: float = float("-inf")) -> str:
    low, high = found
    assert low <= high
    if low > at_most or high < at_least:
        return FAILS
    return HOLDS if at_least <= low and high <= at_most else OPEN


def share(b: Rate, alpha: float = ALPHA) -> str:
    return proven(bounds.share(b, alpha, TUNED_FOR), 0.05)


def rise(a: Rate, b: Rate) -> str:
    return proven(bounds.share_rise(a, b, ALPHA, TUNED_FOR), 0.01)


@pytest.mark.parametrize(
    ("b", "verdict"),
    [
        (Rate(200, 30), FAILS),
        (Rate(2000, 20), HOLDS),
        (Rate(20, 2), OPEN),
        (Rate(3, 3), OPEN),
        (Rate(), OPEN),
    ],
)
def test_a_share_is_proven_by_its_bound_not_by_its_point(b: Rate, verdict: str) -> None:
    """At most 5 %: three failures out of three are no evidence yet."""
    assert share(b) == verdict


@pytest.mark.parametrize(
    ("b", "verdict"), [(Rate(100, 12), FAILS), (Rate(3000, 33), HOLDS), (Rate(100, 3), OPEN)]
)
def test_a_rise_is_one_above_the_baseline_of_the_same_time(b: Rate, verdict: str) -> None:
    """At most one point above a baseline of 1 %."""
    assert rise(Rate(10_000, 100), b) == verdict


def test_a_flaky_baseline_excuses_its_canary() -> None:
    """The same 12 % of errors fail only where the baseline has fewer."""
    b = Rate(500, 60)
    assert rise(Rate(5000, 50), b) == FAILS
    assert rise(Rate(5000, 600), b) == OPEN


@pytest.mark.parametrize(
    ("median", "n", "verdict"), [(2.0, 400, FAILS), (1.0, 4000, HOLDS), (2.0, 10, OPEN)]
)
def test_a_quantile_as_a_ratio(median: float, n: int, verdict: str) -> None:
    """p95 at most 1.3 times the baseline's."""
    a, b = drawn(1, 5000, 1.0), drawn(2, n, median)
    assert proven(bounds.quantile_ratio(a, b, 0.95, ALPHA, TUNED_FOR), 1.3) == verdict


def test_a_quantile_by_itself() -> None:
    found = bounds.quantile(drawn(3, 3000, 1.0), 0.5, ALPHA, TUNED_FOR)
    assert [proven(found, limit) for limit in (0.8, 1.2, 1.0)] == [FAILS, HOLDS, OPEN]
    assert proven(bounds.quantile(Values(), 0.5, ALPHA, TUNED_FOR), 1.0) == OPEN


@pytest.mark.parametrize(
    ("n", "median", "verdict"),
    [(3000, 200.0, HOLDS), (3000, 100.0, FAILS), (3000, 400.0, FAILS), (29, 400.0, OPEN)],
)
def test_a_mean_between_two_limits(n: int, median: float, verdict: str) -> None:
    """Neither much longer nor much shorter."""
    found = bounds.mean_ratio(drawn(4, 3000, 200.0), drawn(5, n, median), ALPHA, TUNED_FOR)
    assert proven(found, 1.25, 0.8) == verdict


def test_several_gates_share_the_error_out() -> None:
    """Each becomes more careful."""
    b = Rate(100, 13)
    assert share(b) == FAILS
    assert share(b, ALPHA / 20) == OPEN


def test_a_power_of_two_of_the_unit_changes_no_bound() -> None:
    """Buckets are of that width: seconds or parts of them are the same."""
    a, b = drawn(7, 400, 1.0), drawn(8, 400, 1.5)
    in_parts = drawn(7, 400, 1024.0), drawn(8, 400, 1536.0)
    one = bounds.mean_ratio(a, b, ALPHA, TUNED_FOR)
    assert one == pytest.approx(bounds.mean_ratio(*in_parts, ALPHA, TUNED_FOR), rel=1e-4)

"""Does an arm keep a limit, break it, or can nobody say yet?"""

import random
from math import inf

import pytest

from gateway.stats.sums import Rate, Values
from gateway.stats.verdict import (
    Certainty,
    Verdict,
    mean_ratio_within,
    quantile_at_most,
    quantile_ratio_at_most,
    share_at_most,
    share_rise_at_most,
)

FAILS, HOLDS, OPEN = Verdict.FAILS, Verdict.HOLDS, Verdict.OPEN


def drawn(seed: int, n: int, median: float) -> Values:
    rng = random.Random(seed)
    sums = Values()
    for _ in range(n):
        sums.add(median * rng.lognormvariate(0.0, 0.5))
    return sums


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
def test_a_share_is_judged_by_its_bound_not_by_its_point(b: Rate, verdict: Verdict) -> None:
    """At most 5 %: three failures out of three are no evidence yet."""
    judged = share_at_most(b, 0.05)
    assert judged.verdict is verdict
    assert judged.low <= judged.value <= judged.high
    assert (judged.at_least, judged.at_most) == (-inf, 0.05)
    assert (judged.samples_a, judged.samples_b) == (0, b.n)


@pytest.mark.parametrize(
    ("b", "verdict"), [(Rate(100, 12), FAILS), (Rate(3000, 33), HOLDS), (Rate(100, 3), OPEN)]
)
def test_a_rise_is_judged_against_the_baseline_of_the_same_time(b: Rate, verdict: Verdict) -> None:
    """At most one point above a baseline of 1 %."""
    judged = share_rise_at_most(Rate(10_000, 100), b, 0.01)
    assert judged.verdict is verdict
    assert judged.value == pytest.approx(b.mean - 0.01)


def test_a_flaky_baseline_excuses_its_canary() -> None:
    """The same 12 % of errors fail only where the baseline has fewer."""
    b = Rate(500, 60)
    assert share_rise_at_most(Rate(5000, 50), b, 0.01).verdict is FAILS
    assert share_rise_at_most(Rate(5000, 600), b, 0.01).verdict is OPEN


@pytest.mark.parametrize(
    ("median", "n", "verdict"), [(2.0, 400, FAILS), (1.0, 4000, HOLDS), (2.0, 10, OPEN)]
)
def test_a_quantile_is_judged_as_a_ratio(median: float, n: int, verdict: Verdict) -> None:
    """p95 at most 1.3 times the baseline's."""
    judged = quantile_ratio_at_most(drawn(1, 5000, 1.0), drawn(2, n, median), 0.95, 1.3)
    assert judged.verdict is verdict
    assert judged.low <= judged.value <= judged.high


def test_a_quantile_is_judged_by_itself() -> None:
    b = drawn(3, 3000, 1.0)
    assert quantile_at_most(b, 0.5, 0.8).verdict is FAILS
    assert quantile_at_most(b, 0.5, 1.2).verdict is HOLDS
    assert quantile_at_most(b, 0.5, 1.0).verdict is OPEN
    assert quantile_at_most(Values(), 0.5, 1.0).verdict is OPEN


def test_a_mean_must_keep_between_two_limits() -> None:
    """Output lengths: neither much longer nor much shorter."""
    a = drawn(4, 3000, 200.0)
    assert mean_ratio_within(a, drawn(5, 3000, 200.0), 0.8, 1.25).verdict is HOLDS
    assert mean_ratio_within(a, drawn(5, 3000, 100.0), 0.8, 1.25).verdict is FAILS
    assert mean_ratio_within(a, drawn(5, 3000, 400.0), 0.8, 1.25).verdict is FAILS
    assert mean_ratio_within(a, drawn(5, 29, 400.0), 0.8, 1.25).verdict is OPEN


def test_ratios_to_nothing_are_infinite_and_of_nothing_to_nothing_one() -> None:
    """And are no evidence."""
    assert mean_ratio_within(Values(), drawn(1, 50, 1.0), 0.5, 2.0).value == inf
    empty = quantile_ratio_at_most(Values(), Values(), 0.95, 1.2)
    assert (empty.value, empty.verdict) == (1.0, OPEN)


def test_several_gates_share_the_error_out() -> None:
    """Each becomes more careful."""
    assert Certainty(alpha=0.05).among(5).alpha == pytest.approx(0.01)
    assert Certainty().among(0) == Certainty()
    b = Rate(100, 13)
    assert share_at_most(b, 0.05).verdict is FAILS
    assert share_at_most(b, 0.05, Certainty().among(20)).verdict is OPEN


@pytest.mark.parametrize("wrong", [{"alpha": 0.0}, {"alpha": 0.7}, {"tuned_for": 0.0}], ids=str)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="lies"):
        Certainty(**wrong)


def test_scaling_of_time_units_does_not_change_a_verdict() -> None:
    """Milliseconds and seconds, a power of two apart or not."""
    a, b = drawn(7, 400, 1.0), drawn(8, 400, 1.5)
    in_ms_a, in_ms_b = drawn(7, 400, 1000.0), drawn(8, 400, 1500.0)
    one = mean_ratio_within(a, b, 0.5, 1.2)
    other = mean_ratio_within(in_ms_a, in_ms_b, 0.5, 1.2)
    assert one.verdict is other.verdict
    assert one.low == pytest.approx(other.low, rel=1e-4)

"""What a process keeps of an arm's measurements."""

import json
import math
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.stats.sums import SMALLEST, Rate, Values, edge, middle, steps

some_values = st.lists(st.floats(0, 1e6), max_size=50)


def filled(values: list[float]) -> Values:
    sums = Values()
    for value in values:
        sums.add(value)
    return sums


def same(left: Values, right: Values) -> bool:
    return (
        left.n == right.n
        and left.buckets == right.buckets
        and math.isclose(left.total, right.total, rel_tol=1e-9, abs_tol=1e-9)
        and math.isclose(left.squares, right.squares, rel_tol=1e-9, abs_tol=1e-9)
    )


def test_a_rate_counts_requests_and_hits() -> None:
    """The mean is the share of hits."""
    rate = Rate()
    for hit in (True, False, False, True):
        rate.add(hit)
    assert (rate.n, rate.hits, rate.mean) == (4, 2, 0.5)


def test_a_rate_without_requests_has_the_share_zero() -> None:
    assert Rate().mean == 0.0


def test_a_window_of_a_rate_is_the_difference_of_two_states() -> None:
    """Merging the window into the earlier state gives the later one back."""
    earlier = Rate(10, 3)
    later = earlier.copy()
    later.merge(Rate(15, 1))
    window = later.minus(earlier)
    assert (window.n, window.hits) == (15, 1)
    earlier.merge(window)
    assert (earlier.n, earlier.hits) == (25, 4)


def test_a_rate_survives_json() -> None:
    back = Rate.of(json.loads(json.dumps(Rate(7, 2).flat())))
    assert (back.n, back.hits) == (7, 2)
    assert Rate.of({}).n == 0


@settings(deadline=None)  # other work on the machine is no failure
@given(some_values, some_values)
def test_merging_gives_what_one_process_would_have_kept(
    left: list[float], right: list[float]
) -> None:
    """Over any split of the values between two processes."""
    merged = filled(left)
    merged.merge(filled(right))
    assert same(merged, filled(left + right))


@settings(deadline=None)  # other work on the machine is no failure
@given(some_values, some_values)
def test_a_window_is_what_came_between_two_states(before: list[float], after: list[float]) -> None:
    """Taken from a copy, which later values leave alone."""
    sums = filled(before)
    earlier = sums.copy()
    for value in after:
        sums.add(value)
    assert earlier.n == len(before)
    window = sums.minus(earlier)
    assert window.n == len(after)
    assert window.buckets == filled(after).buckets
    assert math.isclose(window.total, sum(after), rel_tol=1e-6, abs_tol=1e-6 * (1 + sum(before)))
    assert window.squares >= 0.0


@settings(deadline=None)  # other work on the machine is no failure
@given(some_values, some_values)
def test_flat_forms_merge_by_adding_name_by_name(left: list[float], right: list[float]) -> None:
    """As the store does, which knows nothing of histograms."""
    added = filled(left).flat()
    for name, number in json.loads(json.dumps(filled(right).flat())).items():
        added[name] = added.get(name, 0) + number
    assert same(Values.of(added), filled(left + right))


def test_missing_names_count_as_nothing_and_empty_buckets_vanish() -> None:
    assert Values.of({}).n == 0
    assert Values.of({"n": 0, "b5": 0}).buckets == {}


def test_a_full_buffer_is_folded_in_at_once() -> None:
    """Memory is bounded between two reads."""
    sums = Values()
    for _ in range(1024):
        sums.add(2.0)
    assert len(sums._pending) == 0
    sums.add(2.0)
    assert (sums.n, sums.total, sums.squares) == (1025, 2050.0, 4100.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_and_not_counted(value: float) -> None:
    sums = Values()
    with pytest.raises(ValueError, match="finite"):
        sums.add(value)
    assert sums.n == 0


def test_quantiles_are_within_two_percent_of_the_sorted_values() -> None:
    """Of a long-tailed sample of 10,000."""
    rng = random.Random(4)
    values = sorted(rng.lognormvariate(-1, 1.2) for _ in range(10_000))
    sums = filled(values)
    for q in (0.01, 0.5, 0.95, 0.99, 1.0):
        true = values[max(math.ceil(q * len(values)) - 1, 0)]
        assert sums.quantile(q) == pytest.approx(true, rel=0.0111)


def test_an_empty_arm_has_the_mean_and_quantile_zero() -> None:
    assert Values().mean == 0.0
    assert Values().quantile(0.5) == 0.0


def test_zero_negative_and_tiny_values_share_the_lowest_bucket() -> None:
    """It is shown as zero, and has no lower end."""
    sums = filled([0.0, -3.0, SMALLEST])
    assert sums.buckets == {0: 3}
    assert sums.quantile(0.9) == 0.0
    assert edge(0) == -math.inf


@settings(deadline=None)  # other work on the machine is no failure
@given(st.floats(1e-8, 1e8))
def test_a_value_lies_in_its_bucket(value: float) -> None:
    """To the rounding of the logarithm."""
    (bucket,) = filled([value]).buckets
    assert edge(bucket) * (1 - 1e-9) <= value <= edge(bucket + 1) * (1 + 1e-9)
    assert middle(bucket) == pytest.approx(value, rel=0.0111)


def test_doubling_moves_values_by_a_whole_number_of_buckets() -> None:
    assert steps(2.0) == 32
    assert steps(0.5) == -32
    (low,), (high,) = filled([0.3]).buckets, filled([0.6]).buckets
    assert high - low == 32


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan])
def test_a_ratio_must_be_positive_and_finite(ratio: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        steps(ratio)


def test_neither_sums_nor_questions_load_numpy_before_they_are_asked() -> None:
    """A process that never analyses pays neither time nor memory for it."""
    code = (
        "import sys, gateway.stats.sums, gateway.stats.metrics, gateway.stats.compare;"
        "sys.exit('numpy' in sys.modules or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""A retry budget bounds what retries add, and never forbids the few that low traffic needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.budget import KEPT_S, RetryBudget


def spend(budget: RetryBudget, now: float, most: int = 10_000) -> int:
    """Take all the retries that there are."""
    return next(taken for taken in range(most) if not budget.withdraw(now))


def after(
    requests: int, now: float = 0.0, percent: float = 20, min_per_s: float = 3
) -> RetryBudget:
    budget = RetryBudget(percent, min_per_s)
    for _ in range(requests):
        budget.request(now)
    return budget


@pytest.mark.parametrize(
    ("requests", "percent", "min_per_s", "retries"),
    [
        (0, 20, 3, 3),
        (4, 20, 3, 3),
        (15, 20, 3, 3),
        (16, 20, 3, 3),
        (20, 20, 3, 4),
        (100, 20, 3, 20),
        (100, 20, 0, 20),
        (4, 20, 0, 0),
        (100, 0, 3, 3),
        (100, 0, 0, 0),
        (100, 100, 0, 100),
        (0, 20, 0.5, 1),
        (0, 20, 2.5, 2),
    ],
)
def test_a_burst_has_its_share_or_the_floor(
    requests: int, percent: float, min_per_s: float, retries: int
) -> None:
    """The larger of both, not their sum."""
    assert spend(after(requests, 7.0, percent, min_per_s), 7.0) == retries


def test_a_refusal_takes_nothing() -> None:
    """Asking in vain does not put the next retry off."""
    budget = after(0, min_per_s=1)
    assert [budget.withdraw(now) for now in (0.0, 0.5, 0.75, 1.0)] == [True, False, False, True]


def test_a_part_of_a_retry_is_kept() -> None:
    """The fifth request makes a whole of what the others left."""
    budget = after(4, min_per_s=0)
    assert not budget.withdraw(0.0)
    budget.request(0.5)
    assert budget.withdraw(0.5)
    assert not budget.withdraw(0.5)


@pytest.mark.parametrize(("later_s", "retries"), [(8.9, 20), (9.0, 20), (9.9, 20), (10.0, 0)])
def test_deposits_expire(later_s: float, retries: int) -> None:
    """A quiet hour does not save up for a storm."""
    assert spend(after(100, 5.0, min_per_s=0), 5.0 + later_s) == retries


def test_what_expires_first_is_spent_first() -> None:
    """So that old deposits are not lost while new ones pay."""
    budget = after(50, 0.0, min_per_s=0)
    for _ in range(50):
        budget.request(5.0)
    assert [budget.withdraw(5.0) for _ in range(10)] == [True] * 10
    assert spend(budget, 10.0) == 10


def test_a_deposit_made_late_lives_as_long_as_one_made_early() -> None:
    """Also over seconds in which nothing happens, and from a clock that does not begin at 0."""
    budget = after(5, 100_000.9, min_per_s=0)
    assert budget.withdraw(100_009.9)
    budget.request(100_009.9)
    assert spend(budget, 200_000.0) == 0


def test_the_reserve_grows_with_time_to_one_seconds_worth() -> None:
    """Three a second with no traffic to speak of."""
    budget = after(0)
    assert [spend(budget, now) for now in (0.0, 0.34, 0.67, 1.01, 3.0, 60.0)] == [3, 1, 1, 1, 3, 3]


def test_time_that_seems_to_go_back_gives_nothing() -> None:
    """A caller may have read the clock a little earlier."""
    budget = after(0)
    assert [spend(budget, now) for now in (1.0, 0.9, 1.0)] == [3, 0, 0]


STEPS = st.lists(st.tuples(st.floats(0, 3), st.integers(0, 40), st.integers(0, 40)), max_size=40)


@given(STEPS, st.sampled_from([0, 1, 10, 20, 33.3, 100]), st.sampled_from([0, 0.5, 1, 3, 10]))
def test_retries_never_exceed_the_bound(
    steps: list[tuple[float, int, int]], percent: float, min_per_s: float
) -> None:
    """Any stretch of T seconds: D * n + F + M * T, n counted from 10 s before it."""
    budget = RetryBudget(percent, min_per_s)
    floor = max(min_per_s, 1.0) if min_per_s else 0.0
    now, past = 0.0, [(0.0, 0, 0)]
    for pause_s, requests, wanted in steps:
        now += pause_s
        for _ in range(requests):
            budget.request(now)
        past.append((now, requests, sum(budget.withdraw(now) for _ in range(wanted))))
    for first, (begun, _, _) in enumerate(past):
        counted = sum(count for at, count, _ in past if at > begun - KEPT_S)
        retries = sum(taken for _, _, taken in past[first:])
        bound = percent / 100 * counted + floor + min_per_s * (now - begun)
        assert retries <= bound + 1e-6


@given(st.floats(15, 2000), st.integers(1, 3000), st.floats(0, 1e6))
def test_steady_traffic_that_all_fails_is_1_2_attempts_a_request(
    per_s: float, requests: int, began: float
) -> None:
    """The reserve is not added to the share, for however long it lasts; nor is the share denied."""
    budget = RetryBudget(20, 3)
    retries = 0
    for number in range(requests):
        now = began + number / per_s
        budget.request(now)
        retries += budget.withdraw(now) + budget.withdraw(now)
    assert requests // 5 <= retries <= 0.2 * requests + 3


@given(st.lists(st.floats(0, 30), max_size=20), st.integers(0, 30))
def test_after_a_second_without_retries_the_floor_is_free(
    pauses_s: list[float], requests: int
) -> None:
    """Low traffic always can retry."""
    budget, now = RetryBudget(20, 3), 0.0
    for pause_s in pauses_s:
        now += pause_s
        for _ in range(requests):
            budget.request(now)
        spend(budget, now)
    assert spend(budget, now + 1.001) >= 3


@pytest.mark.parametrize(("now", "left"), [(19.9, 10), (20.0, 9), (24.5, 5), (28.0, 1), (29.0, 0)])
def test_each_second_expires_on_its_own(now: float, left: int) -> None:
    """What came in one second after another goes in one second after another."""
    budget = RetryBudget(100, 0)
    for second in range(20):
        budget.request(float(second))
    assert spend(budget, now) == left

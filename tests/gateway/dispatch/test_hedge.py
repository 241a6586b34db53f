"""A hedge starts when an attempt is slower than nearly all others, if load and budget allow."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.cluster import Hedging
from gateway.dispatch.budget import RetryBudget
from gateway.dispatch.hedge import ENOUGH, SIZE, STALE, Recent, hedge_after, may_hedge

ON = Hedging(enabled=True)


def observed(*times: float) -> Recent:
    recent = Recent()
    for seconds in times:
        recent.observe(seconds)
    return recent


def test_a_few_times_tell_nothing() -> None:
    """Twenty do."""
    recent = observed(*[1.0] * (ENOUGH - 1))
    assert recent.quantile(0.95) is None
    recent.observe(1.0)
    assert recent.quantile(0.95) == 1.0


@given(
    st.lists(st.floats(0, 100), min_size=ENOUGH, max_size=2 * SIZE + 40),
    st.floats(0, 1),
)
def test_the_quantile_is_of_the_last_times(times: list[float], share: float) -> None:
    """Nearest rank over as many as are remembered."""
    last = sorted(times[-SIZE:])
    assert observed(*times).quantile(share) == last[max(0, ceil(share * len(last)) - 1)]


@pytest.mark.parametrize(
    ("share", "seconds"), [(0.0, 1.0), (0.5, 50.0), (0.95, 95.0), (0.999, 100.0), (1.0, 100.0)]
)
def test_known_quantiles(share: float, seconds: float) -> None:
    """Of 1 to 100 s."""
    assert observed(*map(float, range(100, 0, -1))).quantile(share) == seconds


def test_new_times_count_from_the_sixteenth_on() -> None:
    """Sorting for each would cost more than it tells."""
    recent = observed(*[1.0] * SIZE)
    assert recent.quantile(1.0) == 1.0
    for _ in range(STALE - 1):
        recent.observe(9.0)
        assert recent.quantile(1.0) == 1.0
    recent.observe(9.0)
    assert recent.quantile(1.0) == 9.0


def test_old_times_are_forgotten() -> None:
    """A slow hour does not hold hedges off for ever."""
    recent = observed(*[9.0] * SIZE, *[1.0] * SIZE)
    assert recent.quantile(1.0) == 1.0


def test_a_hedge_waits_for_the_quantile() -> None:
    """The configured one; and there is none to wait for when hedging is off."""
    recent = observed(*map(float, range(1, 101)))
    assert hedge_after(ON, recent) == 95.0
    assert hedge_after(Hedging(enabled=True, quantile=0.5), recent) == 50.0
    assert hedge_after(Hedging(), recent) is None
    assert hedge_after(ON, observed()) is None


@pytest.mark.parametrize(
    ("inflight", "capacity", "allowed"),
    [
        (1, 10, True),
        (7, 10, True),
        (8, 10, False),
        (10, 10, False),
        (1, 1, False),
        (10**6, None, True),
    ],
)
def test_a_busy_cluster_is_not_made_busier(
    inflight: int, capacity: int | None, allowed: bool
) -> None:
    """Up to 70 % of what it may work on; and a refusal costs the budget nothing."""
    budget = RetryBudget(0, 1)
    assert may_hedge(ON, inflight, capacity, budget, 5.0) is allowed
    assert budget.withdraw(5.0) is not allowed


def test_a_hedge_is_paid_for_like_a_retry() -> None:
    """Three a second without traffic, then no more."""
    budget = RetryBudget(20, 3)
    assert [may_hedge(ON, 1, None, budget, 5.0) for _ in range(4)] == [True, True, True, False]


def test_hedging_is_off_unless_asked_for() -> None:
    """And costs nothing then."""
    budget = RetryBudget(0, 1)
    assert not may_hedge(Hedging(), 1, 10, budget, 5.0)
    assert budget.withdraw(5.0)

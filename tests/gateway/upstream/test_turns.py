"""Turns are fair, also while the candidates change."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.candidate import SPARE
from gateway.upstream.traits import STREAM
from gateway.upstream.turns import RoundRobin, Weighted
from tests.support.candidates import FakeEndpoint, fakes


@given(st.integers(1, 5), st.integers(1, 30))
def test_round_robin_is_even(count: int, picks: int) -> None:
    """No endpoint is ever more than one request ahead of another."""
    balancer, pool = RoundRobin(), fakes(count)
    taken = Counter(balancer.pick(pool, STREAM, 0.0) for _ in range(picks))
    shares = [taken[one] for one in pool]
    assert max(shares) - min(shares) <= 1


def test_round_robin_starts_with_the_first() -> None:
    """In the order of the configuration."""
    balancer, pool = RoundRobin(), fakes(3)
    assert [balancer.pick(pool, STREAM, 0.0) for _ in range(4)] == [*pool, pool[0]]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_round_robin_does_not_favour_the_neighbours_of_absent_ones(absent: list[int]) -> None:
    """Always the one goes next whose last turn is the longest ago, of those that may."""
    balancer, pool = RoundRobin(), fakes(4)
    turns = [
        balancer.pick([one for one in pool if one is not pool[out]], STREAM, 0.0) for out in absent
    ]
    for number, (turn, out) in enumerate(zip(turns, absent, strict=True)):
        waiting = [one for one in pool if one is not pool[out]]
        last = {one: max((i for i in range(number) if turns[i] is one), default=-1) for one in pool}
        assert last[turn] == min(last[one] for one in waiting)


def test_round_robin_stays_even_when_retries_leave_one_out() -> None:
    """Each second pick is a retry that may not go where the first went; shares stay even."""
    balancer, pool = RoundRobin(), fakes(3)
    taken: Counter[FakeEndpoint] = Counter()
    for _ in range(300):
        first = balancer.pick(pool, STREAM, 0.0)
        second = balancer.pick([one for one in pool if one is not first], STREAM, 0.0)
        taken.update((first, second))
    assert set(taken.values()) == {200}


def test_round_robin_lets_nobody_catch_up() -> None:
    """One that returns gets its turn, not all that it missed."""
    balancer, pool = RoundRobin(), fakes(3)
    for _ in range(30):
        balancer.pick(pool[:2], STREAM, 0.0)
    taken = Counter(balancer.pick(pool, STREAM, 0.0) for _ in range(3))
    assert set(taken.values()) == {1}


def test_weighted_is_smooth() -> None:
    """The example of nginx's own description: 5, 1, 1."""
    balancer, pool = Weighted(), fakes(3, (5, 1, 1))
    picked = [pool.index(balancer.pick(pool, STREAM, 0.0)) for _ in range(7)]
    assert picked == [0, 0, 1, 0, 2, 0, 0]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 3))
def test_weighted_shares_are_exact(weights: list[int], rounds: int) -> None:
    """After as many picks as the weights add up to, each has its weight, and so again."""
    balancer, pool = Weighted(), fakes(len(weights), weights)
    taken = Counter(balancer.pick(pool, STREAM, 0.0) for _ in range(sum(weights) * rounds))
    assert [taken[one] for one in pool] == [weight * rounds for weight in weights]


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=6), st.integers(1, 100))
def test_weighted_never_runs_a_turn_ahead(weights: list[float], picks: int) -> None:
    """Whatever the weights and wherever one stops."""
    balancer, pool = Weighted(), fakes(len(weights), weights)
    taken = Counter(balancer.pick(pool, STREAM, 0.0) for _ in range(picks))
    for one in pool:
        assert taken[one] < picks * one.weight / sum(weights) + 1 + 1e-6


def test_weighted_keeps_shares_when_retries_leave_one_out() -> None:
    """A candidate missing from every third pick still has its share of the other two thirds."""
    balancer, pool = Weighted(), fakes(3, (2, 1, 1))
    taken: Counter[FakeEndpoint] = Counter()
    for number in range(1200):
        taken[balancer.pick(pool[1:] if number % 3 == 2 else pool, STREAM, 0.0)] += 1
    shares = [taken[one] for one in pool]
    assert shares == [400, 400, 400]


def test_memory_of_turns_is_bounded() -> None:
    """Endpoints that come and go leave nothing behind."""
    turns, weighted = RoundRobin(), Weighted()
    for number in range(1000):
        pool = [FakeEndpoint(f"pod-{number}"), FakeEndpoint(f"pod-{number + 1}")]
        turns.pick(pool, STREAM, 0.0)
        weighted.pick(pool, STREAM, 0.0)
    assert len(turns._last) <= 4 + SPARE
    assert len(weighted._credit) <= 4 + SPARE

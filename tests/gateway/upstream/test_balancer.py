"""Balancers share requests out among the endpoints that may be tried, and only those."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.cluster import BALANCERS as CONFIGURABLE
from gateway.upstream.balancer import BALANCERS, LeastInflight, RoundRobin
from gateway.upstream.endpoint import Endpoint


def endpoints(*healthy: bool, weight: float = 1.0) -> list[Endpoint]:
    made = [Endpoint(f"http://e{number}:80", weight) for number in range(len(healthy))]
    for endpoint, ok in zip(made, healthy, strict=True):
        endpoint.probed(ok)
    return made


def test_every_balancer_can_be_configured() -> None:
    """The names in the configuration are the names here."""
    assert set(CONFIGURABLE) == set(BALANCERS)


@pytest.mark.parametrize("name", sorted(BALANCERS))
@given(st.lists(st.booleans(), max_size=5), st.integers(1, 12))
def test_only_available_endpoints_are_picked(name: str, healthy: list[bool], picks: int) -> None:
    """And one is found whenever there is one."""
    balancer, pool = BALANCERS[name](), endpoints(*healthy)
    for _ in range(picks):
        picked = balancer.pick(pool)
        assert (picked is not None) is any(healthy)
        assert picked is None or picked.available()


@given(st.integers(1, 5), st.integers(1, 30))
def test_round_robin_is_even(count: int, picks: int) -> None:
    """No endpoint is ever more than one request ahead of another."""
    balancer, pool = RoundRobin(), endpoints(*[True] * count)
    taken = Counter(balancer.pick(pool) for _ in range(picks))
    shares = [taken[endpoint] for endpoint in pool]
    assert max(shares) - min(shares) <= 1


def test_round_robin_goes_on_where_it_was_when_one_leaves() -> None:
    """The neighbour of a lost endpoint does not get its whole share twice in a row."""
    balancer, pool = RoundRobin(), endpoints(True, False, True)
    assert [balancer.pick(pool) for _ in range(4)] == [pool[0], pool[2], pool[0], pool[2]]


def test_least_inflight_fills_the_emptiest() -> None:
    """By requests per weight; a fast replica takes more."""
    balancer, pool = LeastInflight(), endpoints(True, True)
    pool[1].weight = 3.0
    for _ in range(40):
        picked = balancer.pick(pool)
        assert picked is not None
        picked.inflight += 1
    assert [endpoint.inflight for endpoint in pool] == [10, 30]


def test_ties_of_least_inflight_go_round() -> None:
    """Idle endpoints share, so that none of them stays cold."""
    balancer, pool = LeastInflight(), endpoints(True, True, True)
    assert {balancer.pick(pool) for _ in range(3)} == set(pool)

"""Slow start gives 10 % to 100 % of the fair share, whichever the balancer."""

from __future__ import annotations

from random import Random

import pytest

from gateway.config.cluster import BALANCERS as NAMES
from gateway.upstream.balancer import BALANCERS, BalancerSpec
from gateway.upstream.endpoint import Endpoint, EndpointSpec
from gateway.upstream.ramp import choose, factor
from gateway.upstream.traits import WHOLE

SPEC = EndpointSpec(slow_start_s=30.0)


def ramping(*began_at: float) -> list[Endpoint]:
    """Endpoints that became healthy at these times."""
    made = [Endpoint(f"http://e{n}:1", spec=SPEC) for n in range(len(began_at))]
    for endpoint, now in zip(made, began_at, strict=True):
        endpoint.probed(True, now)
    return made


def share(name: str, endpoints: list[Endpoint], now: float, picks: int = 4000) -> float:
    """The last one's share of the picks at that moment."""
    rng = Random(7)
    balancer = BALANCERS[name](BalancerSpec(), rng)
    last = endpoints[-1]
    return sum(choose(balancer, endpoints, WHOLE, now, rng) is last for _ in range(picks)) / picks


@pytest.mark.parametrize(
    ("left_s", "slow_start_s", "expected"),
    [
        (30, 30, 0.1),
        (15, 30, 0.55),
        (3, 30, 0.91),
        (0, 30, 1.0),
        (-5, 30, 1.0),
        (99, 30, 0.1),  # It has not begun yet, and is tried only because there is a panic.
        (0, 0, 1.0),
        (5, 0, 1.0),
    ],
)
def test_the_ramp_is_a_line(left_s: float, slow_start_s: float, expected: float) -> None:
    """From 10 % up; without slow start there is none."""
    assert factor(left_s, slow_start_s) == pytest.approx(expected)


@pytest.mark.parametrize("since_s", [0.0, 7.5, 15.0, 22.5, 30.0])
def test_the_share_grows_from_a_tenth_to_the_whole(since_s: float) -> None:
    """As if its weight were what its ramp says, beside two of weight 1."""
    endpoints = ramping(0.0, 0.0, 1000.0)
    weight = 0.1 + 0.9 * since_s / 30
    expected = pytest.approx(weight / (2 + weight), abs=0.015)
    assert share("round_robin", endpoints, 1000.0 + since_s) == expected


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"session"}))
def test_every_balancer_is_held_back_and_let_go(name: str) -> None:
    """At most twice the tenth with those that look for the idlest; its fair share at the end."""
    endpoints = ramping(0.0, 0.0, 1000.0)
    for endpoint in endpoints[:2]:
        endpoint.inflight = 1  # The newcomer is the idlest.
    assert 0.015 < share(name, endpoints, 1000.0) < 0.12
    assert share(name, endpoints, 1030.0) > 0.3


def test_who_ramp_alike_share_as_if_none_did() -> None:
    """The gateway's own start is no reason to hold anything back."""
    endpoints = ramping(1000.0, 1000.0)
    assert share("round_robin", endpoints, 1000.0) == 0.5


def test_the_further_one_gets_more() -> None:
    """By the ratio of their ramps: 0.1 to 0.55."""
    endpoints = ramping(985.0, 1000.0)
    assert share("round_robin", endpoints, 1000.0) == pytest.approx(0.1 / 0.65, abs=0.015)


def test_the_only_one_takes_all() -> None:
    """Somebody has to."""
    assert share("round_robin", ramping(1000.0), 1000.0, 10) == 1.0

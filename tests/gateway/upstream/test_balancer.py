"""Every balancer that can be configured exists and picks one of the candidates."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.cluster import BALANCERS as CONFIGURABLE
from gateway.config.cluster import Session as SessionSpec
from gateway.upstream.balancer import BALANCERS, BalancerSpec
from gateway.upstream.traits import STREAM, WHOLE, Traits
from tests.support.candidates import fakes

TRAITS = (STREAM, WHOLE, Traits(True, b"alice"), Traits(False, prompt=b"x" * 2000))


def test_every_balancer_can_be_configured() -> None:
    """The names in the configuration are the names here."""
    assert set(CONFIGURABLE) == set(BALANCERS)


def test_the_defaults_are_those_of_the_configuration() -> None:
    """A bare spec behaves as a cluster that says nothing."""
    assert BalancerSpec().max_load == SessionSpec().max_load


@pytest.mark.parametrize("name", sorted(BALANCERS))
@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, unique=True), max_size=12),
    st.lists(st.floats(0.001, 1000), min_size=6, max_size=6),
    st.data(),
)
def test_any_candidates_give_one_of_them(
    name: str, offered: list[list[int]], weights: list[float], data: st.DataObject
) -> None:
    """Whoever was there before, whatever the weights, loads and latencies."""
    balancer, pool = BALANCERS[name](BalancerSpec(), Random(0)), fakes(6, weights)
    for numbers in offered:
        candidates = [pool[number] for number in numbers]
        picked = balancer.pick(candidates, data.draw(st.sampled_from(TRAITS)), 0.0)
        assert picked in candidates
        picked.busy += 1
        picked.slow_s += 0.1


def test_what_each_needs_to_know() -> None:
    """Only those that read keys or prompts have them looked up."""
    made = {name: make(BalancerSpec(), Random(0)) for name, make in BALANCERS.items()}
    assert {name for name, one in made.items() if one.needs_session} == {"session"}
    assert {name for name, one in made.items() if one.needs_prompt} == {"prefix"}

"""Endpoints over several workers."""

from __future__ import annotations

from dataclasses import replace

from gateway.control.operations import EndpointState
from gateway.control.view import EndpointView, ModelView
from gateway.workers.states import by_endpoint, merged, merged_models, merged_views

ONE = EndpointState(
    id="a:1",
    cluster="c",
    url="http://a:1",
    state="healthy",
    health="healthy",
    breaker="closed",
    ejected=False,
    draining=False,
    ramp=1.0,
    weight=2.0,
    inflight=3,
    max_inflight=10,
    load=3.0,
    first_token_ms=None,
    whole_ms=20.0,
    models=("m",),
    expires_in_s=None,
)


def test_in_flight_and_limits_add_up_and_the_worst_state_counts() -> None:
    other = replace(
        ONE,
        state="open",
        health="unhealthy",
        breaker="open",
        ejected=True,
        draining=True,
        ramp=0.5,
        inflight=4,
        load=12.0,
        first_token_ms=5.0,
        whole_ms=30.0,
        models=("m", "n"),
        expires_in_s=3.0,
    )
    assert merged([ONE, other]) == replace(
        other, inflight=7, max_inflight=20, load=12.0, weight=2.0, ramp=0.5
    )
    assert merged([ONE]) == ONE


def test_load_is_no_less_than_what_is_in_flight() -> None:
    """Without an engine's own metrics each worker knows only its part."""
    assert merged([ONE, ONE]).load == 6.0


def test_one_without_a_limit_makes_none() -> None:
    assert merged([ONE, replace(ONE, max_inflight=None)]).max_inflight is None


def test_an_endpoint_is_there_if_one_worker_has_it() -> None:
    """Between two workers' reloads they may differ for a moment."""
    other = replace(ONE, id="b:1")
    found = by_endpoint({0: [ONE], 2: [other, ONE]})
    assert found == {("c", "a:1"): {0: ONE, 2: ONE}, ("c", "b:1"): {2: other}}


def test_health_shows_an_endpoint_as_healthy_if_a_worker_would_ask_it() -> None:
    view = EndpointView("a:1", "c", "http://a:1", False, 1, ("m",))
    other = replace(view, healthy=True, inflight=2, models=("n",))
    assert merged_views([[view], [other]]) == [
        EndpointView("a:1", "c", "http://a:1", True, 3, ("m", "n"))
    ]


def test_a_model_that_one_worker_knows_is_listed_once() -> None:
    one, two = ModelView("m", 1, "o", {}), ModelView("n", 1, "o", {})
    assert merged_models([[one], [one, two]]) == [one, two]

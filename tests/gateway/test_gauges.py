"""What an operator sees of endpoints, queues and the loop on a scrape."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from gateway.admit.lag import LoopLag
from gateway.config.cluster import Cluster as Spec
from gateway.gauges import Gauges
from gateway.model import Outcome
from gateway.upstream.cluster import Cluster
from tests.support.control import ManualClock


def scraped(**cluster: Any) -> tuple[Cluster, ManualClock, Any]:
    """Make a cluster of two endpoints, and what reads one of its samples."""
    clock = ManualClock()
    spec = Spec.model_validate(
        {"endpoints": [{"url": "http://a:1"}, {"url": "http://b:1"}], **cluster}
    )
    one = Cluster("c", spec, clock.monotonic)
    registry = CollectorRegistry()
    lag = LoopLag(1.0)
    lag.tick(100.0, 100.25)
    registry.register(Gauges({"c": one}, lag, clock.monotonic))

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    return one, clock, sample


def test_an_endpoint_shows_its_state_and_what_it_is_judged_by() -> None:
    """One state at a time; each state of the breaker, so that none goes missing on a graph."""
    cluster, clock, sample = scraped(breaker={"failures": 1}, outliers={"failures": 50})
    one, other = cluster.endpoints
    for endpoint in (one, other):
        endpoint.probed(True, clock.now - 3600)
    place = {"cluster": "c", "endpoint": "a:1"}
    assert sample("sluice_endpoint_available", **place) == 1
    assert sample("sluice_endpoint_state", **place, state="healthy") == 1
    one.first_token.observe(0.5, clock.now)
    assert sample("sluice_endpoint_latency_seconds", **place, kind="first_token") == 0.5
    assert sample("sluice_endpoint_latency_seconds", **place, kind="whole") == 0
    ticket = one.start(clock.now)
    assert sample("sluice_endpoint_load", **place) == 1
    one.finish(ticket, Outcome.RETRYABLE, clock.now)
    assert sample("sluice_endpoint_available", **place) == 0
    assert sample("sluice_endpoint_state", **place, state="open") == 1
    assert sample("sluice_endpoint_state", **place, state="healthy") is None
    assert sample("sluice_endpoint_breaker_state", **place, state="open") == 1
    assert sample("sluice_endpoint_breaker_state", **place, state="closed") == 0
    assert sample("sluice_endpoint_breaker_trips_total", **place) == 1
    assert sample("sluice_endpoint_ejections_total", **place) == 0


def test_a_cluster_shows_its_places_and_its_queue() -> None:
    """By class, and what was refused by reason."""
    cluster, _, sample = scraped(max_inflight=1)
    assert cluster.gate.try_enter()
    assert sample("sluice_cluster_inflight", cluster="c") == 1
    assert sample("sluice_queue_waiting", cluster="c", priority="normal") == 0
    assert sample("sluice_queue_refused_total", cluster="c", reason="full") == 0
    rate = sample("sluice_queue_drain_rate", cluster="c")
    assert rate is not None
    assert rate >= 0


def test_the_loops_lag_is_told() -> None:
    """The last one, and the peak that decides."""
    _, _, sample = scraped()
    assert sample("sluice_event_loop_lag_seconds") == 0.25
    assert sample("sluice_event_loop_lag_peak_seconds") == 0.25

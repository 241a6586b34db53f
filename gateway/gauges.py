"""How do endpoints, queues and the event loop stand, as metrics?

Read when somebody scrapes; nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.admit.lag import LoopLag
from gateway.admit.ticket import Priority
from gateway.upstream.breaker import State
from gateway.upstream.cluster import Cluster

_PLACE = ("cluster", "endpoint")


class Gauges:
    """Collects the state of everything that has one."""

    def __init__(
        self, clusters: Mapping[str, Cluster], lag: LoopLag, monotonic: Callable[[], float]
    ) -> None:
        self._clusters = clusters
        self._lag = lag
        self._monotonic = monotonic

    def collect(self) -> Iterable[Metric]:
        """Yield every family; prometheus-client's registry calls this on a scrape."""
        yield from self._endpoints()
        yield from self._breakers()
        yield from self._queues()
        yield GaugeMetricFamily(
            "sluice_event_loop_lag_seconds",
            "How late the event loop ran at its last tick.",
            value=self._lag.last_s,
        )
        yield GaugeMetricFamily(
            "sluice_event_loop_lag_peak_seconds",
            "How late the event loop ran lately; new requests are refused by it.",
            value=self._lag.peak_s,
        )

    def _endpoints(self) -> Iterable[Metric]:
        now = self._monotonic()
        available = _gauge("sluice_endpoint_available", "1 if it may be tried, else 0.")
        states = _gauge(
            "sluice_endpoint_state", "1 for the state that it is in.", (*_PLACE, "state")
        )
        load = _gauge("sluice_endpoint_load", "Requests in flight, others' included.")
        latency = _gauge(
            "sluice_endpoint_latency_seconds",
            "Peak-EWMA of the time to a stream's first token, or to a whole answer.",
            (*_PLACE, "kind"),
        )
        ejections = CounterMetricFamily(
            "sluice_endpoint_ejections", "Times that it was an outlier.", labels=_PLACE
        )
        for cluster in self._clusters.values():
            for endpoint in cluster.endpoints:
                place = [cluster.name, endpoint.id]
                available.add_metric(place, endpoint.available(now))
                states.add_metric([*place, endpoint.state(now)], 1)
                load.add_metric(place, endpoint.load(now))
                latency.add_metric([*place, "first_token"], endpoint.latency(True, now))
                latency.add_metric([*place, "whole"], endpoint.latency(False, now))
                ejections.add_metric(place, endpoint.ejections_total)
        return available, states, load, latency, ejections

    def _breakers(self) -> Iterable[Metric]:
        breakers = _gauge(
            "sluice_endpoint_breaker_state",
            "1 for the state that its breaker is in, 0 for the others.",
            (*_PLACE, "state"),
        )
        trips = CounterMetricFamily(
            "sluice_endpoint_breaker_trips", "Times that its breaker opened.", labels=_PLACE
        )
        for cluster in self._clusters.values():
            for endpoint in cluster.endpoints:
                place = [cluster.name, endpoint.id]
                for state in State:
                    breakers.add_metric([*place, state], endpoint.breaker.state is state)
                trips.add_metric(place, endpoint.breaker.trips_total)
        return breakers, trips

    def _queues(self) -> Iterable[Metric]:
        now = self._monotonic()
        inflight = _gauge(
            "sluice_cluster_inflight", "Requests that were let in and have not ended.", ["cluster"]
        )
        waiting = _gauge(
            "sluice_queue_waiting", "Requests that wait for a place.", ["cluster", "priority"]
        )
        rate = _gauge("sluice_queue_drain_rate", "Places that come free in a second.", ["cluster"])
        refused = CounterMetricFamily(
            "sluice_queue_refused",
            "Requests that were refused a place, by reason.",
            labels=["cluster", "reason"],
        )
        for cluster in self._clusters.values():
            gate = cluster.gate
            inflight.add_metric([cluster.name], gate.inflight)
            rate.add_metric([cluster.name], gate.drain_rate(now))
            for priority in Priority:
                waiting.add_metric([cluster.name, priority.name.lower()], gate.waiting(priority))
            for reason, count in gate.refused.items():
                refused.add_metric([cluster.name, reason], count)
        return inflight, waiting, rate, refused


def _gauge(name: str, text: str, labels: Iterable[str] = _PLACE) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=list(labels))

"""Several workers' metrics as one gateway's."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from gateway.app import Gateway
from gateway.config.spec import Config
from gateway.upstream.breaker import State as Breaker
from gateway.upstream.standing import State
from gateway.workers.samples import (
    ADDED,
    BREAKERS,
    RULES,
    STATES,
    Family,
    Totals,
    decoded,
    encoded,
    worst,
)
from tests.support.control import ManualClock


class Given:
    """A collector of given families."""

    def __init__(self, *families: Metric) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def families(*given: Metric) -> list[Family]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Given(*given))
    return decoded(encoded(registry))


def counter(value: float, name: str = "asked") -> Metric:
    family = CounterMetricFamily(name, "Times.", labels=["model"])
    family.add_metric(["m"], value)
    return family


def gauge(name: str, value: float) -> Metric:
    return GaugeMetricFamily(name, "Now.", value=value)


def states(name: str, **values: float) -> Metric:
    family = GaugeMetricFamily(name, "State.", labels=["endpoint", "state"])
    for state, value in values.items():
        family.add_metric(["a:1", state], value)
    return family


def values(metrics: Iterable[Metric]) -> dict[str, float]:
    return {
        "/".join([each.name, *each.labels.values()]): each.value
        for one in metrics
        for each in one.samples
    }


def test_counters_and_histograms_add_up() -> None:
    totals = Totals()
    for number in (0, 1):
        family = HistogramMetricFamily("took", "Seconds.", labels=["model"])
        family.add_metric(["m"], [("1.0", 2), ("+Inf", 3 + number)], 7.5)
        totals.take(number, families(counter(4 + number), family))
    assert values(totals.merged({0, 1})) == {
        "asked_total/m": 9,
        "took_bucket/m/1.0": 4,
        "took_bucket/m/+Inf": 7,
        "took_count/m": 7,
        "took_sum/m": 15,
    }


def test_counters_never_fall() -> None:
    """Neither when a worker is silent, nor when it ends, nor when its successor begins at 0."""
    totals = Totals()
    totals.take(0, families(counter(4)))
    totals.take(1, families(counter(10), gauge("now", 1)))
    assert values(totals.merged({0}))["asked_total/m"] == 14
    totals.ended(1)
    assert values(totals.merged({0}))["asked_total/m"] == 14
    totals.take(1, families(counter(1)))
    assert values(totals.merged({0, 1}))["asked_total/m"] == 15
    totals.ended(1)
    totals.ended(1)
    totals.ended(0)
    assert values(totals.merged(()))["asked_total/m"] == 15


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sluice_inflight", 5),
        ("sluice_config_last_reload_successful", 2),
        ("sluice_event_loop_lag_seconds", 3),
        ("nobody_has_said_what_holds_for_it", 3),
    ],
)
def test_each_gauge_has_its_rule(name: str, expected: float) -> None:
    totals = Totals()
    totals.take(0, families(gauge(name, 2)))
    totals.take(1, families(gauge(name, 3)))
    assert values(totals.merged({0, 1})) == {name: expected}


def test_gauges_of_who_does_not_answer_are_left_out() -> None:
    """What was in flight a minute ago says nothing of now."""
    totals = Totals()
    totals.take(0, families(gauge("sluice_inflight", 2)))
    totals.take(1, families(gauge("sluice_inflight", 3)))
    assert values(totals.merged({0})) == {"sluice_inflight": 2}
    assert totals.merged(()) == []


def test_of_states_the_worst_is_1_and_only_that() -> None:
    breaker, state = "sluice_endpoint_breaker_state", "sluice_endpoint_state"
    totals = Totals()
    closed, opened = states(breaker, closed=1, open=0), states(breaker, closed=0, open=1)
    totals.take(0, families(closed, states(state, open=1)))
    totals.take(1, families(opened, states(state, healthy=1)))
    assert values(totals.merged({0, 1})) == {
        f"{breaker}/a:1/closed": 0,
        f"{breaker}/a:1/open": 1,
        f"{state}/a:1/open": 1,
    }
    assert values(totals.merged({0}))[f"{breaker}/a:1/closed"] == 1


def test_every_state_has_a_rank() -> None:
    assert set(STATES) == set(State)
    assert set(BREAKERS) == set(Breaker)
    assert worst(["healthy", "draining", "open"], STATES) == "draining"


async def test_every_gauge_of_a_gateway_has_a_rule() -> None:
    """A new gauge needs a decision: what does it say of several workers?"""
    config = Config.from_endpoints(["http://127.0.0.1:9"], access=None)
    gateway = Gateway(config, ManualClock())
    try:
        found = decoded(encoded(gateway.registry))
    finally:
        gateway.close()
    gauges = {name for name, _, kind, _ in found if kind not in ADDED}
    ranked = {"sluice_endpoint_state", "sluice_endpoint_breaker_state"}
    assert gauges - ranked <= RULES.keys()
    assert "sluice_inflight" in gauges

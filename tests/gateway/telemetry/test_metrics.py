"""The numbers come out as Prometheus reads them."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gateway.model import Outcome
from gateway.telemetry.metrics import LATENCY_S, Histogram, Metrics

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(metrics: Metrics) -> Samples:
    registry = CollectorRegistry()
    registry.register(metrics)
    text = generate_latest(registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: Any) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_an_endpoint_that_is_gone_has_no_numbers() -> None:
    """Those of the others stay, also of one with its name in another cluster."""
    metrics = Metrics(list)
    for place in (("c", "e:1"), ("c", "e:2"), ("d", "e:1")):
        metrics.attempted(*place, "success")
    metrics.attempted("c", "e:1", "upstream_error")
    metrics.forget("c", "e:1")
    metrics.forget("c", "e:3")
    name = "sluice_upstream_attempts_total"
    assert {sample[1] for sample in scrape(metrics) if sample[0] == name} == {
        key(name, cluster="c", endpoint="e:2", result="success")[1],
        key(name, cluster="d", endpoint="e:1", result="success")[1],
    }


def test_requests_are_counted_by_model_route_and_outcome() -> None:
    """Outcomes that have not happened have no series."""
    metrics = Metrics(list)
    metrics.series("m", "chat").outcomes[Outcome.SUCCESS] += 2
    found = scrape(metrics)
    name = "sluice_requests_total"
    assert found[key(name, model="m", route="chat", outcome="success")] == 2
    assert [sample for sample in found if sample[0] == name] == [
        key(name, model="m", route="chat", outcome="success")
    ]


def test_a_series_is_one_for_its_model_and_route() -> None:
    """Whoever asks gets the same numbers to write into."""
    metrics = Metrics(list)
    assert metrics.series("m", "chat") is metrics.series("m", "chat")
    assert metrics.series("m", "chat") is not metrics.series("m", "completions")


def test_tokens_add_up_over_a_models_routes() -> None:
    """The route is no label of them."""
    metrics = Metrics(list)
    for route, tokens in (("chat", 3), ("completions", 4)):
        metrics.series("m", route).prompt_tokens += tokens
        metrics.series("m", route).completion_tokens += 10 * tokens
    found = scrape(metrics)
    assert found[key("sluice_tokens_total", model="m", kind="prompt")] == 7
    assert found[key("sluice_tokens_total", model="m", kind="completion")] == 70


def test_attempts_and_inflight_carry_their_endpoint() -> None:
    """In-flight is read at the moment of the scrape."""
    inflight = [("pool", "a:1", 1)]
    metrics = Metrics(lambda: inflight)
    metrics.attempted("pool", "a:1", "ok")
    metrics.attempted("pool", "a:1", "ok")
    metrics.attempted("pool", "a:1", "upstream_error")
    inflight[0] = ("pool", "a:1", 5)
    found = scrape(metrics)
    labels = {"cluster": "pool", "endpoint": "a:1"}
    assert found[key("sluice_upstream_attempts_total", **labels, result="ok")] == 2
    assert found[key("sluice_upstream_attempts_total", **labels, result="upstream_error")] == 1
    assert found[key("sluice_inflight", **labels)] == 5


def test_names_are_escaped() -> None:
    """A model name may hold quotes and line ends; the exposition stays readable."""
    metrics = Metrics(list)
    name = 'a"b\\c\nd'
    metrics.series(name, "chat").outcomes[Outcome.FAILURE] += 1
    assert key("sluice_requests_total", model=name, route="chat", outcome="failure") in scrape(
        metrics
    )


@given(st.lists(st.sampled_from([*LATENCY_S, 0.0, 0.0051, 7.0, 601.0])))
def test_buckets_are_cumulative_and_include_their_bound(values: list[float]) -> None:
    """Each bucket counts what is at most its bound, the last one all."""
    metrics = Metrics(list)
    for value in values:
        metrics.series("m", "chat").duration.observe(value)
    metrics.series("m", "chat")
    found = scrape(metrics)
    labels = {"model": "m", "route": "chat"}
    name = "sluice_request_duration_seconds"
    for bound in LATENCY_S:
        expected = sum(value <= bound for value in values)
        assert found[key(name + "_bucket", **labels, le=str(float(bound)))] == expected
    assert found[key(name + "_bucket", **labels, le="+Inf")] == len(values)
    assert found[key(name + "_count", **labels)] == len(values)
    assert abs(found[key(name + "_sum", **labels)] - sum(values)) < 1e-6


def test_bounds_rise() -> None:
    """Bisection needs it."""
    for histogram in (Histogram(LATENCY_S), *_all()):
        assert list(histogram.bounds) == sorted(set(histogram.bounds))


def _all() -> list[Histogram]:
    series = Metrics(list).series("m", "chat")
    return [series.duration, series.first_token, series.inter_token]

"""How many, how long, how often: the numbers behind `/metrics`.

prometheus-client's own metric objects take a lock and about 1 µs an observation; on the data path
that would be a tenth of a request's budget. So requests write into plain integers and lists here
(one event loop, no locks), and a collector turns them into metric families when somebody scrapes.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from gateway.model import Outcome

# vLLM's own bucket bounds, so that the gateway's histograms can be laid over the engine's.
LATENCY_S = (
    *(
        0.005,
        0.01,
        0.025,
        0.05,
        0.1,
        0.25,
        0.5,
        1.0,
        2.5,
        5.0,
        10.0,
        30.0,
        60.0,
        120.0,
        300.0,
        600.0,
    ),
)
FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0),
)
INTER_TOKEN_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
)

UNKNOWN_MODEL = "unknown"
"""The one label value of every model name that no table holds: clients must not make labels."""


class Histogram:
    """Counts of seconds by bucket. An observation costs about 0.2 µs."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one duration in seconds."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound, as the exposition format wants them."""
        total = 0
        result: list[tuple[str, float]] = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            result.append(("+Inf" if bound == float("inf") else str(bound), total))
        return result


class Series:
    """The numbers of one (model, route); a request looks it up once and keeps it."""

    __slots__ = (
        "completion_tokens",
        "duration",
        "first_token",
        "inter_token",
        "outcomes",
        "prompt_tokens",
    )

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(Outcome, 0)
        self.duration = Histogram(LATENCY_S)
        self.first_token = Histogram(FIRST_TOKEN_S)
        self.inter_token = Histogram(INTER_TOKEN_S)
        self.prompt_tokens = 0
        self.completion_tokens = 0


_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sluice_retries": ("Attempts after a failed one, by its cause.", ("cluster", "cause")),
    "sluice_retries_refused": ("Retries that the budget did not allow.", ("cluster",)),
    "sluice_fallbacks": ("Answers by another model than the one asked for.", ("model", "to")),
    "sluice_resumes": (
        "Broken streams that were to go on elsewhere, by what came of it.",
        ("cluster", "mode", "result"),
    ),
    "sluice_hedges": ("Second attempts beside a slow first one.", ("cluster", "result")),
    "sluice_config_reloads": ("Reloads of the configuration, by result.", ("result",)),
}
"""What happens rarely: family → help text and labels."""


class Metrics:
    """All series of one gateway process."""

    def __init__(self, inflight: Callable[[], Iterable[tuple[str, str, int]]]) -> None:
        """`inflight` yields (cluster, endpoint, requests) at scrape time."""
        self._inflight = inflight
        self._series: dict[tuple[str, str], Series] = {}
        self._attempts: dict[tuple[str, str, str], int] = {}
        self._counts: dict[str, dict[tuple[str, ...], int]] = {name: {} for name in _COUNTERS}

    def series(self, model: str, route: str) -> Series:
        """Return the numbers of a model and route; both must come from bounded sets."""
        key = (model, route)
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = Series()
        return found

    def attempted(self, cluster: str, endpoint: str, result: str) -> None:
        """Count one attempt at an endpoint."""
        key = (cluster, endpoint, result)
        self._attempts[key] = self._attempts.get(key, 0) + 1

    def forget(self, cluster: str, endpoint: str) -> None:
        """Drop the numbers of an endpoint that is gone: those that register come and go for ever.

        O(series).
        """
        self._attempts = {
            key: count for key, count in self._attempts.items() if key[:2] != (cluster, endpoint)
        }

    def count(self, name: str, *labels: str) -> None:
        """Count one of the rare events of `_COUNTERS`; the labels in the family's order."""
        counts = self._counts[name]
        counts[labels] = counts.get(labels, 0) + 1

    def collect(self) -> Iterable[Metric]:
        """Yield every family; prometheus-client's registry calls this on a scrape."""
        yield from self._request_families()
        attempts = CounterMetricFamily(
            "sluice_upstream_attempts",
            "Attempts at endpoints by result.",
            labels=["cluster", "endpoint", "result"],
        )
        for key, count in self._attempts.items():
            attempts.add_metric(list(key), count)
        yield attempts
        for name, (text, labels) in _COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=labels)
            for values, count in self._counts[name].items():
                family.add_metric(values, count)
            yield family
        inflight = GaugeMetricFamily(
            "sluice_inflight",
            "Requests that an endpoint is working on.",
            labels=["cluster", "endpoint"],
        )
        for cluster, endpoint, count in self._inflight():
            inflight.add_metric([cluster, endpoint], count)
        yield inflight

    def _request_families(self) -> Iterable[Metric]:
        names = ["model", "route"]
        requests = CounterMetricFamily(
            "sluice_requests", "Requests by how they ended.", labels=[*names, "outcome"]
        )
        tokens = CounterMetricFamily(
            "sluice_tokens", "Tokens, as engines count them.", labels=["model", "kind"]
        )
        totals: dict[tuple[str, str], int] = {}
        for (model, route), series in self._series.items():
            for outcome, count in series.outcomes.items():
                if count:
                    requests.add_metric([model, route, outcome], count)
            for kind, count in (
                ("prompt", series.prompt_tokens),
                ("completion", series.completion_tokens),
            ):
                totals[model, kind] = totals.get((model, kind), 0) + count
        for (model, kind), count in totals.items():
            tokens.add_metric([model, kind], count)
        yield requests
        yield tokens
        for name, text, read in _HISTOGRAMS:
            family = HistogramMetricFamily(name, text, labels=names)
            for key, series in self._series.items():
                histogram = read(series)
                family.add_metric(list(key), histogram.buckets(), histogram.sum)
            yield family


class LoopTasks:
    """Counts the tasks of the running event loop; one that is left over shows here."""

    def collect(self) -> Iterable[Metric]:
        """Yield one gauge. Must be called in the loop's thread."""
        yield GaugeMetricFamily(
            "sluice_event_loop_tasks",
            "Tasks of the event loop that have not ended.",
            value=len(asyncio.all_tasks()),
        )


_HISTOGRAMS: tuple[tuple[str, str, Callable[[Series], Histogram]], ...] = (
    (
        "sluice_request_duration_seconds",
        "From the request's arrival to its last byte.",
        lambda series: series.duration,
    ),
    (
        "sluice_time_to_first_token_seconds",
        "From the request's arrival to a stream's first event.",
        lambda series: series.first_token,
    ),
    (
        "sluice_inter_token_seconds",
        "Between two reads of a stream.",
        lambda series: series.inter_token,
    ),
)

"""How many, how long, how full is it: where do the numbers of `/metrics` come from?

prometheus-client's own metric objects take a lock and about 1 µs an observation, and a prediction
makes eight. So requests write into plain integers and lists here (one event loop, no locks), and
a collector turns them into metric families when somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

STAGES = ("decode", "preprocess", "queue", "execute", "postprocess")

STAGE_S = (
    *(0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
)
"""From the smallest model on a CPU (tens of µs) to an image from a slow server."""

BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

UNKNOWN = "unknown"
"""The label value of every model name that the repository has not: clients must not make labels."""


class Histogram:
    """Counts by bucket. An observation costs about 0.2 µs."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Return cumulative counts by upper bound, as the exposition format wants them."""
        total = 0
        result: list[tuple[str, float]] = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            total += count
            result.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
        return result


class Series:
    """The numbers of one version of a model; its lane and its requests write into them."""

    __slots__ = (
        "batches",
        "decode",
        "execute",
        "outcomes",
        "postprocess",
        "preprocess",
        "queue",
        "queued_rows",
    )

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.batches = Histogram(BATCH_ROWS)
        self.queued_rows = 0
        self.decode = Histogram(STAGE_S)
        self.preprocess = Histogram(STAGE_S)
        self.queue = Histogram(STAGE_S)
        self.execute = Histogram(STAGE_S)
        self.postprocess = Histogram(STAGE_S)

    # What a lane tells; see `vision.lane.LaneObserver`.

    def started(self, rows: int, queued_s: Sequence[float]) -> None:
        """A batch begins; each of its items has waited this long."""
        self.batches.observe(rows)
        for value in queued_s:
            self.queue.observe(value)

    def executed(self, rows: int, execute_s: float) -> None:
        """A batch has run."""
        del rows
        self.execute.observe(execute_s)

    def waiting(self, rows: int) -> None:
        """The queue has this many rows now."""
        self.queued_rows = rows

    # What a request tells.

    def finished(self, outcome: str) -> None:
        """Count a request by `ok` or its error's code; codes are a bounded set of ours."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


@dataclass(frozen=True, slots=True)
class Standing:
    """What a scrape asks the repository about one version of a model."""

    model: str
    version: str
    ready: bool
    memory_bytes: int
    load_s: float | None
    """How long the last load and its warm-up took; None if there was none."""


class Telemetry:
    """All series of one service process."""

    def __init__(self, standings: Callable[[], Iterable[Standing]]) -> None:
        """`standings` is asked at scrape time."""
        self._standings = standings
        self._series: dict[tuple[str, str], Series] = {}
        self._fetches: dict[str, int] = {}
        self._events: dict[tuple[str, str], int] = {}
        self._gpus = Gpus()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Families(self.families))
        ProcessCollector(registry=self._registry)

    @property
    def gpu_available(self) -> bool:
        """Whether NVML answers and knows a GPU."""
        return self._gpus.count > 0

    def series(self, model: str, version: int | str) -> Series:
        """Return a version's numbers; both names must come from the repository."""
        key = (model, str(version))
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = Series()
        return found

    def refused(self, outcome: str) -> None:
        """Count a request that found no version of a model."""
        self.series(UNKNOWN, "").finished(outcome)

    def fetched(self, result: str) -> None:
        """Count a fetch of an image: `ok` or the error's code."""
        self._fetches[result] = self._fetches.get(result, 0) + 1

    def happened(self, model: str, event: str) -> None:
        """Count what the repository did with a model: loaded, swapped, failed, evicted, …"""
        key = (model, event)
        self._events[key] = self._events.get(key, 0) + 1

    def exposition(self) -> tuple[bytes, str]:
        """Return the page for Prometheus, and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def families(self) -> Iterator[Metric]:
        """Yield every family but the process's own."""
        requests = CounterMetricFamily(
            "sluice_vision_requests",
            "Requests, by `ok` or the error's code.",
            labels=("model", "version", "outcome"),
        )
        waiting = GaugeMetricFamily(
            "sluice_vision_queue_rows", "Rows that wait.", labels=("model", "version")
        )
        batches = HistogramMetricFamily(
            "sluice_vision_batch_rows", "Rows of a batch.", labels=("model", "version")
        )
        stages = HistogramMetricFamily(
            "sluice_vision_stage_seconds",
            "Time of each stage: decode, preprocess, queue and postprocess of an item, "
            "execute of a batch.",
            labels=("model", "version", "stage"),
        )
        for key, series in self._series.items():
            for outcome, count in series.outcomes.items():
                requests.add_metric((*key, outcome), count)
            if key[0] == UNKNOWN:
                continue
            waiting.add_metric(key, series.queued_rows)
            batches.add_metric(key, series.batches.buckets(), series.batches.sum)
            for stage in STAGES:
                histogram: Histogram = getattr(series, stage)
                stages.add_metric((*key, stage), histogram.buckets(), histogram.sum)
        fetches = CounterMetricFamily(
            "sluice_vision_fetches", "Images fetched by URL, by result.", labels=("result",)
        )
        for result, count in self._fetches.items():
            fetches.add_metric((result,), count)
        events = CounterMetricFamily(
            "sluice_vision_model_events",
            "Loads and what else happened to a model's versions.",
            labels=("model", "event"),
        )
        for (model, event), count in self._events.items():
            events.add_metric((model, event), count)
        yield from (requests, waiting, batches, stages, fetches, events)
        yield from self._of_standings()
        yield from self._gpus.families()

    def _of_standings(self) -> Iterator[Metric]:
        labels = ("model", "version")
        ready = GaugeMetricFamily(
            "sluice_vision_model_ready", "1 if it can be asked now.", labels=labels
        )
        memory = GaugeMetricFamily(
            "sluice_vision_model_memory_bytes", "An estimate of the weights' place.", labels=labels
        )
        load = GaugeMetricFamily(
            "sluice_vision_model_load_seconds",
            "How long the last load and its warm-up took.",
            labels=labels,
        )
        for one in self._standings():
            key = (one.model, one.version)
            ready.add_metric(key, float(one.ready))
            memory.add_metric(key, one.memory_bytes)
            if one.load_s is not None:
                load.add_metric(key, one.load_s)
        yield from (ready, memory, load)


class _Families:
    """What the registry asks for metrics; it wants a method of this name."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Yield them."""
        return self._families()


class Gpus:
    """What NVML says, if `nvidia-ml-py` and a driver are there; silence if not."""

    def __init__(self) -> None:
        self._nvml: ModuleType | None = None
        self.count = 0
        try:
            import pynvml  # noqa: PLC0415  an optional library: only this class uses it
        except ImportError:
            return
        try:
            pynvml.nvmlInit()
            self.count = int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError:  # No driver, or one that is broken: as good as no GPU.
            return
        self._nvml = pynvml

    def families(self) -> Iterator[Metric]:
        """Yield utilisation and memory of each GPU."""
        nvml = self._nvml
        if nvml is None:
            return
        busy = GaugeMetricFamily(
            "sluice_vision_gpu_utilization_ratio",
            "Share of the last sample period in which a kernel ran.",
            labels=("gpu",),
        )
        used = GaugeMetricFamily(
            "sluice_vision_gpu_memory_used_bytes", "In use, by anybody.", labels=("gpu",)
        )
        total = GaugeMetricFamily(
            "sluice_vision_gpu_memory_total_bytes", "There is.", labels=("gpu",)
        )
        for index in range(self.count):
            try:
                device = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = nvml.nvmlDeviceGetMemoryInfo(device)
                utilization = nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100
            except nvml.NVMLError:  # Fallen off the bus, or a MIG slice that tells no rate.
                continue
            busy.add_metric((str(index),), utilization)
            used.add_metric((str(index),), memory.used)
            total.add_metric((str(index),), memory.total)
        yield from (busy, used, total)

"""What `/metrics` shows of what was counted."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from vision.telemetry import UNKNOWN, Gpus, Histogram, Standing, Telemetry


def samples(telemetry: Telemetry) -> dict[tuple[str, ...], float]:
    """Return the values by name and label values, these sorted by label."""
    page = telemetry.exposition()[0].decode()
    return {
        (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(page)
        for one in family.samples
    }


def test_a_version_with_all_that_happens_to_it() -> None:
    telemetry = Telemetry(lambda: [Standing("m", "1", True, 100, 0.25)])
    series = telemetry.series("m", 1)
    assert telemetry.series("m", "1") is series
    series.waiting(3)
    series.started(2, [0.001, 0.003])
    series.executed(2, 0.005)
    series.decode.observe(0.002)
    series.finished("ok")
    series.finished("ok")
    series.finished("queue_full")
    telemetry.happened("m", "loaded")
    telemetry.fetched("ok")
    found = samples(telemetry)
    assert found["sluice_vision_requests_total", "m", "ok", "1"] == 2
    assert found["sluice_vision_requests_total", "m", "queue_full", "1"] == 1
    assert found["sluice_vision_queue_rows", "m", "1"] == 3
    assert found["sluice_vision_batch_rows_bucket", "1.0", "m", "1"] == 0
    assert found["sluice_vision_batch_rows_bucket", "2.0", "m", "1"] == 1
    assert found["sluice_vision_batch_rows_sum", "m", "1"] == 2
    assert found["sluice_vision_stage_seconds_count", "m", "queue", "1"] == 2
    assert found["sluice_vision_stage_seconds_sum", "m", "queue", "1"] == pytest.approx(0.004)
    assert found["sluice_vision_stage_seconds_count", "m", "execute", "1"] == 1
    assert found["sluice_vision_stage_seconds_count", "m", "postprocess", "1"] == 0
    assert found["sluice_vision_model_ready", "m", "1"] == 1
    assert found["sluice_vision_model_memory_bytes", "m", "1"] == 100
    assert found["sluice_vision_model_load_seconds", "m", "1"] == 0.25
    assert found["sluice_vision_model_events_total", "loaded", "m"] == 1
    assert found["sluice_vision_fetches_total", "ok"] == 1
    assert found["process_start_time_seconds",] > 0


def test_what_found_no_model_has_a_count_and_nothing_else() -> None:
    telemetry = Telemetry(lambda: [Standing("m", "1", False, 0, None)])
    telemetry.refused("model_not_found")
    found = samples(telemetry)
    assert found["sluice_vision_requests_total", UNKNOWN, "model_not_found", ""] == 1
    assert not any(UNKNOWN in key for key in found if key[0] != "sluice_vision_requests_total")
    assert found["sluice_vision_model_ready", "m", "1"] == 0
    assert ("sluice_vision_model_load_seconds", "m", "1") not in found


def test_a_histogram_counts_values_at_a_bound_below_it() -> None:
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2, 3):
        histogram.observe(value)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 4), ("+Inf", 5)]
    assert histogram.sum == 8


class NvmlError(Exception):
    pass


class FakeNvml:
    """A driver with two GPUs, of which the second is broken."""

    NVMLError = NvmlError

    def __init__(self, *, driver: bool = True) -> None:
        self._driver = driver

    def nvmlInit(self) -> None:  # noqa: N802  NVML's name, as below
        if not self._driver:
            raise NvmlError

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, device: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=10, total=80)

    def nvmlDeviceGetUtilizationRates(self, device: int) -> Any:  # noqa: N802
        if device == 1:
            raise NvmlError
        return SimpleNamespace(gpu=50)


def test_gpus_are_shown_as_far_as_nvml_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    telemetry = Telemetry(list)
    found = samples(telemetry)
    assert telemetry.gpu_available
    assert found["sluice_vision_gpu_utilization_ratio", "0"] == 0.5
    assert found["sluice_vision_gpu_memory_used_bytes", "0"] == 10
    assert found["sluice_vision_gpu_memory_total_bytes", "0"] == 80
    assert ("sluice_vision_gpu_utilization_ratio", "1") not in found


@pytest.mark.parametrize("nvml", [None, FakeNvml(driver=False)])
def test_without_library_or_driver_there_is_silence(
    monkeypatch: pytest.MonkeyPatch, nvml: Any
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    gpus = Gpus()
    assert gpus.count == 0
    assert list(gpus.families()) == []

"""What is compared, counted and timed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from vision.convert import validation
from vision.convert.samples import Samples
from vision.convert.validation import (
    LEAST_RUNS,
    MOST_RUNS,
    batch_error,
    batch_sizes,
    batches,
    classifying,
    compare,
    latencies,
)
from vision.tensors import Array, Arrays, DataType, TensorSpec


def samples(rows: list[list[float]], labels: tuple[int, ...] | None = None) -> Samples:
    readers = tuple(lambda row=row: {"x": np.array([row], np.float32)} for row in rows)
    return Samples("rows", readers, labels)


def same(inputs: Arrays) -> dict[str, Array]:
    return {"y": inputs["x"]}


def test_errors_are_over_all_values_of_all_batches() -> None:
    rows = [[float(at), 0.0] for at in range(40)]
    found = compare(same, lambda given: {"y": given["x"] + [[0.5, 0.0]]}, samples(rows), None)
    error = found.errors["y"]
    assert (found.samples, error.values) == (40, 80)
    assert (error.most, error.mean, error.largest) == (0.5, 0.25, 39.0)
    assert found.agreeing is None


def test_nan_where_the_source_has_none_is_broken() -> None:
    found = compare(
        same, lambda given: {"y": given["x"] * np.nan}, samples([[1.0, 2.0]] * 20), None
    )
    assert (found.errors["y"].broken, found.errors["y"].most) == (40, 0.0)
    found = compare(lambda given: {"y": given["x"] * np.nan}, same, samples([[1.0, 2.0]]), None)
    assert (found.errors["y"].broken, found.errors["y"].values) == (0, 0)


def test_first_classes_and_labels_are_counted() -> None:
    rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]

    def wrong_once(given: Arrays) -> dict[str, Array]:
        flipped = given["x"].copy()
        flipped[0] = flipped[0, ::-1]
        return {"y": flipped}

    found = compare(same, wrong_once, samples(rows, (0, 1, 0, 0)), "y")
    assert found.share(found.agreeing) == 0.75
    assert found.share(found.right_source) == 0.75
    assert found.share(found.right_converted) == 0.5


def test_batches_never_mix_shapes_and_keep_the_order() -> None:
    rows = [[1.0], [2.0], [3.0, 3.0], [4.0, 4.0], [5.0]]
    shapes = [batch["x"].shape for batch in batches(samples(rows), 8)]
    assert shapes == [(2, 1), (2, 2), (1, 1)]
    assert [batch["x"].shape[0] for batch in batches(samples([[1.0]] * 20), 8)] == [8, 8, 4]


def test_model_that_mixes_its_rows_is_found() -> None:
    rows = samples([[1.0], [2.0], [3.0]])
    assert batch_error(same, rows) == 0.0
    assert batch_error(lambda given: {"y": given["x"] - given["x"].mean()}, rows) == 1.0
    assert batch_error(same, samples([[1.0]])) is None


def test_latency_is_the_median_after_a_first_call() -> None:
    calls: list[int] = []

    def run(given: Arrays) -> dict[str, Array]:
        calls.append(len(given["x"]))
        return {}

    def clock() -> Iterator[float]:
        now = 0.0
        while True:
            yield now
            now += 1.0

    row = {"x": np.zeros((1, 2), np.float32)}
    ticks = clock()
    assert latencies(run, row, [1, 4], lambda: next(ticks)) == {1: 1000.0, 4: 1000.0}
    assert calls == [1] * (LEAST_RUNS + 1) + [4] * (LEAST_RUNS + 1)


def test_fast_models_are_not_timed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "TIMED_S", 1.0)
    calls: list[int] = []
    row = {"x": np.zeros((1, 2), np.float32)}
    latencies(lambda given: calls.append(len(given)) or {}, row, [1], lambda: 0.0)
    assert len(calls) == MOST_RUNS + 1


@pytest.mark.parametrize(
    ("most", "sizes"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_sizes_double_up_to_the_largest(most: int, sizes: list[int]) -> None:
    assert batch_sizes(most) == sizes


def test_what_classifies() -> None:
    logits = TensorSpec("logits", DataType.FP32, (10,))
    boxes = TensorSpec("boxes", DataType.FP32, (84, 100))
    assert classifying([boxes, logits], "logits", True) == "logits"
    assert classifying([logits, boxes], None, True) == "logits"
    assert classifying([logits], None, False) == "logits"
    assert classifying([boxes], None, False) is None
    assert classifying([logits, logits], None, False) is None

"""Predictions of each kind, out of outputs that are known."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.config import ModelConfig
from vision.errors import ConfigError, ExecutionFailed
from vision.geometry import Geometry
from vision.postprocess import Postprocessor, compile_postprocessing
from vision.tensors import DataType, TensorSpec

LABELS = ("cat", "dog", "bird")


def compiled(
    config: dict[str, Any],
    *shape: int | None,
    labels: tuple[str, ...] | None = None,
    dtype: str = "FP32",
) -> Postprocessor:
    spec = TensorSpec("scores", DataType(dtype), shape)
    postprocessing = ModelConfig.model_validate({"postprocessing": config}).postprocessing
    return compile_postprocessing(postprocessing, [spec], labels)


def read(
    step: Postprocessor,
    output: Any,
    geometry: Geometry | None = None,
    top_k: int | None = None,
) -> list[dict[str, Any]]:
    array = np.asarray(output, np.float32) if isinstance(output, list) else output
    predictions = step.read({"scores": array}, geometry, top_k)
    json.dumps(predictions, allow_nan=False)  # Whatever comes out goes into an answer.
    return predictions


# Classification


def test_the_most_likely_classes_come_first_with_softmax() -> None:
    step = compiled({"kind": "classification"}, 3, labels=LABELS)
    got = read(step, [math.log(0.2), math.log(0.7), math.log(0.1)])
    assert [one["class"] for one in got] == ["dog", "cat", "bird"]
    assert [one["confidence"] for one in got] == pytest.approx([0.7, 0.2, 0.1])


def test_softmax_is_stable_for_any_size_of_logits() -> None:
    step = compiled({"kind": "classification"}, 3)
    got = read(step, [1e30, -1e30, 1e30])
    assert [one["confidence"] for one in got] == [0.5, 0.5, 0]


def test_sigmoid_scores_each_class_by_itself_and_never_overflows() -> None:
    step = compiled({"kind": "classification", "activation": "sigmoid"}, 3)
    got = read(step, [0.0, 1e30, -1e30])
    assert [(one["class"], one["confidence"]) for one in got] == [("1", 1), ("0", 0.5), ("2", 0)]


@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("base", [40.0, -60.0])
def test_the_highest_logit_is_first_also_where_scores_cannot_be_told_apart(
    base: float, classes: int
) -> None:
    step = compiled({"kind": "classification", "activation": "sigmoid"}, classes)
    got = read(step, [base, base + 10, *[-90.0] * (classes - 2)], top_k=1)
    assert [one["class"] for one in got] == ["1"]


def test_scores_may_be_taken_as_they_are() -> None:
    step = compiled({"kind": "classification", "activation": "none"}, 3, labels=LABELS)
    assert read(step, [1.5, 3.5, 2.5], top_k=1) == [{"class": "dog", "confidence": 3.5}]


@pytest.mark.parametrize(("asked", "given"), [(None, 2), (1, 1), (2, 2), (9, 2), (0, 1)])
def test_a_request_may_ask_for_fewer_classes_never_for_more(asked: int | None, given: int) -> None:
    step = compiled({"kind": "classification", "top_k": 2}, 3)
    assert len(read(step, [1.0, 2.0, 3.0], top_k=asked)) == given


def test_axes_of_one_are_no_axes() -> None:
    step = compiled({"kind": "classification"}, 3, 1, 1)
    assert read(step, np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1))[0]["class"] == "2"


@given(st.integers(1, 2000), st.integers(1, 300), st.integers(1, 20), st.integers(0, 2**32))
def test_of_equal_scores_the_lower_index_is_first(
    size: int, distinct: int, top_k: int, seed: int
) -> None:
    logits = np.random.default_rng(seed).integers(0, distinct, size).astype(np.float32)
    step = compiled({"kind": "classification", "top_k": 20, "activation": "none"}, None)
    expected = sorted(range(logits.size), key=lambda index: (-logits[index], index))[:top_k]
    assert [one["class"] for one in read(step, logits, top_k=top_k)] == list(map(str, expected))


@given(
    st.sampled_from(["softmax", "sigmoid", "none"]),
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=32),
)
def test_few_classes_and_many_are_scored_alike(activation: str, logits: list[float]) -> None:
    """Few are plain floats, many an array; what fills up to many has no weight."""
    step = compiled({"kind": "classification", "top_k": 32, "activation": activation}, None)
    few, many = read(step, logits), read(step, [*logits, *[-1e30] * 40])[: len(logits)]
    assert [one["class"] for one in few] == [one["class"] for one in many]
    confidences = [one["confidence"] for one in many]
    assert [one["confidence"] for one in few] == pytest.approx(confidences, rel=1e-12)


# Detection: [x, y, w, h, cat, dog] for each candidate

FOUND = [
    [20, 20, 20, 20, 0.9, 0.1],
    [21, 20, 20, 20, 0.8, 0.1],  # overlaps the first
    [21, 20, 20, 20, 0.1, 0.7],  # so does it, of another class
    [50, 50, 10, 10, 0.2, 0.2],  # below min_score
    [70, 60, 10, 20, 0.5, 0.6],
]
DETECTION = {"kind": "detection", "anchors": "first"}


def test_detection_gives_classes_scores_and_corners() -> None:
    step = compiled(DETECTION, None, 6, labels=("cat", "dog"))
    got = read(step, FOUND)
    assert [(one["class"], one["box"]) for one in got] == [
        ("cat", [10, 10, 30, 30]),
        ("dog", [11, 10, 31, 30]),
        ("dog", [65, 50, 75, 70]),
    ]
    assert [one["confidence"] for one in got] == pytest.approx([0.9, 0.7, 0.6])


def test_candidates_may_be_on_the_last_axis() -> None:
    step = compiled({"kind": "detection", "anchors": "last"}, 6, 5)
    transposed = np.asarray(FOUND, np.float32).T
    assert read(step, transposed) == read(compiled(DETECTION, 5, 6), FOUND)


def test_objectness_multiplies_the_scores() -> None:
    step = compiled(DETECTION | {"objectness": True}, None, 7)
    with_it = [
        [*row[:4], objectness, *row[4:]]
        for row, objectness in zip(FOUND, [0.5, 1, 0.5, 1, 0.5], strict=True)
    ]
    got = read(step, with_it)
    assert [one["confidence"] for one in got] == pytest.approx([0.8, 0.35, 0.3])
    assert [one["class"] for one in got] == ["0", "1", "1"]


def test_boxes_may_come_as_corners() -> None:
    step = compiled(DETECTION | {"boxes": "xyxy"}, None, 6)
    assert read(step, [[1, 2, 3, 4, 0.9, 0.1]])[0]["box"] == [1, 2, 3, 4]


def test_boxes_are_those_of_the_original_image() -> None:
    """A letterbox of 200 x 100 in 100 x 100: half the size, 25 pixels lower."""
    geometry = Geometry(200, 100, 0.5, 0.5, 0, 25)
    step = compiled(DETECTION, None, 6)
    got = read(step, [[50, 50, 20, 10, 0.9, 0], [99, 30, 20, 20, 0.8, 0]], geometry)
    assert [one["box"] for one in got] == [[80, 40, 120, 60], [178, 0, 200, 30]]


def test_boxes_in_the_padding_are_none() -> None:
    geometry = Geometry(200, 100, 0.5, 0.5, 0, 25)
    step = compiled(DETECTION, None, 6)
    assert read(step, [[50, 10, 20, 10, 0.9, 0]], geometry) == []


def test_boxes_in_the_padding_take_no_place_of_others() -> None:
    geometry = Geometry(200, 100, 0.5, 0.5, 0, 25)
    step = compiled(DETECTION, None, 6)
    candidates = [[50, 10, 20, 10, 0.9, 0], [50, 50, 20, 10, 0.8, 0]]
    assert [one["box"] for one in read(step, candidates, geometry, top_k=1)] == [[80, 40, 120, 60]]


@pytest.mark.parametrize("boxes", ["xyxy", "cxcywh"])
def test_an_inverted_box_suppresses_nothing(boxes: str) -> None:
    step = compiled(DETECTION | {"boxes": boxes}, None, 6)
    inverted, good = [100, 10, -50, 60, 0.9, 0], [10, 10, 30, 30, 0.8, 0]
    assert read(step, [inverted, good]) == read(step, [good])


def test_detections_are_capped_by_the_model_and_by_the_request() -> None:
    step = compiled(DETECTION | {"max_detections": 2}, None, 6)
    assert len(read(step, FOUND)) == 2
    assert len(read(step, FOUND, top_k=1)) == 1


def test_no_candidate_is_no_detection() -> None:
    step = compiled(DETECTION, None, 6)
    assert read(step, np.zeros((0, 6), np.float32)) == []
    assert read(step, np.zeros((7, 6), np.float32)) == []


def test_more_candidates_than_enter_suppression_are_cut_by_their_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("vision.postprocess._MAX_CANDIDATES", 2)
    got = read(compiled(DETECTION | {"max_iou": 1.0}, None, 6), FOUND)
    assert [one["confidence"] for one in got] == pytest.approx([0.9, 0.8])


def test_detection_belongs_in_a_thread_and_the_others_do_not() -> None:
    assert compiled(DETECTION, None, 6).heavy
    assert not compiled({"kind": "classification"}, 3).heavy
    assert not compiled({"kind": "raw"}, 3).heavy


# Embedding, raw


@pytest.mark.parametrize(
    ("config", "shape", "output", "expected"),
    [
        ({}, (2,), [3.0, 4.0], [0.6, 0.8]),
        ({"normalize": False}, (2,), [3.0, 4.0], [3, 4]),
        ({}, (2,), [0.0, 0.0], [0, 0]),
        ({}, (2, 1, 1), [[[3.0]], [[4.0]]], [0.6, 0.8]),
        ({"pool": "mean", "normalize": False}, (2, 2), [[1.0, 2.0], [3.0, 6.0]], [2, 4]),
        ({"pool": "first", "normalize": False}, (2, 2), [[1.0, 2.0], [3.0, 6.0]], [1, 2]),
    ],
)
def test_an_embedding_is_one_vector(
    config: dict[str, Any], shape: tuple[int, ...], output: Any, expected: list[float]
) -> None:
    step = compiled({"kind": "embedding"} | config, *shape)
    assert read(step, output)[0]["embedding"] == pytest.approx(expected)


def test_raw_outputs_have_shape_datatype_and_flat_data() -> None:
    step = compiled({"kind": "raw"}, 2, 2)
    outputs = {"scores": np.array([[1, 2], [3, 4]], np.int64), "more": np.array([True])}
    assert step.read(outputs, None, None) == [
        {
            "outputs": {
                "scores": {"shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]},
                "more": {"shape": [1], "datatype": "BOOL", "data": [True]},
            }
        }
    ]


# Failures


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"kind": "classification"}, (6,)),
        (DETECTION, (1, 6)),
        ({"kind": "embedding"}, (6,)),
        ({"kind": "raw"}, (6,)),
    ],
)
def test_what_is_not_finite_is_the_model_s_failure(
    config: dict[str, Any], shape: tuple[int, ...], value: float
) -> None:
    output = np.ones(shape, np.float32)
    output.flat[3] = value
    with pytest.raises(ExecutionFailed, match="scores"):
        read(compiled(config, *shape), output)


@pytest.mark.parametrize("config", [{"kind": "classification"}, {"kind": "embedding"}, DETECTION])
def test_an_output_without_values_is_the_model_s_failure(config: dict[str, Any]) -> None:
    shape = (None, None) if config is DETECTION else (None,)
    output = np.zeros((3, 4) if config is DETECTION else (0,), np.float32)
    with pytest.raises(ExecutionFailed, match="scores"):
        read(compiled(config, *shape), output)


@pytest.mark.parametrize(
    ("config", "shape", "labels", "said"),
    [
        ({"kind": "classification"}, (3, 4), None, "one score for each class"),
        ({"kind": "classification"}, (3,), ("a", "b"), "3 classes, the labels are 2"),
        ({"kind": "classification", "output": "none"}, (3,), None, "there is scores"),
        (DETECTION, (6,), None, "matrix"),
        (DETECTION, (None, 4), None, "4 values"),
        (DETECTION | {"objectness": True}, (None, 5), None, "5 values"),
        (DETECTION, (None, 6), LABELS, "2 classes, the labels are 3"),
        ({"kind": "embedding"}, (3, 4), None, "pool: none"),
        ({"kind": "embedding", "pool": "mean"}, (3,), None, "pool: mean"),
    ],
)
def test_a_configuration_that_does_not_fit_the_output_says_so(
    config: dict[str, Any],
    shape: tuple[int | None, ...],
    labels: tuple[str, ...] | None,
    said: str,
) -> None:
    with pytest.raises(ConfigError, match=said):
        compiled(config, *shape, labels=labels)


def test_classes_beyond_the_labels_are_numbers() -> None:
    """An output of any width cannot be checked when the model is loaded."""
    step = compiled({"kind": "classification"}, None, labels=("cat",))
    assert {one["class"] for one in read(step, [1.0, 2.0])} == {"cat", "1"}


def test_the_named_output_is_read() -> None:
    config = ModelConfig.model_validate(
        {"postprocessing": {"kind": "classification", "output": "b"}}
    ).postprocessing
    specs = [TensorSpec("a", DataType.FP32, (9, 9)), TensorSpec("b", DataType.FP32, (2,))]
    step = compile_postprocessing(config, specs, None)
    outputs = {"a": np.full((9, 9), math.nan), "b": np.array([0.0, 9.0])}
    assert step.read(outputs, None, 1)[0]["class"] == "1"

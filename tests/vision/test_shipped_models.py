"""The models that ship are as accurate, as small and as symmetric as their reports say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import vision
from vision.configs import read_config
from vision.convert.precision import zero_points
from vision.convert.report import file_entry, table
from vision.preprocess import Preprocessor
from vision.runtime.registry import load

SHIPPED = Path(vision.__file__).parent / "models"
HELD_OUT = Path(__file__).parents[1] / "data" / "digits-held-out.npz"
NAMES = ("digits", "digits-fp16", "digits-int8")
MAX_BYTES = 300_000


def report(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SHIPPED / name / "1" / "report.json").read_text())
    return found


def answers(name: str, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits of every image, through the preprocessing and the runtime of the service."""
    folder = SHIPPED / name
    config = read_config(folder, 1)
    loaded = load(folder / "1", config)
    assert config.preprocessing is not None
    preprocessor = Preprocessor(config.preprocessing, loaded.inputs[0])
    rows = np.stack([preprocessor.row(Image.fromarray(image))[0] for image in images])
    instance = loaded.instance()
    size = config.batching.max_batch
    given = [
        instance.run({"image": rows[at : at + size]})["logits"].copy()
        for at in range(0, len(rows), size)
    ]
    return np.concatenate(given)


@pytest.fixture(scope="module")
def held_out() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    with np.load(HELD_OUT) as archive:
        return archive["images"], archive["labels"]


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_on_450_digits_never_trained_on_is_that_of_the_report(
    name: str, held_out: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
) -> None:
    images, labels = held_out
    right = int((answers(name, images).argmax(axis=1) == labels).sum())
    assert len(labels) == 450
    assert right / len(labels) >= 0.99
    reported = report(name)["validation"]
    assert reported["samples"] == 450
    # One digit may tip on another processor, which sums in another order.
    assert abs(right / 450 - reported["accuracy"]["converted"]) <= 1 / 450 + 1e-9


@pytest.mark.parametrize("name", NAMES[1:])
def test_errors_against_fp32_are_those_of_the_report(
    name: str, held_out: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
) -> None:
    images, _ = held_out
    difference = np.abs(answers(name, images) - answers("digits", images))
    error = report(name)["validation"]["errors"]["logits"]
    assert difference.max() == pytest.approx(error["max"], rel=0.3)
    assert difference.mean() == pytest.approx(error["mean"], rel=0.1)


def test_fp16_is_as_accurate_where_each_result_is_rounded() -> None:
    rounded = report("digits-fp16")["rounded"]
    assert rounded["accuracy"]["converted"] >= 0.99
    assert rounded["errors"]["logits"]["max"] < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_report_names_the_files_that_are_there(name: str) -> None:
    folder = SHIPPED / name / "1"
    said = report(name)
    assert said["files"] == {"model.onnx": file_entry(folder / "model.onnx")}
    assert said["warnings"] == []
    assert (folder / "REPORT.md").read_text() == table(said)


def test_int8_file_has_zero_points_and_all_are_zero() -> None:
    file = SHIPPED / "digits-int8" / "1" / "model.onnx"
    count, other = zero_points(file)
    assert (count > 10, other) == (True, 0)
    assert report("digits-int8")["zero_points"] == {"count": count, "other_than_0": 0}
    # The same, without our own code.
    model = onnx.load(file)
    stored = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    points = [node.input[2] for node in model.graph.node if "uantize" in node.op_type]
    assert len(points) == count
    assert not any(stored[name].any() for name in points)


def test_int8_weights_do_not_overflow_on_processors_without_vnni() -> None:
    model = onnx.load(SHIPPED / "digits-int8" / "1" / "model.onnx")
    stored = [numpy_helper.to_array(one) for one in model.graph.initializer]
    weights = [one for one in stored if one.dtype == np.int8 and one.ndim > 1]
    assert len(weights) == 4
    assert all(np.abs(one.astype(int)).max() <= 64 for one in weights)


def test_fp16_file_computes_in_fp16_between_fp32_inputs_and_outputs() -> None:
    model = onnx.load(SHIPPED / "digits-fp16" / "1" / "model.onnx")
    kinds = {numpy_helper.to_array(one).dtype.name for one in model.graph.initializer}
    assert kinds <= {"float16", "int64"}
    assert "float16" in kinds
    ends = [*model.graph.input, *model.graph.output]
    assert {one.type.tensor_type.elem_type for one in ends} == {onnx.TensorProto.FLOAT}


def test_all_of_it_is_small() -> None:
    assert sum(one.stat().st_size for one in SHIPPED.rglob("*") if one.is_file()) <= MAX_BYTES


def test_every_shipped_model_is_judged_here() -> None:
    assert sorted(one.name for one in SHIPPED.iterdir()) == sorted(NAMES)

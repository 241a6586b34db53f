"""ONNX files are checked, freed of a fixed batch, and simplified to ONNX's own operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_models import write, write_digits
from vision.convert import graph
from vision.convert.failures import ConversionError
from vision.convert.running import open_onnx
from vision.tensors import DataType, TensorSpec


def test_specs_leave_the_batch_axis_out(tmp_path: Path) -> None:
    inputs, outputs = graph.specs(graph.read(write_digits(tmp_path / "m.onnx")))
    assert inputs == (TensorSpec("image", DataType.FP32, (1, 8, 8)),)
    assert outputs == (TensorSpec("logits", DataType.FP32, (10,)),)


def test_free_axes_are_none(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    file = write(tmp_path / "m.onnx", [node], {"x": ["n", "length"]}, {"y": ["n", "length"]})
    assert graph.specs(graph.read(file))[0] == (TensorSpec("x", DataType.FP32, (None,)),)


def test_tensors_without_a_batch_axis_or_of_unknown_types_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    scalar = write(tmp_path / "a.onnx", [node], {"x": []}, {"y": []})
    with pytest.raises(ConversionError, match="x has no batch axis"):
        graph.specs(graph.read(scalar))
    text = write(tmp_path / "b.onnx", [node], {"x": ["n"]}, {"y": ["n"]}, dtype=TensorProto.STRING)
    with pytest.raises(ConversionError, match="x is STRING"):
        graph.specs(graph.read(text))


def test_what_is_no_onnx_file_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="no such file"):
        graph.read(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(ConversionError, match=r"not an ONNX model: [^\n]*$"):
        graph.read(tmp_path / "m.onnx")
    invalid = write(
        tmp_path / "i.onnx", [helper.make_node("Conv", [], [])], {"x": ["n"]}, {"y": ["n"]}
    )
    with pytest.raises(ConversionError, match="not a valid ONNX model"):
        graph.read(invalid)


def test_batch_of_one_is_freed_in_a_copy(tmp_path: Path) -> None:
    model = graph.read(write_digits(tmp_path / "m.onnx", batch=1))
    assert graph.batch_sizes(model) == {1}
    assert graph.batch_sizes(graph.free_batch(model)) == {None}
    assert graph.batch_sizes(model) == {1}


def test_simplifying_folds_constants_and_keeps_the_results(tmp_path: Path) -> None:
    two = numpy_helper.from_array(np.full(3, 2, np.float32), "two")
    nodes = [
        helper.make_node("Add", ["two", "two"], ["four"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Mul", ["same", "four"], ["y"]),
    ]
    file = write(tmp_path / "a.onnx", nodes, {"x": ["n", 3]}, {"y": ["n", 3]}, initializers=[two])
    graph.simplify(file, tmp_path / "b.onnx")
    simple = graph.read(tmp_path / "b.onnx")
    assert [node.op_type for node in simple.graph.node] == ["Mul"]
    assert [one.domain for one in simple.opset_import] == [""]
    rows = {"x": np.ones((2, 3), np.float32)}
    assert open_onnx(tmp_path / "b.onnx")(rows)["y"].tolist() == [[4.0] * 3] * 2


def test_notes_of_the_exporter_are_left_out(tmp_path: Path) -> None:
    file = write_digits(tmp_path / "a.onnx")
    model = onnx.load(file)
    model.graph.node[0].metadata_props.add(key="stack_trace", value="/home/somebody/model.py")
    model.graph.doc_string = "/home/somebody"
    onnx.save(model, file)
    graph.simplify(file, tmp_path / "b.onnx")
    assert b"somebody" not in (tmp_path / "b.onnx").read_bytes()

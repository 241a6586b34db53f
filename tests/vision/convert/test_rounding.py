"""FP16 on a CPU, with the rounding that a GPU does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.onnx_models import write, write_digits
from vision.convert.precision import to_fp16
from vision.convert.rounding import write_rounded
from vision.convert.running import open_onnx
from vision.tensors import Array


def rounded(source: Path, inputs: dict[str, Array]) -> dict[str, Array]:
    half, target = source.with_name("half.onnx"), source.with_name("rounded.onnx")
    to_fp16(source, half)
    assert write_rounded(half, target)
    return open_onnx(target)(inputs)


def test_each_result_is_rounded_to_fp16(tmp_path: Path) -> None:
    third, many = (
        numpy_helper.from_array(np.array([value], np.float32), name)
        for name, value in (("third", 1 / 3), ("many", 1000.1))
    )
    nodes = [
        helper.make_node("Mul", ["x", "third"], ["a"]),
        helper.make_node("Mul", ["a", "many"], ["y"]),
    ]
    file = write(
        tmp_path / "m.onnx", nodes, {"x": ["n", 1]}, {"y": ["n", 1]}, initializers=[third, many]
    )
    x = np.array([[0.7], [1.3]], np.float32)
    a = (x.astype(np.float16) * np.float16(1 / 3)).astype(np.float16)
    expected = (a * np.float16(1000.1)).astype(np.float16)
    assert rounded(file, {"x": x})["y"].tolist() == expected.astype(np.float32).tolist()


def test_overflow_shows(tmp_path: Path) -> None:
    many = numpy_helper.from_array(np.array([30_000], np.float32), "many")
    nodes = [
        helper.make_node("Mul", ["x", "many"], ["a"]),
        helper.make_node("Mul", ["a", "many"], ["b"]),
        helper.make_node("Div", ["b", "many"], ["y"]),
    ]
    file = write(tmp_path / "m.onnx", nodes, {"x": ["n", 1]}, {"y": ["n", 1]}, initializers=[many])
    assert np.isinf(rounded(file, {"x": np.ones((1, 1), np.float32)})["y"]).all()


def test_networks_differ_a_little_more_than_by_their_weights(tmp_path: Path) -> None:
    source = write_digits(tmp_path / "m.onnx")
    images = {"image": np.random.default_rng(0).random((20, 1, 8, 8), np.float32)}
    exact, ours = open_onnx(source)(images)["logits"], rounded(source, images)["logits"]
    plain = open_onnx(tmp_path / "half.onnx")(images)["logits"]
    by_weights, by_all = (np.abs(one - exact).mean() for one in (plain, ours))
    assert 0 < by_weights < by_all < 1e-2


def test_constants_within_nodes_are_widened(tmp_path: Path) -> None:
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [2.5])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=value),
        helper.make_node("Mul", ["x", "c"], ["y"]),
    ]
    file = write(tmp_path / "m.onnx", nodes, {"x": ["n", 1]}, {"y": ["n", 1]})
    assert rounded(file, {"x": np.ones((1, 1), np.float32)})["y"].tolist() == [[2.5]]


def test_graphs_with_graphs_inside_are_left(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        node = helper.make_node("Identity", ["x"], [f"{name}_y"])
        end = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT16, None)
        return helper.make_graph([node], name, [], [end])

    nodes = [
        helper.make_node("Constant", [], ["flag"], value=helper.make_tensor("f", 9, [], [1])),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch("a"), else_branch=branch("b")),
    ]
    file = write(tmp_path / "m.onnx", nodes, {"x": ["n"]}, {"y": ["n"]}, dtype=TensorProto.FLOAT16)
    assert not write_rounded(file, tmp_path / "rounded.onnx")

"""FP16 and INT8 files: their types, zero points, order and errors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.support.onnx_models import write, write_digits
from vision.convert import precision
from vision.convert.failures import ConversionError
from vision.convert.progress import Silent
from vision.convert.running import open_onnx
from vision.tensors import Array

RNG = np.random.default_rng(1)
SAMPLES = [{"image": RNG.random((1, 1, 8, 8), np.float32)} for _ in range(12)]
BATCH = {"image": np.concatenate([one["image"] for one in SAMPLES])}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("source") / "m.onnx")


@pytest.fixture(scope="module")
def int8(source: Path) -> Path:
    target = source.with_name("int8.onnx")
    precision.to_int8(source, target, SAMPLES, 7, Silent())
    return target


def logits(file: Path) -> Array:
    return open_onnx(file)(BATCH)["logits"]


def arrays(file: Path) -> dict[str, Array]:
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(file).graph.initializer}


def test_fp16_has_fp16_weights_and_fp32_ends(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "fp16.onnx"
    precision.to_fp16(source, target)
    assert {one.dtype.name for one in arrays(target).values()} == {"float16"}
    graph = onnx.load(target).graph
    ends = {one.type.tensor_type.elem_type for one in (*graph.input, *graph.output)}
    assert ends == {onnx.TensorProto.FLOAT}
    # The cast of the input was appended last; the checker wants it before what reads it.
    assert graph.node[0].op_type == "Cast"
    difference = np.abs(logits(target) - logits(source)).max()
    assert 0 < difference < 5e-3


def test_fp16_conversion_leaves_the_import_path_alone(source: Path, tmp_path: Path) -> None:
    before = list(sys.path)
    precision.to_fp16(source, tmp_path / "fp16.onnx")
    assert sys.path == before


def test_sorting_keeps_what_subgraphs_read_before_them(tmp_path: Path) -> None:
    branches = [
        helper.make_graph(
            [helper.make_node("Add", ["late", "late"], [f"{name}_out"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_out", onnx.TensorProto.FLOAT, None)],
        )
        for name in ("yes", "no")
    ]
    choose = helper.make_node(
        "If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]
    )
    nodes = [
        choose,
        helper.make_node("Identity", ["x"], ["late"]),
        helper.make_node("Constant", [], ["flag"], value_int=1),
    ]
    graph = onnx.load(write(tmp_path / "m.onnx", nodes, {"x": ["n"]}, {"y": ["n"]})).graph
    precision._sort(graph)
    assert [node.op_type for node in graph.node] == ["Identity", "Constant", "If"]


def test_int8_zero_points_are_zero_and_weights_have_a_scale_for_each_channel(int8: Path) -> None:
    count, other = precision.zero_points(int8)
    assert (count > 8, other) == (True, 0)
    stored = arrays(int8)
    assert stored["w1_scale"].shape == (16,)
    assert stored["w2_scale"].shape == (32,)
    assert stored["image_scale"].shape == ()


def test_int8_scales_are_the_largest_values_of_the_samples(int8: Path) -> None:
    largest = max(float(one["image"].max()) for one in SAMPLES)
    assert arrays(int8)["image_scale"] == pytest.approx(largest / 127, rel=1e-3)


def test_int8_logits_stay_fp32(int8: Path) -> None:
    graph = onnx.load(int8).graph
    (last,) = (node for node in graph.node if "logits" in node.output)
    assert last.op_type == "Gemm"


def test_int8_is_near_its_source(source: Path, int8: Path) -> None:
    reference = logits(source)
    assert np.abs(logits(int8) - reference).max() < 0.05 * np.abs(reference).max()


@pytest.mark.parametrize(("bits", "largest"), [(7, 64), (8, 127)])
def test_seven_bits_use_half_of_the_range(
    source: Path, tmp_path: Path, bits: int, largest: int
) -> None:
    target = tmp_path / "int8.onnx"
    precision.to_int8(source, target, SAMPLES, bits, Silent())
    weights = [one for one in arrays(target).values() if one.dtype == np.int8 and one.ndim > 1]
    assert max(int(np.abs(one.astype(int)).max()) for one in weights) == largest


def test_model_with_nothing_to_quantize_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Sigmoid", ["x"], ["y"])
    file = write(tmp_path / "m.onnx", [node], {"x": ["n", 3]}, {"y": ["n", 3]})
    samples = [{"x": np.ones((1, 3), np.float32)}]
    with pytest.raises(ConversionError, match="nothing in the model could be quantized"):
        precision.to_int8(file, tmp_path / "int8.onnx", samples, 8, Silent())


def test_zero_points_other_than_zero_are_counted(tmp_path: Path) -> None:
    def pair(name: str, point: int, dtype: type) -> list[onnx.NodeProto]:
        ends = [f"{name}_scale", f"{name}_zero"]
        stored.append(numpy_helper.from_array(np.array(0.1, np.float32), ends[0]))
        stored.append(numpy_helper.from_array(np.array(point, dtype), ends[1]))
        return [
            helper.make_node("QuantizeLinear", [name, *ends], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", *ends], [f"{name}_d"]),
        ]

    stored: list[onnx.TensorProto] = []
    nodes = [*pair("x", 0, np.int8), *pair("x_d", 128, np.uint8)]
    file = write(tmp_path / "m.onnx", nodes, {"x": ["n"]}, {"x_d_d": ["n"]}, initializers=stored)
    assert precision.zero_points(file) == (4, 2)


def test_residual_sums_are_quantized_only_beside_convolutions(tmp_path: Path) -> None:
    add = helper.make_node("Add", ["x", "x"], ["y"])
    norm = helper.make_node("LayerNormalization", ["x", "s"], ["z"])
    for nodes, expected in (([add], True), ([add, norm], False)):
        graph = helper.make_graph(nodes, "g", [], [])
        assert ("Add" in precision._quantized(graph)) is expected

"""Small ONNX files for tests: written node by node, with weights that a test can reckon with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Axis = int | str


def write_digits(file: Path, batch: Axis = "batch", seed: int = 0) -> Path:
    """A CNN of the shipped model's shape, untrained: `image` [batch, 1, 8, 8] → `logits` [10]."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.normal(0, 0.3, (16, 1, 3, 3)),
        "b1": rng.normal(0, 0.1, 16),
        "w2": rng.normal(0, 0.1, (32, 16, 3, 3)),
        "b2": rng.normal(0, 0.1, 32),
        "w3": rng.normal(0, 0.1, (32, 10)),
        "b3": np.zeros(10),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"]),
    ]
    stored = [
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
    ]
    return write(
        file, nodes, {"image": [batch, 1, 8, 8]}, {"logits": [batch, 10]}, initializers=stored
    )


def write(  # A graph has this many parts.
    file: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[Axis]],
    outputs: dict[str, Sequence[Axis]],
    *,
    initializers: Sequence[onnx.TensorProto] = (),
    dtype: int = TensorProto.FLOAT,
    opset: int = 17,
) -> Path:
    """A file of these nodes; all inputs and outputs are of one type."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in outputs.items()],
        list(initializers),
    )
    # The oldest format that the opset allows: the newest one is not read by every runtime.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(model.SerializeToString())
    return file


def write_with_weights_at(file: Path, location: str) -> Path:
    """y = x · ones(4, 4), whose weights are said to lie at `location`, 64 bytes."""
    tensor = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return write(file, nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, initializers=[tensor])

"""What would an FP16 file give on hardware that computes in FP16?

ONNX Runtime has hardly any FP16 kernels for CPUs: it computes in FP32 and rounds only what leaves
the graph, so that neither rounding in between nor overflow shows. Here the file is written anew for
the CPU with the rounding said aloud: FP32 nodes, each followed by a cast to FP16 and back. That is
what a GPU gives whose kernels sum in FP32, as TensorRT's do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vision.convert.failures import library


def write_rounded(source: Path, target: Path) -> bool:
    """Write the FP16 file `source` as FP32 with explicit rounding; False if that cannot be done.

    Graphs with graphs inside (If, Loop, Scan) are not rewritten.
    """
    onnx = library("onnx")
    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    graph = model.graph
    if any(one.g.node or one.graphs for node in graph.node for one in node.attribute):
        return False
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    rounded = {one.name for one in graph.value_info if one.type.tensor_type.elem_type == half}
    nodes = []
    for node in graph.node:
        _widen(onnx, node)
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name not in rounded:
                continue
            node.output[index] = f"{name}/exact"
            nodes.append(
                onnx.helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=half)
            )
            nodes.append(onnx.helper.make_node("Cast", [f"{name}/half"], [name], to=full))
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    for tensor in graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(_wide(onnx, tensor))
    del graph.value_info[:]
    onnx.save(model, target)
    return True


def _widen(onnx: Any, node: Any) -> None:
    """FP16 constants in attributes become FP32, and casts to FP16 go to FP32."""
    half, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    for attribute in node.attribute:
        if attribute.name in {"to", "dtype"} and attribute.i == half:
            attribute.i = full
        if attribute.HasField("t") and attribute.t.data_type == half:
            attribute.t.CopyFrom(_wide(onnx, attribute.t))


def _wide(onnx: Any, tensor: Any) -> Any:
    values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
    return onnx.numpy_helper.from_array(values, tensor.name)

"""How does an ONNX model come to compute in FP16 or INT8?

Precision lives in the file: TensorRT 11 has no precision flags, and its builder
follows the types and the Q/DQ nodes that it reads. Inputs and outputs stay FP32 in every
precision, so that one version of a model can follow another without its clients noticing.

FP16   weights and nodes become FP16, with casts behind the inputs and before the outputs.
INT8   Q/DQ nodes around what has integer kernels, symmetric (each zero point is 0, as TensorRT
       demands), weights with a scale for each channel, activations with one for each tensor.
"""

from __future__ import annotations

import heapq
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vision.convert.failures import ConversionError, library, told_in_a_line
from vision.convert.progress import Steps
from vision.tensors import Arrays

ZERO_POINT_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})
WEIGHT_BITS = (7, 8)
"""7 for CPUs without VNNI: their INT8 products add two 16-bit sums that overflow with 8-bit
weights, unless ONNX Runtime is told otherwise (`session.x64quantprecision`). On the digits model
that overflow costs 35 of 448 right answers. GPUs and newer CPUs gain by 8."""
MATRIX_OPS = ("Gemm", "MatMul")
"""Their results stay FP32 where nothing quantized reads them: logits, softmax, residual sums."""
QUANTIZED_OPS = (
    *MATRIX_OPS,
    *("Conv", "ConvTranspose", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Flatten", "Reshape", "Transpose"),
)
"""What gains by INT8, and what lies between such nodes and only moves or compares values. Softmax,
LayerNormalization and GELU stay FP32: they cost little time, and rounding them costs accuracy."""
FP16_KEPT_IN_FP32 = ("Resize",)
"""Beside those that ONNX Runtime's list has (TopK, NonMaxSuppression, Range and others): node types
whose coordinates FP16 rounds too far."""


def to_fp16(source: Path, target: Path) -> None:
    """Write `source` with FP16 weights and nodes, and FP32 inputs and outputs."""
    onnx = library("onnx")
    model = onnx.load(source)
    with _runtime_tools(), warnings.catch_warnings(), told_in_a_line("the cast to FP16 failed"):
        float16 = library("onnxruntime.transformers.float16")
        # It warns of each weight below 6e-8, which becomes 6e-8.
        warnings.simplefilter("ignore")
        converted = float16.convert_float_to_float16(
            model,
            keep_io_types=True,
            op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *FP16_KEPT_IN_FP32],
        )
    _sort(converted.graph)
    with told_in_a_line("the cast to FP16 gave no valid ONNX"):
        onnx.checker.check_model(converted)
    onnx.save(converted, target)


def to_int8(
    source: Path, target: Path, samples: Iterable[Arrays], weight_bits: int, steps: Steps
) -> None:
    """Write `source` with symmetric Q/DQ nodes, whose scales are the ranges seen on `samples`.

    Each sample is one row of every input, batch axis first. The range is the largest absolute
    value (min-max calibration), the default of ONNX Runtime. Weights are INT8 in any case;
    `weight_bits` 7 uses half of its range, see `WEIGHT_BITS`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="sluice-int8-") as folder,
        _runtime_tools(),
        _quiet(),
        told_in_a_line("quantization failed"),
    ):
        quantization = library("onnxruntime.quantization")
        prepared = Path(folder) / "prepared.onnx"
        quantization.quant_pre_process(
            str(source),
            str(prepared),
            skip_optimization=True,  # The source is simplified already.
            # It needs sympy, does not know all operators (BERT's), and finds no more than ONNX's.
            skip_symbolic_shape=True,
        )
        quantization.quantize_static(
            str(prepared),
            str(target),
            _Reader(samples, steps),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_quantized(library("onnx").load(prepared).graph),
            per_channel=True,
            reduce_range=weight_bits == WEIGHT_BITS[0],
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,  # TensorRT takes no INT32 Q/DQ.
                "OpTypesToExcludeOutputQuantization": list(MATRIX_OPS),
            },
        )
    onnx = library("onnx")
    with told_in_a_line("quantization gave no valid ONNX"):
        onnx.checker.check_model(onnx.load(target))
    count, other = zero_points(target)
    if other:
        raise ConversionError(
            f"{other} of {count} zero points are not 0; TensorRT takes no such file"
        )
    if not count:
        raise ConversionError("nothing in the model could be quantized")


def zero_points(file: Path) -> tuple[int, int]:
    """How many Q/DQ nodes the file has, and how many of them have a zero point other than 0."""
    onnx = library("onnx")
    graph = onnx.load(file).graph
    values = {one.name: one for one in graph.initializer}
    count = other = 0
    for node in graph.node:
        if node.op_type not in ZERO_POINT_OPS:
            continue
        count += 1
        if len(node.input) < 3 or not node.input[2]:
            continue  # Without one it is 0, by ONNX.
        value = values.get(node.input[2])
        other += value is None or bool(np.any(onnx.numpy_helper.to_array(value)))
    return count, other


def _sort(graph: Any) -> None:
    """Bring the nodes into an order in which each comes after what it reads.

    The FP16 conversion appends its casts at the end, which ONNX's checker and TensorRT's parser
    refuse. Nodes that are in order already stay in their order.
    """
    made_by = {name: index for index, node in enumerate(graph.node) for name in node.output}
    needs = [
        {made_by[name] for name in _reads(node) if name in made_by} - {index}
        for index, node in enumerate(graph.node)
    ]
    readers: list[list[int]] = [[] for _ in needs]
    for index, sources in enumerate(needs):
        for source in sources:
            readers[source].append(index)
    ready = [index for index, sources in enumerate(needs) if not sources]  # Sorted, thus a heap.
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            needs[reader].discard(index)
            if not needs[reader]:
                heapq.heappush(ready, reader)
    nodes = [graph.node[index] for index in order]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _reads(node: Any) -> Iterator[str]:
    """Names that a node reads, those that its subgraphs take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)


class _Reader:
    """Feeds samples to the calibrator one by one: `get_next` until None."""

    def __init__(self, samples: Iterable[Arrays], steps: Steps) -> None:
        self._samples = iter(samples)
        self._steps = steps
        self._done = 0

    def get_next(self) -> dict[str, Any] | None:
        self._steps.advance(self._done)
        self._done += 1
        sample = next(self._samples, None)
        return None if sample is None else dict(sample)


def _quantized(graph: Any) -> list[str]:
    """The types of nodes to quantize. Residual sums are, too, in networks of convolutions.

    There TensorRT fuses them with the convolution before; in transformers, which are those
    with LayerNormalization, they carry outliers that need the range.
    """
    types = {node.op_type for node in graph.node}
    return [*QUANTIZED_OPS, *(() if "LayerNormalization" in types else ("Add",))]


@contextmanager
def _runtime_tools() -> Iterator[None]:
    """Let ONNX Runtime's tools import each other, and leave the path as it was.

    `onnxruntime.transformers` puts its own folder at the path's end when it is imported first, and
    its modules import each other by bare names (`import fusion_utils`).
    """
    before = list(sys.path)
    package = library("onnxruntime.transformers")
    sys.path[:] = [*before, *package.__path__]
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice on the root logger off the terminal."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)

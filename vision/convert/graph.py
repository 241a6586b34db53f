"""What does an ONNX file hold, and how is it brought into the form that the runtimes take?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vision.convert.failures import ConversionError, library, told_in_a_line
from vision.tensors import DataType, TensorSpec

MAX_BYTES = 2**31 - 1
"""Protocol buffers hold no more; the converter keeps weights within the file."""
BATCH = "batch"
OLDEST_OPSET = 13
_TYPES = {
    "BOOL": DataType.BOOL,
    "UINT8": DataType.UINT8,
    "UINT16": DataType.UINT16,
    "UINT32": DataType.UINT32,
    "UINT64": DataType.UINT64,
    "INT8": DataType.INT8,
    "INT16": DataType.INT16,
    "INT32": DataType.INT32,
    "INT64": DataType.INT64,
    "FLOAT16": DataType.FP16,
    "FLOAT": DataType.FP32,
    "DOUBLE": DataType.FP64,
}


def read(file: Path) -> Any:
    """Load an ONNX file with its weights, and check it. Raises `ConversionError`."""
    onnx = library("onnx")
    if not file.is_file():
        raise ConversionError(f"{file}: no such file")
    with told_in_a_line(f"{file}: not an ONNX model", keep=False):
        model = onnx.load(file)
    if model.ByteSize() > MAX_BYTES:
        raise ConversionError(f"{file}: models over 2 GiB are not taken")
    with told_in_a_line(f"{file}: not a valid ONNX model", keep=False):
        onnx.checker.check_model(model)
    return model


def specs(model: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs without the batch axis. Raises `ConversionError`."""
    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    return tuple(map(_spec, inputs)), tuple(map(_spec, model.graph.output))


def batch_sizes(model: Any) -> set[int | None]:
    """The sizes of the inputs' first axes; None for one that the caller chooses."""
    weights = {one.name for one in model.graph.initializer}
    return {_sizes(one)[0] for one in model.graph.input if one.name not in weights}


def free_batch(model: Any) -> Any:
    """A copy whose batch of 1 is the caller's choice, on every input and output.

    Whether the graph computes row by row is to be tried after: a Reshape in it may say 1.
    """
    copy = type(model).FromString(model.SerializeToString())
    del copy.graph.value_info[:]
    for one in (*copy.graph.input, *copy.graph.output):
        sizes = one.type.tensor_type.shape.dim
        if sizes and (sizes[0].dim_value == 1 or sizes[0].dim_param):
            sizes[0].dim_param = BATCH
    return copy


def modernize(model: Any) -> Any:
    """The model, or a copy of it in operator set 13 if its own is older.

    Q/DQ with a scale for each channel are of 13. Raises `ConversionError`.
    """
    version = next((one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}), 1)
    if version >= OLDEST_OPSET:
        return model
    with told_in_a_line(f"operator set {version} cannot be brought to {OLDEST_OPSET}"):
        return library("onnx.version_converter").convert_version(model, OLDEST_OPSET)


def simplify(source: Path, target: Path) -> None:
    """Write `source` with constants folded, and nodes left out that change nothing.

    Done by ONNX Runtime's basic optimizations, which keep to ONNX's own operators; were there any
    other afterwards, TensorRT could not read the file, and it stays as it was.
    """
    runtime = library("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    with told_in_a_line(f"{source.name}: ONNX Runtime cannot load it"):
        runtime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    before, after = read(source), read(target)
    domains = {node.domain for node in after.graph.node} - {"", "ai.onnx"}
    kept = before if domains - {node.domain for node in before.graph.node} else after
    _without_notes(kept)
    _only_used_opsets(kept)
    library("onnx").save(kept, target)


def _without_notes(model: Any) -> None:
    """Take out stack traces and names of the exporter's: a third of a small file."""
    del model.metadata_props[:]
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for one in (*model.graph.initializer, *model.graph.value_info):
        del one.metadata_props[:]
        one.doc_string = ""


def _only_used_opsets(model: Any) -> None:
    """ONNX Runtime adds every operator set of its own to the file's imports."""
    used = {"", "ai.onnx", *(node.domain for node in _nodes(model.graph))}
    imports = [(one.domain, one.version) for one in model.opset_import if one.domain in used]
    del model.opset_import[:]
    for domain, version in imports:
        model.opset_import.add(domain=domain, version=version)


def _nodes(graph: Any) -> list[Any]:
    """A graph's nodes and those of its subgraphs."""
    found = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found.extend(_nodes(inner))
    return found


def _spec(value: Any) -> TensorSpec:
    onnx = library("onnx")
    name = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    if name not in _TYPES:
        raise ConversionError(f"{value.name} is {name}, which is no type of tensors here")
    return TensorSpec(value.name, _TYPES[name], tuple(_sizes(value)[1:]))


def _sizes(value: Any) -> Sequence[int | None]:
    sizes = [
        size.dim_value if size.dim_value > 0 else None for size in value.type.tensor_type.shape.dim
    ]
    if not sizes:
        raise ConversionError(f"{value.name} has no batch axis")
    return sizes

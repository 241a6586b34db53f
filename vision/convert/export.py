"""How does a torch module become an ONNX file with a batch of any size?"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vision.convert.draft import Reference
from vision.convert.failures import ConversionError, library, told_in_a_line
from vision.convert.graph import BATCH, MAX_BYTES
from vision.tensors import Array, Arrays, TensorSpec, data_type_of

OPSET = 18
"""What torch's exporter writes by itself, thus without conversions, and TensorRT 10 and 11 read."""
EXAMPLE_ROWS = 2  # With one row the exporter would take the batch for a constant.
FREE_AXIS = 16  # What a free axis of an example measures.


@dataclass(frozen=True, slots=True)
class Module:
    """A torch module in evaluation mode; what it takes and gives, in its own order."""

    module: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]


def export(source: Module, target: Path) -> None:
    """Write the module as ONNX, FP32, with `batch` as the first axis of all tensors.

    Axes of an input's spec that are None stay free; those of different inputs are the same if
    they are at the same place (a text's length). Raises `ConversionError`, with the file in which
    the exporter's whole explanation is.
    """
    torch = library("torch")
    library("onnxscript")
    example = tuple(torch.from_numpy(array) for array in zeros(source.inputs).values())
    with _silent(), told_in_a_line("export to ONNX failed"), torch.no_grad():
        program = torch.onnx.export(
            source.module,
            example,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=[spec.name for spec in source.inputs],
            output_names=list(source.outputs),
            dynamic_shapes=_shapes(source),
            verbose=False,
        )
        model = program.model_proto
    if model.ByteSize() > MAX_BYTES:
        raise ConversionError("models over 2 GiB are not taken")
    target.write_bytes(model.SerializeToString())


def zeros(inputs: Sequence[TensorSpec], rows: int = EXAMPLE_ROWS) -> dict[str, Array]:
    """Zeros of the inputs' shapes; ones for integers, which are tokens and masks."""
    return {
        spec.name: np.full(
            (rows, *(FREE_AXIS if size is None else size for size in spec.shape)),
            1 if spec.dtype.numpy.kind in "iu" else 0,
            spec.dtype.numpy,
        )
        for spec in inputs
    }


def count_outputs(source: Module) -> int:
    """How many tensors the module gives: it is run once, on zeros. Raises `ConversionError`."""
    torch = library("torch")
    with told_in_a_line(f"{type(source.module).__name__} does not run"), torch.no_grad():
        given = (torch.from_numpy(array) for array in zeros(source.inputs).values())
        found = _flat(source.module(*given))
    for one in found:
        if not isinstance(one, torch.Tensor):
            said = f"{type(source.module).__name__} returns {type(one).__name__}"
            raise ConversionError(f"{said} among its outputs; they have to be tensors")
    return len(found)


def reference(source: Module) -> Reference:
    """The module itself, as what converted ones are measured against."""
    torch = library("torch")

    def run(inputs: Arrays) -> dict[str, Array]:
        with torch.no_grad():
            given = source.module(*(torch.from_numpy(inputs[one.name]) for one in source.inputs))
        return dict(zip(source.outputs, (one.numpy() for one in _flat(given)), strict=True))

    return run


def from_example(module: Any, example: Any, names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """The inputs that an example has: tensors in order, or by name. The first axis is the batch."""
    torch = library("torch")
    arrays = (
        example.items() if isinstance(example, dict) else zip(names, _flat(example), strict=False)
    )
    found = []
    for name, tensor in arrays:
        if not isinstance(tensor, torch.Tensor):
            said = type(tensor).__name__
            raise ConversionError(f"the example input {name} is no tensor but of the type {said}")
        if tensor.ndim == 0:
            raise ConversionError(f"the example input {name} has no batch axis")
        with told_in_a_line(f"the example input {name}", keep=False):
            dtype = data_type_of(tensor.detach().cpu().numpy().dtype)
        found.append(TensorSpec(name, dtype, tuple(tensor.shape[1:])))
    if not found:
        raise ConversionError(f"{type(module).__name__}: the example has no inputs")
    return tuple(found)


def _shapes(source: Module) -> tuple[dict[int, str], ...]:
    """Names of the axes that stay free; equal names say nothing to the exporter but read well."""
    return tuple(
        {
            0: BATCH,
            **{at: f"axis_{at}" for at, size in enumerate(spec.shape, start=1) if size is None},
        }
        for spec in source.inputs
    )


def _flat(given: Any) -> list[Any]:
    """Tensors of a module's answer: one, a tuple, or a mapping such as transformers'."""
    if isinstance(given, (list, tuple)):
        return list(given)
    if isinstance(given, dict):
        return list(given.values())
    return [given]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporter's advice off the terminal: what matters of it is in the exception."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

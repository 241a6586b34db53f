"""How do numbers in JSON and in raw bytes become arrays, without anything being guessed?

No ragged lists, no booleans or texts among numbers, no fractions for integers, nothing out
of the type's range, nothing that is not finite. A nested list of 3 x 224 x 224 floats costs 8 ms.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np

from vision.errors import BadInput
from vision.tensors import Array, Arrays, DataType, TensorSpec

MAX_ELEMENTS: Final = 64 * 2**20
"""Of one tensor; the cap on a body's bytes holds before."""

_MAX_RANK: Final = 16
_DESCRIBED: Final = frozenset({"shape", "datatype", "data"})

# Values are not shown: they may be large, and somebody's.
_KINDS: Final[dict[type, str]] = {
    bool: "a boolean",
    int: "an integer",
    float: "a fraction",
    str: "a text",
    type(None): "null",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True, slots=True)
class InferTensor:
    """One input of an infer request of the Open Inference Protocol.

    `data` is a JSON value, a flat sequence (gRPC's typed contents), or raw bytes in little-endian
    order; `shape` has the rows first.
    """

    name: str
    datatype: str
    shape: object
    data: object
    param: str


def read_tensors(
    tensors: Sequence[InferTensor], inputs: Sequence[TensorSpec], max_rows: int
) -> dict[str, Array]:
    """Return the arrays of an infer request, rows first, at most `max_rows`, equally many in each.

    Raw bytes are not copied: such an array cannot be written to. Raises `BadInput`
    (`invalid_tensor`, `invalid_value`).
    """
    specs = {spec.name: spec for spec in inputs}
    arrays: dict[str, Array] = {}
    for tensor in tensors:
        if tensor.name in arrays:
            raise _invalid(f"there are two inputs {tensor.name!r}", tensor.param)
        spec = specs.get(tensor.name)
        if spec is None:
            raise _unknown(tensor.name, specs, tensor.param)
        arrays[tensor.name] = _infer_array(tensor, spec, max_rows)
    _check_names(arrays, specs, "inputs")
    if len({array.shape[0] for array in arrays.values()}) > 1:
        raise _invalid("the tensors do not have equally many rows", "inputs")
    return arrays


def _infer_array(tensor: InferTensor, spec: TensorSpec, max_rows: int) -> Array:
    param = tensor.param
    _check_type(tensor.datatype, spec, param)
    shape = _shape(tensor.shape, param)
    _check_shape(shape[1:], spec, param)
    if not shape or shape[0] > max_rows:
        raise _invalid(f"it has to have 1 to {max_rows} rows", param)
    return _laid(tensor.data, spec.dtype, shape, param)


def _laid(data: object, dtype: DataType, shape: Sequence[int], param: str) -> Array:
    """Lay data out in a declared shape: raw bytes, flat, or nested in just that shape."""
    if isinstance(data, bytes | bytearray | memoryview):
        return from_raw(data, dtype, shape, param)
    if isinstance(data, str) or not isinstance(data, Sequence):
        raise _invalid("its data is not a list", param)
    if not data or not isinstance(data[0], list):
        return from_flat(data, dtype, shape, param)
    array = from_json(data, dtype, len(shape), param)
    if array.shape != tuple(shape):
        raise _invalid(f"its data has the shape {list(array.shape)}, it says {list(shape)}", param)
    return array


def read_row(tensors: Mapping[str, object], inputs: Sequence[TensorSpec], param: str) -> Arrays:
    """Return the arrays of one item's tensors by name, as one row."""
    specs = {spec.name: spec for spec in inputs}
    _check_names(tensors, specs, param)
    return {name: _row(value, specs[name], f"{param}.{name}") for name, value in tensors.items()}


def _row(value: object, spec: TensorSpec, param: str) -> Array:
    if isinstance(value, dict):
        if value.keys() != _DESCRIBED:
            raise _invalid("an object has to have `shape`, `datatype` and `data`", param)
        _check_type(value["datatype"], spec, param)
        array = _laid(value["data"], spec.dtype, _shape(value["shape"], param), param)
    else:
        array = from_json(value, spec.dtype, len(spec.shape) + 1, param)
    # One item is one row, whether or not it says so.
    if len(array.shape) == len(spec.shape) + 1 and array.shape[0] == 1:
        _check_shape(array.shape[1:], spec, param)
        return array
    _check_shape(array.shape, spec, param)
    return array[None]


def _check_names(found: Mapping[str, object], specs: Mapping[str, TensorSpec], param: str) -> None:
    for name in found:
        if name not in specs:
            raise _unknown(name, specs, param)
    missing = [name for name in specs if name not in found]
    if missing:
        raise _invalid(f"the input {missing[0]!r} is missing", param)


def _unknown(name: str, specs: Mapping[str, TensorSpec], param: str) -> BadInput:
    known = ", ".join(specs)
    return _invalid(f"the model has no input {name[:64]!r}; it has {known}", param)


def _check_type(datatype: object, spec: TensorSpec, param: str) -> None:
    if datatype != spec.dtype:
        raise _invalid(f"the model takes {spec.dtype} here", param)


def _check_shape(shape: Sequence[int], spec: TensorSpec, param: str) -> None:
    if not spec.fits(shape):
        wanted = [-1 if size is None else size for size in spec.shape]
        raise _invalid(
            f"a row has the shape {list(shape)}; the model takes {wanted} (-1 is any)", param
        )


def guess_count(value: object) -> int:
    """Guess how many numbers a tensor's JSON has, by the first list of each depth; cheap."""
    count = 1
    data = value.get("data") if isinstance(value, dict) else value
    while isinstance(data, list) and data:
        count *= len(data)
        data = data[0]
    return count


def from_json(value: object, dtype: DataType, max_rank: int, param: str) -> Array:
    """Return the array that a number or nested list says, with the shape of its nesting.

    Raises `BadInput`: `invalid_tensor` for its form, `invalid_value` for its numbers.
    """
    shape: list[int] = []
    level: Sequence[object] = [value]
    nested: Any = value
    while isinstance(nested, list):
        if len(shape) == max_rank:
            raise _invalid(f"it has more than {max_rank} dimensions", param)
        lengths = set(map(len, level))  # type: ignore[arg-type]  # all are lists, as checked below
        if len(lengths) > 1:
            raise _invalid("its lists are not equally long", param)
        shape.append(lengths.pop())
        level = list(chain.from_iterable(level))  # type: ignore[arg-type]  # as above
        if not level:
            raise _invalid("it is empty", param)
        nested = level[0]
        if isinstance(nested, list) and set(map(type, level)) != {list}:
            raise _invalid("its lists are not equally deep", param)
    return _numbers(level, dtype, param).reshape(shape)


def from_flat(values: Sequence[object], dtype: DataType, shape: Sequence[int], param: str) -> Array:
    """Return the array of a flat sequence of numbers, row-major. Raises like `from_json`."""
    count = math.prod(shape)
    if len(values) != count:
        raise _invalid(f"it has {len(values)} values, its shape {list(shape)} needs {count}", param)
    return _numbers(values, dtype, param).reshape(shape)


def from_raw(
    data: bytes | bytearray | memoryview, dtype: DataType, shape: Sequence[int], param: str
) -> Array:
    """Return a view of little-endian bytes, row-major; raises like `from_json`."""
    size = math.prod(shape) * dtype.numpy.itemsize
    if len(data) != size:
        raise _invalid(
            f"it has {len(data)} bytes, {dtype} of shape {list(shape)} needs {size}", param
        )
    array: Array = np.frombuffer(data, dtype.numpy.newbyteorder("<")).reshape(shape)
    if dtype is DataType.BOOL and (array.view(np.uint8) > 1).any():
        raise _bad_value("a boolean is a byte of 0 or 1", param)
    return finite(array.astype(dtype.numpy, copy=False), param)


def _shape(declared: object, param: str) -> tuple[int, ...]:
    """Return a declared shape, which has to be a list of positive integers."""
    if isinstance(declared, str | bytes) or not isinstance(declared, Sequence):
        raise _invalid("its shape is not a list of positive integers", param)
    shape = tuple(size for size in declared if type(size) is int and size > 0)
    if len(shape) != len(declared) or len(shape) > _MAX_RANK:
        raise _invalid("its shape is not a list of positive integers", param)
    if math.prod(shape) > MAX_ELEMENTS:
        raise _invalid(f"its shape has more than {MAX_ELEMENTS} elements", param)
    return shape


def finite(array: Array, param: str) -> Array:
    """Return the array; raise `BadInput` (`invalid_value`) if a value of it is not finite."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _bad_value("it has values that are not finite", param)
    return array


def _invalid(why: str, param: str) -> BadInput:
    """Say what is wrong with a tensor's form."""
    return BadInput(f"{param}: {why}.", code="invalid_tensor", param=param)


def _bad_value(why: str, param: str) -> BadInput:
    return BadInput(f"{param}: {why}.", code="invalid_value", param=param)


def _numbers(values: Sequence[object], dtype: DataType, param: str) -> Array:
    """Turn a flat sequence of Python numbers into an array of the type."""
    kind = dtype.numpy.kind
    allowed = {bool} if kind == "b" else {int, float} if kind == "f" else {int}
    others = set(map(type, values)) - allowed
    if others:
        found = sorted(_KINDS.get(kind, "something else") for kind in others)
        raise _invalid(f"{found[0]} is not a value of {dtype}", param)
    if len(values) > MAX_ELEMENTS:
        raise _invalid(f"it has {len(values)} elements, at most {MAX_ELEMENTS} are taken", param)
    try:
        with np.errstate(over="ignore"):  # Infinity is what is looked for.
            array: Array = np.array(values, dtype.numpy)
    except OverflowError:
        raise _bad_value(f"it has values out of the range of {dtype}", param) from None
    return finite(array, param)

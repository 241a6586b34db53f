"""Which element types and shapes do models take, under the names of the Open Inference Protocol?

Pure: values only. Shapes never count the batch axis, which is always the first one of an array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
"""Tensors by name."""


class DataType(StrEnum):
    """Element types, by the protocol's names; `BYTES` is none, for no runtime here takes it."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The same type in numpy, in the machine's byte order."""
        return _NUMPY[self]


_NUMPY = {
    DataType.BOOL: np.dtype(np.bool_),
    DataType.UINT8: np.dtype(np.uint8),
    DataType.UINT16: np.dtype(np.uint16),
    DataType.UINT32: np.dtype(np.uint32),
    DataType.UINT64: np.dtype(np.uint64),
    DataType.INT8: np.dtype(np.int8),
    DataType.INT16: np.dtype(np.int16),
    DataType.INT32: np.dtype(np.int32),
    DataType.INT64: np.dtype(np.int64),
    DataType.FP16: np.dtype(np.float16),
    DataType.FP32: np.dtype(np.float32),
    DataType.FP64: np.dtype(np.float64),
}
_BY_NUMPY = {dtype: name for name, dtype in _NUMPY.items()}


def data_type_of(dtype: np.dtype[Any]) -> DataType:
    """The protocol's name of a numpy type; `ValueError` if it has none."""
    try:
        return _BY_NUMPY[dtype]
    except KeyError:
        raise ValueError(f"no tensor type of ours is {dtype}") from None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model; `shape` is without the batch axis, None stands for any."""

    name: str
    dtype: DataType
    shape: tuple[int | None, ...]

    def fits(self, shape: Sequence[int]) -> bool:
        """Say whether a row of this shape (no batch axis) is one that the model takes."""
        return len(shape) == len(self.shape) and all(
            want is None or want == size for want, size in zip(self.shape, shape, strict=True)
        )

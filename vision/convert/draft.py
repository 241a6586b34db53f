"""What is known of a model before it is converted?

Pure: values only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vision.config import ModelConfig
from vision.tensors import Array, Arrays, TensorSpec

Reference = Callable[[Arrays], dict[str, Array]]
"""The source itself: batches in, outputs by name. What is converted is measured against it."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A source that has become an FP32 ONNX file.

    `config` is what the repository is to say of it, `labels` its classes if it knows them.
    `max_batch` is 1 for a file that has this batch built in, None for any.
    """

    source: str
    file: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    config: ModelConfig
    reference: Reference
    labels: tuple[str, ...] | None = None
    max_batch: int | None = None
    notes: tuple[str, ...] = ()

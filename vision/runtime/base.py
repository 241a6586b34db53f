"""What must something that executes model files be able to do?

    Runtime.load(file) ──► Loaded ──► instance() ──► Instance.run(inputs) ──► outputs

A runtime is one module and one line in `vision.runtime.registry`. `load` and `instance` may take
seconds and block: they are called off the event loop. An `Instance` belongs to one
thread at a time.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from vision.config import ModelConfig
from vision.tensors import Array, Arrays, DataType, TensorSpec


class Instance(Protocol):
    """One execution context, with buffers of its own."""

    def allocate(self, dtype: DataType, shape: tuple[int, ...]) -> Array:
        """A host buffer that `run` reads without a copy: pinned on a GPU, plain elsewhere.

        `run` takes it and whatever begins where it begins, such as its first rows. It is valid
        until `close`.
        """

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Execute one batch.

        `inputs` have the batch axis first, the same rows each, at most `Loaded.max_batch`; they are
        C-contiguous, of the spec's types. Returns every output with the same rows first, in
        arrays that stay valid until the next `run` at least. Raises whatever the library raises.
        """

    def close(self) -> None:
        """Give back what it holds; it is not used after."""


class Loaded(Protocol):
    """One version's file in memory, from which instances are made."""

    runtime: str
    device: str  # "cpu", "cuda:0"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int  # What the file allows, at most the configured one.
    memory_bytes: int  # An estimate of the weights' place; the budget counts it.

    def instance(self) -> Instance:
        """Make one more execution context."""

    def close(self) -> None:
        """Give the memory back; its instances are closed before."""


class Runtime(Protocol):
    """A library that executes files of one kind."""

    name: ClassVar[str]
    file_name: ClassVar[str]  # "model.onnx"

    def load(self, file: Path, config: ModelConfig) -> Loaded:
        """Load a file for the configured device and batch.

        Raises `MissingLibrary` if the library is not installed or finds no device of the kind that
        the configuration demands, `LoadError` with the reason for a file that it cannot take or
        whose inputs and outputs are not those that the configuration names.
        """

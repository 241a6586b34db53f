"""How does a converted file run while it is measured? With the service's own runtimes."""

from __future__ import annotations

from pathlib import Path

from vision.config import Batching, Instances, ModelConfig
from vision.convert.draft import Reference
from vision.runtime.registry import RUNTIMES
from vision.tensors import Array, Arrays

_PLENTY = 4096


def open_file(runtime: str, file: Path, device: str) -> Reference:
    """Load a file as the service would; `runtime` is a name of the registry.

    What it returns takes a batch and gives outputs that stay the caller's. Raises `LoadError`.
    """
    config = ModelConfig(
        batching=Batching(max_batch=_PLENTY), instances=Instances(device=device, threads=1)
    )
    instance = RUNTIMES[runtime].load(file, config).instance()

    def run(inputs: Arrays) -> dict[str, Array]:
        return {name: array.copy() for name, array in instance.run(inputs).items()}

    return run


def open_onnx(file: Path) -> Reference:
    """An ONNX file on one thread of the CPU."""
    return open_file("onnx", file, "cpu")

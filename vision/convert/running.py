"""How does a converted file run while it is measured? With the service's own runtimes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vision.config import Batching, Instances, ModelConfig
from vision.convert.draft import Reference
from vision.runtime.registry import RUNTIMES
from vision.tensors import Array, Arrays

_PLENTY = 4096


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that is loaded as the service would load it; `max_batch` is the most that it takes.

    What `run` returns stays the caller's.
    """

    run: Reference
    max_batch: int


def open_file(runtime: str, file: Path, device: str, threads: int = 1) -> Opened:
    """Load a file; `runtime` is a name of the registry. Raises `LoadError`."""
    config = ModelConfig(
        batching=Batching(max_batch=_PLENTY), instances=Instances(device=device, threads=threads)
    )
    loaded = RUNTIMES[runtime].load(file, config)
    instance = loaded.instance()

    def run(inputs: Arrays) -> dict[str, Array]:
        return {name: array.copy() for name, array in instance.run(inputs).items()}

    return Opened(run, loaded.max_batch)


def all_cores() -> int:
    """The threads to compare with; latency is measured with one, as the service runs."""
    return os.cpu_count() or 1


def open_onnx(file: Path) -> Reference:
    """An ONNX file on one thread of the CPU."""
    return open_file("onnx", file, "cpu").run

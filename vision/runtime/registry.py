"""Which runtime executes a version's folder, and what if the first choice cannot?

    config.runtimes: tensorrt, onnx, torch     the order to try
    in the folder:             x     x         the files that are there
                                                → onnx, and torch if onnx fails

So one repository serves plans where there is a GPU and ONNX where there is none. Each failure is
logged with its reason, since what serves instead may be slower.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from vision.config import ModelConfig
from vision.errors import LoadError, MissingLibrary
from vision.runtime.base import Loaded, Runtime
from vision.runtime.onnx import OnnxRuntime
from vision.runtime.tensorrt import TensorRtRuntime
from vision.runtime.torch import TorchRuntime

_log = logging.getLogger("sluice.vision.runtime")

_ALL: tuple[Runtime, ...] = (TensorRtRuntime(), OnnxRuntime(), TorchRuntime())
RUNTIMES: Mapping[str, Runtime] = MappingProxyType({one.name: one for one in _ALL})


def choose(folder: Path, config: ModelConfig) -> Iterator[tuple[Runtime, Path]]:
    """The runtimes whose file is in `folder`, in the configured order."""
    for name in config.runtimes:
        runtime = RUNTIMES[name]
        file = folder / runtime.file_name
        if file.is_file():
            yield runtime, file


def load(folder: Path, config: ModelConfig) -> Loaded:
    """Load the first file that can be loaded. Blocks, for seconds maybe.

    A file that cannot is logged with its reason, and the next one is tried. Raises `LoadError` with
    every file and its reason if none can, `MissingLibrary` if it was the library each time.
    """
    failures: list[LoadError] = []
    for runtime, file in choose(folder, config):
        try:
            loaded = runtime.load(file, config)
        except LoadError as error:
            _log.warning("not loaded with %s: %s", runtime.name, error)
            failures.append(error)
        else:
            return loaded
    if not failures:
        names = ", ".join(RUNTIMES[name].file_name for name in config.runtimes)
        raise LoadError(f"{folder}: no file to load: looked for {names}")
    kind = MissingLibrary if all(isinstance(e, MissingLibrary) for e in failures) else LoadError
    raise kind("; ".join(map(str, failures)))

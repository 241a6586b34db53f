"""How does TensorRT come to execute `model.plan`, and what if it is not installed?

Light: what imports TensorRT and CUDA is `vision.runtime.engine`, loaded with the first plan.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vision.config import ModelConfig
from vision.errors import LoadError, MissingLibrary
from vision.runtime.base import Loaded
from vision.runtime.loading import reason


class TensorRtRuntime:
    """Executes plans of TensorRT 10 and later on a CUDA device; precision is in the plan."""

    name: ClassVar[str] = "tensorrt"
    file_name: ClassVar[str] = "model.plan"

    def load(self, file: Path, config: ModelConfig) -> Loaded:
        """See `Runtime.load`. There is no CPU to fall back to: `cpu` is a `LoadError`."""
        if config.instances.device == "cpu":
            raise LoadError(f"{file}: a plan runs on CUDA only, and the device is cpu")
        try:
            # Here, since it imports TensorRT and CUDA, which only the extra brings.
            from vision.runtime.engine import load  # noqa: PLC0415
        except ImportError as error:
            raise MissingLibrary(
                f"{file}: {reason(error)}: pip install 'sluice[vision-tensorrt]'"
            ) from error
        return load(file, config)

"""Can a plan be built here, and if not, what is missing?

Light: what imports TensorRT is `vision.convert.plan`, loaded when there is something to build with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vision.convert.failures import first_line
from vision.convert.options import PlanOptions, Profile
from vision.convert.progress import Steps
from vision.errors import MissingLibrary

_EXTRA = "pip install 'sluice[vision-tensorrt]'"


def missing() -> str | None:
    """What a plan would need that is not here, in words; None if it can be built."""
    try:
        import tensorrt  # noqa: F401, PLC0415 - only the extra brings it
    except ImportError as error:
        return f"TensorRT is not installed ({first_line(error)}): {_EXTRA}"
    except OSError as error:  # The bindings are there, its libraries are not.
        return f"TensorRT's libraries cannot be loaded ({first_line(error)}): {_EXTRA}"
    try:
        from vision.runtime import cuda  # noqa: PLC0415 - only the extra brings cuda-python
    except ImportError as error:
        return f"cuda-python is not installed ({first_line(error)}): {_EXTRA}"
    try:
        count = cuda.device_count()
    except cuda.CudaError as error:
        return f"CUDA cannot be used: {error}"
    return None if count else "there is no CUDA device, and a plan is built on the GPU it is for"


def build(
    model: Path,
    target: Path,
    profiles: Sequence[Mapping[str, Profile]],
    options: PlanOptions,
    steps: Steps,
) -> str | None:
    """Build the plan, if that can be and is wanted; return why it was not built, None if it was.

    Raises `MissingLibrary` if it is wanted without an if, and what `plan.build` raises.
    """
    if options.build is False:
        return "not asked for (--no-plan)"
    lacking = missing()
    if lacking is not None:
        if options.build:
            raise MissingLibrary(f"no plan can be built here: {lacking}")
        return lacking
    from vision.convert import plan  # noqa: PLC0415 - imports TensorRT

    plan.build(model, target, profiles, options, steps)
    return None

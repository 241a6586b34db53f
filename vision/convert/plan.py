"""How does TensorRT build a plan of an ONNX file?

    ONNX ──► parser ──► network ──┐
    shapes ──► profiles ──────────┼──► builder ──► plan
    timing cache ──► config ──────┘       └──► timing cache

Written for TensorRT 10.9 to 11: the types are the file's (strongly typed), so that there are no
precision flags. Which layers are fused and which kernels run is TensorRT's own business.

Imports TensorRT, so import it only where a plan is wanted.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, SupportsInt, cast

import tensorrt as trt

from vision.convert.failures import ConversionError
from vision.convert.options import PlanOptions, Profile
from vision.convert.progress import Steps
from vision.runtime.engine import Messages

ALWAYS_STRONGLY_TYPED = 11
"""From this version on a network is strongly typed without being told (and the flag deprecated)."""


def build(
    model: Path,
    target: Path,
    profiles: Sequence[Mapping[str, Profile]],
    options: PlanOptions,
    steps: Steps,
) -> None:
    """Write the plan of `model` to `target`, for this machine's GPU; minutes, mostly.

    The timing cache is read if it is there, and written back with what the build has learned.
    Raises `ConversionError` with TensorRT's reason, `KeyboardInterrupt` if it was interrupted.
    """
    messages = Messages()
    trt.init_libnvinfer_plugins(cast("Any", messages), "")  # By its stub it takes a capsule.
    builder = trt.Builder(messages)
    network = builder.create_network(_flags())
    parser = trt.OnnxParser(network, messages)
    if not parser.parse(model.read_bytes()):
        said = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        reason = " ".join(said[0].split()) if said else messages.why()
        raise ConversionError(f"TensorRT does not read the model: {reason}")
    config = _config(builder, profiles, options)
    cache = _timing_cache(config, options.timing_cache)
    with _interrupts() as pressed:
        monitor = Monitor(steps, pressed)
        config.progress_monitor = monitor
        plan: trt.IHostMemory | None = builder.build_serialized_network(network, config)
    if pressed:
        raise KeyboardInterrupt
    if plan is None:
        raise ConversionError(f"TensorRT does not build the plan: {messages.why()}")
    target.write_bytes(_bytes(plan))
    if cache is not None and options.timing_cache is not None:
        _replace(options.timing_cache, _bytes(config.get_timing_cache().serialize()))


class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # Any where tensorrt is not installed.
    """Passes TensorRT's phases on; called from the building thread, and maybe from others."""

    def __init__(self, steps: Steps, pressed: Sequence[object]) -> None:
        trt.IProgressMonitor.__init__(self)  # As its documentation demands, instead of super().
        self._steps = steps
        self._pressed = pressed

    def phase_start(
        self, phase_name: str, parent_phase: str | None, num_steps: SupportsInt
    ) -> None:
        """A phase begins."""
        self._steps.open(phase_name, parent_phase, int(num_steps))

    def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
        """A part of a phase is done; False ends the build."""
        self._steps.move(phase_name, int(step) + 1)
        return not self._pressed

    def phase_finish(self, phase_name: str) -> None:
        """A phase is over."""
        self._steps.close(phase_name)


def _bytes(memory: trt.IHostMemory) -> bytes:
    """A copy; its stub does not say that it is a buffer."""
    return bytes(cast("Any", memory))


def _flags() -> int:
    if int(trt.__version__.partition(".")[0]) >= ALWAYS_STRONGLY_TYPED:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _config(
    builder: trt.Builder, profiles: Sequence[Mapping[str, Profile]], options: PlanOptions
) -> trt.IBuilderConfig:
    config = builder.create_builder_config()
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.level is not None:
        config.builder_optimization_level = options.level
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, one in shapes.items():
            profile.set_shape(name, trt.Dims(one.least), trt.Dims(one.usual), trt.Dims(one.most))
        if config.add_optimization_profile(profile) < 0:
            raise ConversionError(f"TensorRT does not take the profile of {', '.join(shapes)}")
    return config


def _timing_cache(config: trt.IBuilderConfig, file: Path | None) -> trt.ITimingCache | None:
    """Attach the cache; one of another GPU or version is not taken, and then replaced."""
    if file is None:
        return None
    known = file.read_bytes() if file.is_file() else b""
    cache = config.create_timing_cache(known)
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _replace(file: Path, data: bytes) -> None:
    """Write the whole file or nothing: two builds may share it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    with os.fdopen(number, "wb") as stream:
        stream.write(data)
    Path(name).replace(file)


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Note a Ctrl-C instead of raising: an exception in TensorRT's callback would end the process.

    The list is no longer empty from then on, and the build ends after its present step.
    """
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # Not on the main thread, which alone gets signals.
        yield pressed
        return
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)

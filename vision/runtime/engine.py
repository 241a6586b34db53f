"""What is in a TensorRT plan, and how is it loaded?

    plan ──► engine     weights and kernels, once for a version
              ├─ profiles   which batches and sizes it was built for
              └─ contexts   the state of executions: `vision.runtime.contexts`

Only plans whose outputs' shapes follow from the inputs' are taken: one whose shapes depend on the
values (non-maximum suppression inside) would need memory allocated in the midst of each run. Plans
that bring host code of their own are refused by TensorRT, as `engine_host_code_allowed` stays off.

Imports TensorRT and CUDA, so import it only where they are wanted.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import tensorrt as trt

from vision.config import ModelConfig
from vision.errors import LoadError, MissingLibrary
from vision.runtime import cuda
from vision.runtime.base import Instance, Loaded
from vision.runtime.buckets import Range, buckets_of
from vision.runtime.contexts import PlanInstance
from vision.runtime.loading import Axis, agreed, batch_limit, ordinal, reason, split_batch
from vision.tensors import DataType, TensorSpec

_REBUILD = (
    "a plan runs only with the version of TensorRT and on the kind of GPU that it was built "
    "with: build it there with `sluice vision convert`"
)


class Messages(trt.ILogger):  # type: ignore[misc]  # Any where tensorrt is not installed.
    """TensorRT's last warnings and errors: its calls return None and say here why."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)  # As its documentation demands, instead of super().
        self._last: deque[str] = deque(maxlen=16)
        self._errors: deque[str] = deque(maxlen=16)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from threads of its own too."""
        if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
            self._errors.append(msg)
        elif severity == trt.ILogger.Severity.WARNING:
            self._last.append(msg)

    def why(self) -> str:
        """The first error since the last call, else the last warning, in one line."""
        said = self._errors[0] if self._errors else self._last[-1] if self._last else "no reason"
        self._errors.clear()
        return " ".join(said.split())


@dataclass(frozen=True, slots=True)
class Profile:
    """One optimization profile: the batches, and the largest shape of each input."""

    batches: Range
    largest: dict[str, tuple[int, ...]]


def load(file: Path, config: ModelConfig) -> Loaded:
    """See `Runtime.load`."""
    device = ordinal(config.instances.device)
    _check_device(file, device)
    messages = Messages()
    try:
        # Plugins that come with TensorRT, such as those of detection heads.
        trt.init_libnvinfer_plugins(cast("Any", messages), "")  # By its stub it takes a capsule.
        runtime = trt.Runtime(messages)
        engine: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(file.read_bytes())
        if engine is None:
            raise LoadError(f"{file}: {messages.why()} ({_REBUILD})")
        return Plan(engine, messages, device, file, config)
    except (cuda.CudaError, OSError, RuntimeError, TypeError) as error:
        # A TypeError is pybind11's "factory function returned nullptr": CUDA does not start.
        raise LoadError(f"{file}: {reason(error)}") from error


class Plan:
    """A deserialized engine, from which instances are made."""

    __slots__ = (
        "_buckets",
        "_capacities",
        "_engine",
        "_messages",
        "_number",
        "_profiles",
        "device",
        "inputs",
        "max_batch",
        "memory_bytes",
        "outputs",
        "runtime",
    )

    def __init__(
        self,
        engine: trt.ICudaEngine,
        messages: Messages,
        device: int,
        file: Path,
        config: ModelConfig,
    ) -> None:
        inputs, outputs, batches = _specs(engine, file)
        self.inputs = agreed(file, "input", inputs, config.inputs)
        self.outputs = agreed(file, "output", outputs, config.outputs)
        self._profiles = _profiles(engine, inputs)
        most = max(profile.batches.most for profile in self._profiles)
        wanted = min(config.batching.max_batch, most)
        self.max_batch = batch_limit(file, *batches, wanted)
        self._buckets = buckets_of(config.batching.preferred, self.max_batch)
        self._capacities = _capacities(engine, self._profiles, (inputs, outputs), file)
        each = engine.device_memory_size_v2 + sum(self._capacities.values())
        self.memory_bytes = file.stat().st_size + config.instances.count * each
        self.runtime = "tensorrt"
        self.device = f"cuda:{device}"
        self._number = device
        self._messages = messages
        self._engine: trt.ICudaEngine | None = engine

    def instance(self) -> Instance:
        """See `Loaded.instance`. Allocates its scratch memory, buffers and a stream."""
        if self._engine is None:
            raise LoadError("the plan is closed")
        return PlanInstance(self, self._engine, self._messages.why)

    @property
    def number(self) -> int:
        """The device's number."""
        return self._number

    @property
    def batches(self) -> list[Range]:
        """What each optimization profile allows."""
        return [profile.batches for profile in self._profiles]

    @property
    def buckets(self) -> tuple[int, ...]:
        """The batches that get a CUDA graph."""
        return self._buckets

    @property
    def capacities(self) -> dict[str, int]:
        """Bytes that each input and output, also those that nobody wants, needs at most."""
        return self._capacities

    def close(self) -> None:
        """Let the engine go; TensorRT frees it with the last reference."""
        self._engine = None


def _check_device(file: Path, device: int) -> None:
    try:
        count = cuda.device_count()
    except cuda.CudaError as error:
        raise LoadError(f"{file}: {error}") from error
    if count == 0:
        raise MissingLibrary(f"{file}: no CUDA device or no driver for one on this machine")
    if device >= count:
        raise LoadError(f"{file}: there is no device cuda:{device}, only {count} in all")
    cuda.use(device)


def _specs(
    engine: trt.ICudaEngine, file: Path
) -> tuple[list[TensorSpec], list[TensorSpec], tuple[list[Axis], list[Axis]]]:
    """The inputs and the outputs as the plan has them, and the batch axes of both."""
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    batches: tuple[list[Axis], list[Axis]] = ([], [])
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.is_shape_inference_io(name):
            raise LoadError(f"{file}: {name} holds a shape, not a row of data")
        if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
            raise LoadError(f"{file}: {name} is vectorized: build the plan with linear formats")
        sizes: list[Axis] = [size if size >= 0 else None for size in _sizes(engine, name)]
        batch, shape = split_batch(file, name, sizes)
        spec = TensorSpec(name, _data_type(engine.get_tensor_dtype(name), name, file), shape)
        goes_in = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if goes_in else outputs).append(spec)
        batches[0 if goes_in else 1].append(batch)
    return inputs, outputs, batches


def _sizes(engine: trt.ICudaEngine, name: str) -> list[int]:
    dims = engine.get_tensor_shape(name)
    return [dims[axis] for axis in range(len(dims))]


def _data_type(found: trt.DataType, name: str, file: Path) -> DataType:
    types = {
        trt.DataType.BOOL: DataType.BOOL,
        trt.DataType.UINT8: DataType.UINT8,
        trt.DataType.INT8: DataType.INT8,
        trt.DataType.INT32: DataType.INT32,
        trt.DataType.INT64: DataType.INT64,
        trt.DataType.HALF: DataType.FP16,
        trt.DataType.FLOAT: DataType.FP32,
    }
    if found not in types:
        raise LoadError(f"{file}: {name} is {found}, which is no type of tensors here")
    return types[found]


def _profiles(engine: trt.ICudaEngine, inputs: list[TensorSpec]) -> list[Profile]:
    """A profile allows the batches that it allows for every input."""
    profiles = []
    for index in range(engine.num_optimization_profiles):
        ranges = {spec.name: engine.get_tensor_profile_shape(spec.name, index) for spec in inputs}
        least = max(shapes[0][0] for shapes in ranges.values())
        most = min(shapes[2][0] for shapes in ranges.values())
        largest = {
            name: (most, *(shapes[2][axis] for axis in range(1, len(shapes[2]))))
            for name, shapes in ranges.items()
        }
        profiles.append(Profile(Range(least, most), largest))
    return profiles


def _capacities(
    engine: trt.ICudaEngine,
    profiles: list[Profile],
    specs: tuple[list[TensorSpec], list[TensorSpec]],
    file: Path,
) -> dict[str, int]:
    """Bytes of every input and output at its largest, over all profiles.

    A context without memory of its own tells the outputs' shapes for the inputs' largest ones.
    """
    context: trt.IExecutionContext | None = engine.create_execution_context(
        trt.ExecutionContextAllocationStrategy.USER_MANAGED
    )
    if context is None:
        raise LoadError(f"{file}: TensorRT makes no execution context of it")
    sizes = {spec.name: 0 for kind in specs for spec in kind}
    with cuda.Stream() as stream:
        for index, profile in enumerate(profiles):
            context.set_optimization_profile_async(index, stream.handle)
            stream.wait()
            for name, shape in profile.largest.items():
                context.set_input_shape(name, shape)
            for spec in (*specs[0], *specs[1]):
                dims = context.get_tensor_shape(spec.name)
                shape = tuple(dims[axis] for axis in range(len(dims)))
                if min(shape) < 0:
                    raise LoadError(f"{file}: the shape of {spec.name} depends on the values")
                needed = math.prod(shape) * spec.dtype.numpy.itemsize
                sizes[spec.name] = max(sizes[spec.name], needed)
    return sizes

"""TensorRT without a GPU: plans that are JSON, and engines that run them on `FakeCuda`, strictly.

A plan's outputs are sums: each value of an output's row is the sum of all values of the inputs'
rows, times one more than its place. So every row tells which row it came from.

    plan(inputs={"x": (-1, 4)}, outputs={"y": (-1, 2)}, profiles=[{"x": (1, 4, 8)}])

`set_input_shape` checks the profile, `execute_async_v3` wants every shape, address and the scratch
memory, and a graph may only be recorded of a context that has run at its shapes and may only
be launched while it stands at them. `scripts/trt_types.py` compares names and parameters with the
real bindings.
"""

from __future__ import annotations

import ctypes
import json
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np

from tests.support.fake_cuda import FakeCuda, Misuse

_MAGIC = b"fake plan\n"
_OURS = ("vision.runtime.engine", "vision.runtime.contexts", "vision.runtime.cuda")


def plan(
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
    profiles: Sequence[Mapping[str, Any]] = (),
    **rest: Any,
) -> bytes:
    """A plan; -1 is a size that the caller chooses, `profiles` give (least, best, most) batches,
    or whole shapes. `rest`: `dtypes`, `formats`, `shape_tensors`, `scratch`.
    """
    said = {"inputs": inputs, "outputs": outputs, "profiles": list(profiles), **rest}
    return _MAGIC + json.dumps(said).encode()


class DataType(Enum):
    FLOAT = "float32"
    HALF = "float16"
    BF16 = "bfloat16"
    INT8 = "int8"
    INT32 = "int32"
    INT64 = "int64"
    BOOL = "bool"
    UINT8 = "uint8"


class TensorIOMode(Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorFormat(Enum):
    LINEAR = 0
    CHW32 = 5


class ExecutionContextAllocationStrategy(Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class ILogger:
    class Severity(Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        self.ready = True

    def log(self, severity: ILogger.Severity, msg: str) -> None:
        raise NotImplementedError


class Dims:
    """Not a tuple, and not iterable by its stub: sizes by index."""

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self._shape = tuple(shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, arg0: int) -> int:
        return self._shape[arg0]

    __iter__ = None


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        if not getattr(logger, "ready", False):
            raise Misuse("ILogger.__init__ was not called")
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        cuda = _cuda()
        if cuda.called("cudaSetDevice") == 0:
            raise Misuse("an engine goes to the thread's device, and none was chosen")
        if not serialized_engine.startswith(_MAGIC):
            self._logger.log(
                ILogger.Severity.ERROR,
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization "
                "(Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed.\n"
                "Version tag does not match.)",
            )
            return None
        return ICudaEngine(json.loads(serialized_engine[len(_MAGIC) :]), self._logger)


class ICudaEngine:
    def __init__(self, said: dict[str, Any], logger: ILogger) -> None:
        self.said = said
        self.logger = logger
        self.shapes: dict[str, list[int]] = said["inputs"] | said["outputs"]
        self.no_contexts_after: int | None = said.get("contexts")
        self.made = 0

    def _complain(self, error: str) -> None:
        self.logger.log(ILogger.Severity.ERROR, error)

    @property
    def num_io_tensors(self) -> int:
        return len(self.shapes)

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self.said["profiles"]))

    @property
    def device_memory_size_v2(self) -> int:
        return int(self.said.get("scratch", 0))

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.said["inputs"] else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self.shapes[name])

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self.said.get("dtypes", {}).get(name, "FLOAT")]

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat[self.said.get("formats", {}).get(name, "LINEAR")]

    def is_shape_inference_io(self, name: str) -> bool:
        return name in self.said.get("shape_tensors", ())

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        profiles = self.said["profiles"]
        three = profiles[profile_index][name] if profiles else [self.shapes[name]] * 3
        if isinstance(three[0], int):
            three = [[batch, *self.shapes[name][1:]] for batch in three]
        return [Dims(shape) for shape in three]

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC,
    ) -> IExecutionContext | None:
        if strategy is not ExecutionContextAllocationStrategy.USER_MANAGED:
            raise Misuse("a context with memory of its own")
        self.made += 1
        if self.no_contexts_after is not None and self.made > self.no_contexts_after:
            self._complain("out of memory for a context")
            return None
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)
        self._ran_at: Any = None
        self._graphs = 0
        weakref.finalize(self, _cuda().journal.append, ("context freed",))

    def set_device_memory(self, memory: int, size: int) -> None:
        if size < self._engine.device_memory_size_v2:
            raise Misuse("too little scratch memory")
        _cuda().block(memory, size, "device")
        self._scratch = memory, size

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name in self._engine.said.get("bad_addresses", ()):
            self._engine._complain(f"{name}: not aligned")
            return False
        _cuda().block(memory, 1, "device")
        self._addresses[name] = memory
        return True

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        cuda = _cuda()
        cuda.begin(cuda.stream(stream_handle), lambda: None)  # It may copy what it needs.
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return False
        self._profile = profile_index
        self._shapes.clear()
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        fits = len(shape) == len(least) and all(
            least[axis] <= size <= most[axis] for axis, size in enumerate(shape)
        )
        if not fits:
            error = f"{name}: {list(shape)} is not in profile {self._profile}"
            self._engine._complain(error)
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        """As in the file, with the batch and other free sizes of the first input."""
        if name in self._engine.said["inputs"]:
            return Dims(self._shapes.get(name, self._engine.shapes[name]))
        first = self._shapes.get(next(iter(self._engine.said["inputs"])))
        shape = self._engine.shapes[name]
        if first is None or name in self._engine.said.get("data_dependent", ()):
            return Dims(shape)
        return Dims([first[axis] if size < 0 else size for axis, size in enumerate(shape)])

    def execute_async_v3(self, stream_handle: int) -> bool:
        cuda = _cuda()
        cuda.journal.append(("execute_async_v3",))
        stream = cuda.stream(stream_handle)
        engine = self._engine
        missing = [name for name in engine.shapes if name not in self._addresses]
        if missing or set(self._shapes) != set(engine.said["inputs"]):
            raise Misuse(f"no address of {missing}, or no shape of an input")
        if not self._scratch[0]:
            raise Misuse("no scratch memory")
        shapes = {name: _tuple(self.get_tensor_shape(name)) for name in engine.shapes}
        if stream.capturing is not None and self._ran_at != shapes:
            engine._complain("a capture before the first run")
            stream.capture_failed = True
            return False
        if engine.said.get("fails_on", 0) == shapes[next(iter(shapes))][0]:
            engine._complain("Cask convolution execution")
            return False
        if stream.capturing is not None and engine.said.get("no_capture"):
            engine._complain("a loop cannot be captured")
            stream.capture_failed = True
            return False
        self._ran_at = shapes
        recorded = stream.capturing is not None
        me = weakref.ref(self)

        def execute() -> None:
            context = me()
            if context is None:
                raise Misuse("a graph was launched whose context is gone")
            if recorded and context._ran_at != shapes:
                raise Misuse("a graph was launched whose context has other shapes now")
            context._compute(shapes)

        cuda.begin(stream, execute, self._scratch[0], *self._addresses.values())
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]]) -> None:
        said = self._engine.said
        cuda = _cuda()
        cuda.block(*self._scratch, "device")
        sums: Any = 0
        for name in said["inputs"]:
            rows = self._view(name, shapes[name]).astype(np.float64)
            sums = sums + rows.reshape(len(rows), -1).sum(axis=1)
        for name in said["outputs"]:
            output = self._view(name, shapes[name])
            width = int(np.prod(shapes[name][1:]))
            output[...] = (sums[:, None] * np.arange(1, width + 1)).reshape(shapes[name])

    def _view(self, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        dtype = np.dtype(self._engine.get_tensor_dtype(name).value)
        size = int(np.prod(shape)) * dtype.itemsize
        _cuda().block(self._addresses[name], size, "device")
        raw = (ctypes.c_ubyte * size).from_address(self._addresses[name])
        return np.ctypeslib.as_array(raw).view(dtype).reshape(shape)


def init_libnvinfer_plugins(logger: ILogger, namespace: str) -> bool:
    del logger, namespace
    return True


def _tuple(dims: Dims) -> tuple[int, ...]:
    return tuple(dims[axis] for axis in range(len(dims)))


def _cuda() -> FakeCuda:
    found = sys.modules["cuda.bindings.runtime"]
    assert isinstance(found, FakeCuda)
    return found


@contextmanager
def installed(cuda: FakeCuda) -> Iterator[None]:
    """Put both fakes where `import` finds them, and our modules that use them away after."""
    package = ModuleType("cuda")
    package.bindings = ModuleType("cuda.bindings")  # type: ignore[attr-defined]
    package.bindings.runtime = cuda
    stand_ins = {
        "cuda": package,
        "cuda.bindings": package.bindings,
        "cuda.bindings.runtime": cuda,
        "tensorrt": sys.modules[__name__],
    }
    before = {name: sys.modules.get(name) for name in stand_ins}
    _forget()
    sys.modules.update(stand_ins)  # type: ignore[arg-type]
    try:
        yield
    finally:
        _forget()
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _forget() -> None:
    """Our modules keep the library that they were imported with."""
    for name in _OURS:
        sys.modules.pop(name, None)
        package, _, attribute = name.rpartition(".")
        if package in sys.modules:
            vars(sys.modules[package]).pop(attribute, None)

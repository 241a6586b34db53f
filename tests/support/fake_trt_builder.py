"""TensorRT's builder without a GPU: what our code says to it is kept, and checked strictly.

    with builder.installed(cuda, version="11.4.0") as trt: ...

The plan that comes out is one of `fake_tensorrt`'s, with the ONNX file's inputs and outputs, so
that our runtime loads it. As in the real ones there is no precision flag and no calibrator; a
network of 10.x that is not strongly typed is misuse, and so is a flag on 11.x.
`scripts/trt_types.py` compares names and parameters with the real bindings.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, IntEnum
from types import ModuleType
from typing import Any

import onnx

from tests.support import fake_tensorrt
from tests.support.fake_cuda import FakeCuda, Misuse

_OURS = ("vision.convert.plan",)
LEVELS = range(6)


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(Enum):
    WORKSPACE = 0


class IProgressMonitor:
    def __init__(self) -> None:
        self.ready = True


class IHostMemory(bytes):
    __slots__ = ()


class ITimingCache:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> IHostMemory:
        return IHostMemory(self.data)


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        for dims in (min, opt, max):
            if not isinstance(dims, fake_tensorrt.Dims):
                raise Misuse("shapes are Dims")
        self.shapes[input] = tuple(
            tuple(dims[axis] for axis in range(len(dims))) for dims in (min, opt, max)
        )


class IBuilderConfig:
    """What was asked for; `said` is what tests look at."""

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self.builder_optimization_level = 3
        self.progress_monitor: IProgressMonitor | None = None
        self.pools: dict[MemoryPoolType, int] = {}
        self.profiles: list[IOptimizationProfile] = []
        self.cache: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self.pools[pool] = pool_size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        for least, usual, most in profile.shapes.values():
            if not all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True)):
                return -1
        if self._trt.refuses_profiles:
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if ignore_mismatch:
            raise Misuse("a cache of another GPU would be believed")
        if cache.data.startswith(b"other GPU"):
            return False
        self.cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self.cache


class INetworkDefinition:
    def __init__(self) -> None:
        self.model = onnx.ModelProto()


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        del logger
        self._network = network
        self._errors: list[str] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        text = self._errors[index]

        class ParserError:
            def desc(self) -> str:
                return text

        return ParserError()

    def parse(self, model: bytes, path: str | None = None) -> bool:
        del path
        self._network.model = onnx.load_model_from_string(model)
        onnx.checker.check_model(self._network.model)
        unknown = {node.op_type for node in self._network.model.graph.node} & {"NonZero"}
        self._errors = [f"In node 0: {name}:\n  not supported" for name in unknown]
        return not self._errors


class Builder:
    def __init__(self, logger: Any) -> None:
        if not getattr(logger, "ready", False):
            raise Misuse("ILogger.__init__ was not called")
        self._logger = logger

    @property
    def _trt(self) -> Any:
        return sys.modules["tensorrt"]

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        strongly = 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        wanted = 0 if self._trt.__version__.startswith("11") else strongly
        if flags != wanted:
            raise Misuse(f"flags {flags} on {self._trt.__version__}")
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        self._trt.config = IBuilderConfig(self._trt)
        config: IBuilderConfig = self._trt.config
        return config

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        if config.builder_optimization_level not in LEVELS:
            raise Misuse("levels are 0 to 5")
        inputs, outputs = (
            {
                one.name: [size.dim_value or -1 for size in one.type.tensor_type.shape.dim]
                for one in ends
            }
            for ends in (network.model.graph.input, network.model.graph.output)
        )
        free = {name for name, shape in inputs.items() if -1 in shape}
        if any(
            free - profile.shapes.keys() for profile in config.profiles or [IOptimizationProfile()]
        ):
            self._logger.log(
                fake_tensorrt.ILogger.Severity.ERROR,
                "Network has dynamic or shape inputs,\n but no",
            )
            return None
        if not self._phases(config.progress_monitor):
            return None
        if config.cache is not None:
            config.cache.data += b"+timings"
        profiles = [profile.shapes for profile in config.profiles]
        return IHostMemory(fake_tensorrt.plan(inputs, outputs, profiles))

    def _phases(self, monitor: Any) -> bool:
        """Two phases, one within the other; the test may press Ctrl-C in between."""
        if monitor is None:
            return True
        if not getattr(monitor, "ready", False):
            raise Misuse("IProgressMonitor.__init__ was not called")
        monitor.phase_start("Building", None, 1)
        monitor.phase_start("Tactics", "Building", 3)
        for step in range(3):
            self._trt.between_steps(step)
            if not monitor.step_complete("Tactics", step):
                return False
        monitor.phase_finish("Tactics")
        monitor.step_complete("Building", 0)
        monitor.phase_finish("Building")
        return True


@contextmanager
def installed(cuda: FakeCuda, version: str = "11.4.0.106") -> Iterator[Any]:
    """Put the fakes where `import` finds them; yields the module, `config` is what was asked for.

    `between_steps` is called between the build's steps, `refuses_profiles` makes it refuse them.
    """
    module: Any = ModuleType("tensorrt")
    vars(module).update(vars(fake_tensorrt))
    ours = (
        Builder,
        IBuilderConfig,
        IHostMemory,
        INetworkDefinition,
        IOptimizationProfile,
        IProgressMonitor,
        ITimingCache,
        MemoryPoolType,
        NetworkDefinitionCreationFlag,
        OnnxParser,
    )
    vars(module).update({one.__name__: one for one in ours})
    module.__version__ = version
    module.refuses_profiles = False
    nothing: Callable[[int], None] = lambda step: None  # noqa: E731 - a default to replace
    module.between_steps = nothing
    with fake_tensorrt.installed(cuda):
        before = sys.modules["tensorrt"]
        sys.modules["tensorrt"] = module
        _forget()
        try:
            yield module
        finally:
            _forget()
            sys.modules["tensorrt"] = before


def _forget() -> None:
    """Our module keeps the library that it was imported with."""
    for name in _OURS:
        sys.modules.pop(name, None)
        package, _, attribute = name.rpartition(".")
        if package in sys.modules:
            vars(sys.modules[package]).pop(attribute, None)

"""How does one instance run batches through a TensorRT engine?

    inputs ─► pinned ─► device ─► context ─► device ─► pinned ─► outputs
              (unless they             │
              are already)      execute_async_v3, or the graph that was recorded of it

One stream, and one block of scratch memory, which all contexts of the instance share since they run
one after another. If rows have one definite shape, each bucket (`vision.runtime.buckets`) has a
context and a CUDA graph of its own: TensorRT's guide demands a context for each graph, because a
change of its shapes would spoil the graph. The first run of a bucket is a plain one, as TensorRT
wants before a capture; if the capture fails, plain runs go on. All other batches share one more
context.

Freed in the reverse order: graphs, contexts, buffers, stream. Imports TensorRT and CUDA.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

import numpy as np
import tensorrt as trt

from vision.runtime import cuda
from vision.runtime.buckets import Range, bucket_for, profile_for
from vision.tensors import Array, Arrays, DataType, TensorSpec

_log = logging.getLogger("sluice.vision.runtime")

Key = tuple[tuple[int, ...], ...]
"""The shape of each input, the batch axis first."""


class Sizes(Protocol):
    """What an instance needs to know of its plan."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def number(self) -> int: ...
    @property
    def batches(self) -> list[Range]: ...
    @property
    def buckets(self) -> tuple[int, ...]: ...
    @property
    def capacities(self) -> dict[str, int]: ...


class EngineError(Exception):
    """TensorRT refused a shape or an execution; the message is its own."""


class _Context:
    """One execution context, the shapes that it stands at, and maybe a graph."""

    __slots__ = ("graph", "key", "profile", "raw", "recorded", "rows")

    def __init__(self, raw: trt.IExecutionContext) -> None:
        self.raw = raw
        self.key: Key | None = None
        self.profile = -1
        self.rows: dict[str, tuple[int, ...]] = {}  # Each output's shape without the batch axis.
        self.graph: cuda.Graph | None = None
        self.recorded = False  # Or tried to, in vain.


class PlanInstance:
    """See `vision.runtime.base.Instance`."""

    __slots__ = (
        "_any",
        "_buckets",
        "_closed",
        "_device",
        "_engine",
        "_held",
        "_memory",
        "_pinned",
        "_plan",
        "_ready",
        "_results",
        "_scratch",
        "_staging",
        "_stream",
        "_why",
    )

    def __init__(self, plan: Sizes, engine: trt.ICudaEngine, why: Callable[[], str]) -> None:
        self._plan = plan
        self._engine = engine
        self._why = why
        self._device = plan.number
        definite = all(None not in spec.shape for spec in plan.inputs)
        self._buckets = plan.buckets if definite else ()
        self._pinned: dict[int, cuda.Pinned] = {}
        self._staging: dict[str, cuda.Pinned] = {}
        self._ready: dict[int, _Context] = {}  # By the rows that it runs.
        cuda.use(self._device)
        with ExitStack() as held:
            self._stream = held.enter_context(cuda.Stream())
            held.callback(self._free_pinned)
            self._memory = {
                name: held.enter_context(cuda.Memory(size))
                for name, size in plan.capacities.items()
            }
            self._results = {
                spec.name: held.enter_context(cuda.Pinned(plan.capacities[spec.name]))
                for spec in plan.outputs
            }
            self._scratch = held.enter_context(cuda.Memory(engine.device_memory_size_v2))
            held.callback(self._stream.settle)
            for spec in plan.inputs:
                # A batch that is filled up to its bucket leaves rows of the one before: at first
                # zeros, which are valid as indices too.
                self._stream.clear(self._memory[spec.name])
            self._stream.wait()
            self._any = self._context()
            held.callback(self._free_contexts)
            self._held = held.pop_all()
        self._closed = False

    def allocate(self, dtype: DataType, shape: tuple[int, ...]) -> Array:
        """Pinned memory: from its start the device copies by itself.

        It is given back with the last array that views it, and with `close` at the latest, after
        which it must not be touched.
        """
        cuda.use(self._device)
        pinned = cuda.Pinned(math.prod(shape) * dtype.numpy.itemsize)
        self._pinned[pinned.address] = pinned
        return pinned.lend(dtype, shape, self._forget)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See `Instance.run`. The outputs are views of pinned memory, overwritten by the next.

        10 µs of our own with one input and one output, and six calls of CUDA's for 0.4 µs each.
        Raises `CudaError`, `EngineError`, and `ValueError` for what would not fit its buffers.
        """
        cuda.use(self._device)
        try:
            return self._run(inputs)
        except BaseException:
            # What was begun may still read the caller's buffers or write ours.
            self._stream.settle()
            raise

    def close(self) -> None:
        """Give everything back; what runs is waited for. A second call does nothing."""
        if not self._closed:
            self._closed = True
            cuda.use(self._device)
            self._held.close()
            del self._engine

    def _run(self, inputs: Arrays) -> dict[str, Array]:
        specs = self._plan.inputs
        rows = len(inputs[specs[0].name])
        for spec in specs:
            self._upload(spec, inputs[spec.name])
        bucket = bucket_for(rows, self._buckets)
        profile, size = profile_for(bucket or rows, self._plan.batches)
        key = tuple((size, *inputs[spec.name].shape[1:]) for spec in specs)
        context = self._shared(key, profile) if bucket is None else self._own(key, profile)
        if context.graph is None:
            self._enqueue(context)
        else:
            context.graph.launch(self._stream)
        outputs = {}
        for spec in self._plan.outputs:
            results = self._results[spec.name]
            array = results.array(spec.dtype, (rows, *context.rows[spec.name]))
            self._stream.download(results.address, self._memory[spec.name], array.nbytes)
            outputs[spec.name] = array
        self._stream.wait()
        if bucket is not None and not context.recorded:
            self._record(context)
        return outputs

    def _upload(self, spec: TensorSpec, array: Array) -> None:
        """Begin the copy of an input, by way of a pinned buffer if it does not lie in one."""
        memory = self._memory[spec.name]
        if array.nbytes > memory.size_bytes or array.dtype != spec.dtype.numpy:
            raise ValueError(f"{spec.name}: {array.dtype} {array.shape} is not what the plan takes")
        address = array.ctypes.data
        pinned = self._pinned.get(address)
        if pinned is None or not array.flags.c_contiguous:
            pinned = self._staging.get(spec.name)
            if pinned is None:
                pinned = self._staging[spec.name] = cuda.Pinned(memory.size_bytes)
            np.copyto(pinned.array(spec.dtype, array.shape), array)
        self._stream.upload(memory, pinned.address, array.nbytes)

    def _shared(self, key: Key, profile: int) -> _Context:
        """The context of batches without a graph, brought to these shapes."""
        if self._any.key != key:
            self._shape(self._any, key, profile)
        return self._any

    def _own(self, key: Key, profile: int) -> _Context:
        """The context of a bucket, which never changes its shapes."""
        size = key[0][0]
        context = self._ready.get(size)
        if context is None:
            context = self._context()
            self._shape(context, key, profile)
            self._ready[size] = context
        return context

    def _context(self) -> _Context:
        """A new context over the shared scratch memory, every tensor at its address."""
        raw: trt.IExecutionContext | None = self._engine.create_execution_context(
            trt.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        if raw is None:
            raise EngineError(f"no execution context: {self._why()}")
        raw.set_device_memory(self._scratch.address, self._scratch.size_bytes)
        for name, memory in self._memory.items():
            if not raw.set_tensor_address(name, memory.address):
                del raw  # Before the memory that it points to: the traceback would keep it.
                raise EngineError(f"address of {name}: {self._why()}")
        return _Context(raw)

    def _shape(self, context: _Context, key: Key, profile: int) -> None:
        """Bring a context to these shapes; if that fails the next run brings it to its own."""
        context.key = None
        raw = context.raw
        if context.profile != profile:
            if not raw.set_optimization_profile_async(profile, self._stream.handle):
                raise EngineError(f"optimization profile {profile}: {self._why()}")
            context.profile = profile
        for spec, shape in zip(self._plan.inputs, key, strict=True):
            if not raw.set_input_shape(spec.name, shape):
                raise EngineError(f"{spec.name} {list(shape)}: {self._why()}")
        for spec in self._plan.outputs:
            dims = raw.get_tensor_shape(spec.name)
            context.rows[spec.name] = tuple(dims[axis] for axis in range(1, len(dims)))
        context.key = key

    def _enqueue(self, context: _Context) -> None:
        if not context.raw.execute_async_v3(self._stream.handle):
            raise EngineError(f"execution: {self._why()}")

    def _record(self, context: _Context) -> None:
        """Record the graph of a context that has run; without one it goes on with plain runs."""
        context.recorded = True
        try:
            context.graph = self._stream.record(lambda: self._enqueue(context))
        except (cuda.CudaError, EngineError) as error:
            _log.warning("no CUDA graph for %s, it runs without: %s", context.key, error)

    def _forget(self, address: int) -> None:
        """Give pinned memory back that nobody views any more."""
        pinned = self._pinned.pop(address, None)
        if pinned is not None:
            pinned.close()

    def _free_contexts(self) -> None:
        """Each graph before the context that it was recorded of."""
        for context in self._ready.values():
            if context.graph is not None:
                context.graph.close()
        self._ready.clear()
        del self._any

    def _free_pinned(self) -> None:
        for pinned in (*self._pinned.values(), *self._staging.values()):
            pinned.close()
        self._pinned.clear()

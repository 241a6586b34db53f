"""A CUDA runtime without a device: the calls of `cuda.bindings.runtime` that we make, strictly.

Its memory is real memory of this process at real addresses, so that data flows. What a stream is
told to do is done only when somebody waits for the stream: who reads a result too early, or
changes an input too early, gets wrong numbers here too. Wrong use raises `Misuse`; failures of the
machine are ordered with `fail` and come back as error codes, as CUDA's do.

`scripts/trt_types.py` compares names and parameters with the real bindings.
"""

# ruff: noqa: N801, N802, N803, N815 - the names are CUDA's.
from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from typing import Any


class Misuse(AssertionError):  # noqa: N818 - a verdict on the test's subject
    """Something that CUDA leaves undefined, or that costs speed silently."""


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


Work = tuple[Callable[[], None], tuple[int, ...]]
"""What is to be done, and the addresses that it reads and writes."""


class Handle:
    """A stream, event, graph or executable graph: opaque, with a number."""

    _next = 0x1000

    def __init__(self, kind: str, device: int) -> None:
        Handle._next += 16
        self.number = Handle._next
        self.kind = kind
        self.device = device
        self.work: list[Work] = []
        self.capturing: list[Work] | None = None
        self.capture_failed = False
        self.until = 0

    def __int__(self) -> int:
        return self.number

    def __repr__(self) -> str:
        return f"{self.kind}@{self.number:x}"


class FakeCuda:
    """Stands for the module `cuda.bindings.runtime`, and knows what is alive."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaEventDisableTiming = 2
    cudaEventBlockingSync = 1
    cudaHostAllocPortable = 1
    cudaStreamNonBlocking = 1

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices
        self.journal: list[tuple[Any, ...]] = []
        self.violations: list[str] = []
        self.alive: dict[int, tuple[str, int, int, Any]] = {}  # address → kind, bytes, device, data
        self.handles: dict[int, Handle] = {}
        self.calls: Counter[str] = Counter()
        self.sticky = cudaError_t.cudaSuccess
        self._ordered: dict[tuple[str, int], cudaError_t] = {}
        self._thread = threading.local()

    # What a test asks for.

    def fail(self, call: str, error: cudaError_t, nth: int = 1) -> None:
        """Let the nth call from now on of this name fail."""
        self._ordered[call, self.calls[call] + nth] = error

    def leaks(self) -> list[str]:
        """Everything that was not given back."""
        held = [f"{kind} of {size}" for kind, size, _, _ in self.alive.values()]
        return held + [repr(handle) for handle in self.handles.values()]

    def called(self, name: str) -> int:
        return self.calls[name]

    # What the fake TensorRT asks for.

    def block(self, address: int, size: int, kind: str) -> None:
        """Check that `size` bytes at `address` lie within one living allocation of this kind."""
        for start, (found, length, device, _) in list(self.alive.items()):
            if start <= address and address + size <= start + length and found == kind:
                if device != self._device():
                    raise Misuse(f"memory of device {device} used on {self._device()}")
                return
        raise Misuse(f"{size} bytes at {address:x} are not in {kind} memory")

    def stream(self, handle: Any) -> Handle:
        return self._handle(handle, "stream")

    def begin(self, stream: Handle, work: Callable[[], None], *addresses: int) -> None:
        """Put work on a stream, or into the graph that is being recorded on it."""
        target = stream.work if stream.capturing is None else stream.capturing
        target.append((work, addresses))

    # The runtime API.

    def cudaGetErrorName(self, error: int) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, cudaError_t(error).name.encode()

    def cudaGetErrorString(self, error: int) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, f"what {cudaError_t(error).name} means".encode()

    def cudaGetLastError(self) -> tuple[Any, ...]:
        last, self.sticky = self.sticky, cudaError_t.cudaSuccess
        return (last,)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        error = self._begin("cudaGetDeviceCount")
        if error:
            return error, None
        if self.devices == 0:
            return cudaError_t.cudaErrorInsufficientDriver, None
        return cudaError_t.cudaSuccess, self.devices

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        error = self._begin("cudaSetDevice", device)
        if not error and not 0 <= device < self.devices:
            raise Misuse(f"no device {device}")
        self._thread.device = device
        return (error,)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._allocate("cudaMalloc", "device", size)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        del flags
        return self._allocate("cudaHostAlloc", "pinned", size)

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        return self._free("cudaFree", "device", devPtr)

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        return self._free("cudaFreeHost", "pinned", ptr)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        if flags != self.cudaStreamNonBlocking:
            raise Misuse("a blocking stream waits for the default stream")
        return self._create("cudaStreamCreateWithFlags", "stream")

    def cudaStreamDestroy(self, stream: Any) -> tuple[Any, ...]:
        if self._handle(stream, "stream").work:
            raise Misuse("a stream was destroyed with work on it")
        return self._destroy("cudaStreamDestroy", "stream", stream)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        del flags
        return self._create("cudaEventCreateWithFlags", "event")

    def cudaEventDestroy(self, event: Any) -> tuple[Any, ...]:
        return self._destroy("cudaEventDestroy", "event", event)

    def cudaEventRecord(self, event: Any, stream: Any) -> tuple[Any, ...]:
        error = self._begin("cudaEventRecord")
        marked = self._handle(event, "event")
        target = self._handle(stream, "stream")
        marked.work = target.work
        marked.until = len(target.work)
        return (error,)

    def cudaEventSynchronize(self, event: Any) -> tuple[Any, ...]:
        marked = self._handle(event, "event")
        error = self._begin("cudaEventSynchronize")
        if not error:
            self._do(marked.work, marked.until)
        return (error,)

    def cudaStreamSynchronize(self, stream: Any) -> tuple[Any, ...]:
        target = self._handle(stream, "stream")
        error = self._begin("cudaStreamSynchronize")
        if target.capturing is not None:
            target.capture_failed = True
            return (self._stick(cudaError_t.cudaErrorStreamCaptureUnsupported),)
        self._do(target.work, len(target.work))
        return (error,)

    def cudaMemcpyAsync(
        self, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: Any
    ) -> tuple[Any, ...]:
        error = self._begin("cudaMemcpyAsync", count, kind)
        up = kind is cudaMemcpyKind.cudaMemcpyHostToDevice
        self.block(dst, count, "device" if up else "pinned")
        self.block(src, count, "pinned" if up else "device")
        if not error:

            def copy() -> None:
                self.block(dst, count, "device" if up else "pinned")
                self.block(src, count, "pinned" if up else "device")
                ctypes.memmove(dst, src, count)

            self.begin(self._handle(stream, "stream"), copy, dst, src)
        return (error,)

    def cudaMemsetAsync(
        self,
        devPtr: int,
        value: int,
        count: int,
        stream: Any,
    ) -> tuple[Any, ...]:
        error = self._begin("cudaMemsetAsync", count)
        self.block(devPtr, count, "device")
        target = self._handle(stream, "stream")
        self.begin(target, lambda: ctypes.memset(devPtr, value, count) and None, devPtr)
        return (error,)

    def cudaStreamBeginCapture(self, stream: Any, mode: cudaStreamCaptureMode) -> tuple[Any, ...]:
        error = self._begin("cudaStreamBeginCapture")
        if mode is not cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal:
            raise Misuse("other threads must be able to allocate meanwhile")
        target = self._handle(stream, "stream")
        if not error:
            if target.work:
                raise Misuse("a capture begins on a stream that is still busy")
            target.capturing = []
            target.capture_failed = False
            self._thread.capturing = True
        return (error,)

    def cudaStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:
        error = self._begin("cudaStreamEndCapture")
        target = self._handle(stream, "stream")
        recorded, target.capturing = target.capturing, None
        self._thread.capturing = False
        if recorded is None:
            raise Misuse("no capture was begun")
        if error or target.capture_failed:
            return self._stick(error or cudaError_t.cudaErrorStreamCaptureInvalidated), None
        graph = Handle("graph", self._device())
        graph.work = recorded
        self.handles[int(graph)] = graph
        return cudaError_t.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        del flags
        work = self._handle(graph, "graph").work
        error, made = self._create("cudaGraphInstantiate", "executable")
        if made is not None:
            made.work = work
        return error, made

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        return self._destroy("cudaGraphDestroy", "graph", graph)

    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> tuple[Any, ...]:
        error = self._begin("cudaGraphLaunch")
        work = self._handle(graphExec, "executable").work
        if not error:
            self._handle(stream, "stream").work.extend(work)
        return (error,)

    def cudaGraphExecDestroy(self, graphExec: Any) -> tuple[Any, ...]:
        return self._destroy("cudaGraphExecDestroy", "executable", graphExec)

    # Inside.

    def _begin(self, call: str, *arguments: Any) -> cudaError_t:
        self.calls[call] += 1
        self.journal.append((call, *arguments))
        error = self._ordered.pop((call, self.calls[call]), cudaError_t.cudaSuccess)
        return self._stick(error) if error else error

    def _stick(self, error: cudaError_t) -> cudaError_t:
        self.sticky = error
        return error

    def _device(self) -> int:
        return int(getattr(self._thread, "device", 0))

    def _allocate(self, call: str, kind: str, size: int) -> tuple[Any, ...]:
        error = self._begin(call, size)
        if error:
            return error, None
        if size < 1:
            raise Misuse("an allocation of nothing has no address")
        if getattr(self._thread, "capturing", False):
            return self._stick(cudaError_t.cudaErrorStreamCaptureUnsupported), None
        # A canary on either side would need its own check: fill with a pattern instead.
        data = (ctypes.c_ubyte * size).from_buffer_copy(b"\xcd" * size)
        address = ctypes.addressof(data)
        self.alive[address] = kind, size, self._device(), data
        return cudaError_t.cudaSuccess, address

    def _free(self, call: str, kind: str, address: int) -> tuple[Any, ...]:
        error = self._begin(call, self.alive[address][1] if address in self.alive else None)
        if address not in self.alive or self.alive[address][0] != kind:
            raise Misuse(f"{address:x} is no living {kind} memory")
        size = self.alive[address][1]
        for stream in list(self.handles.values()):
            for _, touched in list(stream.work if stream.kind == "stream" else ()):
                if any(address <= one < address + size for one in touched):
                    raise Misuse("memory was freed that work under way reads or writes")
        ctypes.memset(address, 0xDD, size)
        del self.alive[address]
        return (error,)

    def _create(self, call: str, kind: str) -> tuple[Any, ...]:
        error = self._begin(call)
        if error:
            return error, None
        made = Handle(kind, self._device())
        self.handles[int(made)] = made
        return cudaError_t.cudaSuccess, made

    def _destroy(self, call: str, kind: str, handle: Any) -> tuple[Any, ...]:
        error = self._begin(call)
        del self.handles[int(self._handle(handle, kind))]
        return (error,)

    def _handle(self, handle: Any, kind: str) -> Handle:
        found = self.handles.get(int(handle))
        if found is None or found.kind != kind:
            raise Misuse(f"{handle!r} is no living {kind}")
        if found.device != self._device():
            raise Misuse(f"{found!r} of device {found.device} is used on {self._device()}")
        return found

    @staticmethod
    def _do(work: list[Work], count: int) -> None:
        begun, work[:count] = work[:count], []
        for one, _ in begun:
            one()

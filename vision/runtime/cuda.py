"""How are a CUDA device's memory, streams, events and graphs held and given back?

    Memory   on the device          Stream ──► Event      one of each for an execution context
    Pinned   on the host, which     Graph                 what a stream was recorded to do
             the device reads itself

Everything goes through cuda-python's runtime API, whose calls return an error beside their values
and never raise: `check` is the one place that looks at it. Each object gives back what it holds
once, in `close`. Imported only by what needs a device: without cuda-python the import fails.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np
from cuda.bindings import runtime as cudart

from vision.tensors import Array, DataType

_NO_DEVICE = frozenset({34, 35, 100})
"""Codes that mean a driver's stub (34), none or none that is new enough (35), no device (100)."""


class CudaError(Exception):
    """A CUDA call failed. After some errors, like an illegal address, every later one fails too."""

    def __init__(self, code: int, name: str, text: str) -> None:
        super().__init__(f"{name} ({code}): {text}")
        self.code = code


def check(result: tuple[Any, ...]) -> Any:
    """The values of a call's result: None, the one there is, or a tuple. Raises `CudaError`."""
    error, *values = result
    if error:
        _, name = cudart.cudaGetErrorName(error)
        _, text = cudart.cudaGetErrorString(error)
        raise CudaError(int(error), name.decode(), text.decode())
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def device_count() -> int:
    """How many devices there are; 0 without a driver. Raises `CudaError` for other failures."""
    try:
        return int(check(cudart.cudaGetDeviceCount()))
    except CudaError as error:
        if error.code in _NO_DEVICE:
            return 0
        raise


def use(device: int) -> None:
    """Make `device` the calling thread's one; CUDA keeps that for each thread. 0.4 µs."""
    check(cudart.cudaSetDevice(device))


class _Held:
    """Something to give back exactly once, also at the end of a `with`."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give it back; a second call does nothing."""
        if self._open:
            self._open = False
            self._give_back()

    def _give_back(self) -> None:
        raise NotImplementedError


class Memory(_Held):
    """Bytes on the device, aligned to 256 at least, as cudaMalloc gives them."""

    __slots__ = ("address", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = max(size_bytes, 1)  # For 0 bytes CUDA gives no address.
        self.address = int(check(cudart.cudaMalloc(self.size_bytes)))
        super().__init__()

    def _give_back(self) -> None:
        check(cudart.cudaFree(self.address))


class Pinned(_Held):
    """Host memory that cannot be paged out, so that copies to and from it need no staging."""

    __slots__ = ("_bytes", "address", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = max(size_bytes, 1)
        self.address = int(
            check(cudart.cudaHostAlloc(self.size_bytes, cudart.cudaHostAllocPortable))
        )
        self._bytes = np.ctypeslib.as_array(self._view())
        super().__init__()

    def array(self, dtype: DataType, shape: tuple[int, ...]) -> Array:
        """Its first bytes as an array, which must not be used after `close`."""
        wanted = math.prod(shape) * dtype.numpy.itemsize
        if wanted > self.size_bytes:
            raise ValueError(f"{wanted} bytes do not fit into {self.size_bytes}")
        return self._bytes[:wanted].view(dtype.numpy).reshape(shape)

    def lend(self, dtype: DataType, shape: tuple[int, ...], back: Callable[[int], None]) -> Array:
        """Its first bytes as an array; `back` is called with the address once nobody views them."""
        view = self._view()
        # Arrays of arrays refer to the memory's owner, here the view, and not to each other.
        weakref.finalize(view, back, self.address).atexit = False
        flat = np.ctypeslib.as_array(view)[: math.prod(shape) * dtype.numpy.itemsize]
        return flat.view(dtype.numpy).reshape(shape)

    def _view(self) -> ctypes.Array[ctypes.c_ubyte]:
        return (ctypes.c_ubyte * self.size_bytes).from_address(self.address)

    def _give_back(self) -> None:
        check(cudart.cudaFreeHost(self.address))


class Graph(_Held):
    """Work that was recorded once and is launched by one call."""

    __slots__ = ("_executable",)

    def __init__(self, recorded: Any) -> None:
        try:
            self._executable = check(cudart.cudaGraphInstantiate(recorded, 0))
        finally:
            check(cudart.cudaGraphDestroy(recorded))
        super().__init__()

    def launch(self, stream: Stream) -> None:
        """Begin it on `stream`."""
        check(cudart.cudaGraphLaunch(self._executable, stream.raw))

    def _give_back(self) -> None:
        check(cudart.cudaGraphExecDestroy(self._executable))


class Stream(_Held):
    """Work in the order of the calls, beside the work of other streams."""

    __slots__ = ("_done", "handle", "raw")

    def __init__(self) -> None:
        self.raw = check(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        self.handle = int(self.raw)
        try:
            # The thread sleeps in `wait`: spinning would take the event loop's core.
            flags = cudart.cudaEventBlockingSync | cudart.cudaEventDisableTiming
            self._done = check(cudart.cudaEventCreateWithFlags(flags))
        except CudaError:
            cudart.cudaStreamDestroy(self.raw)
            raise
        super().__init__()

    def upload(self, target: Memory, address: int, size_bytes: int) -> None:
        """Begin a copy from pinned host memory at `address`."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        check(cudart.cudaMemcpyAsync(target.address, address, size_bytes, kind, self.raw))

    def download(self, address: int, source: Memory, size_bytes: int) -> None:
        """Begin a copy to pinned host memory at `address`."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        check(cudart.cudaMemcpyAsync(address, source.address, size_bytes, kind, self.raw))

    def clear(self, target: Memory) -> None:
        """Begin to fill device memory with zeros."""
        check(cudart.cudaMemsetAsync(target.address, 0, target.size_bytes, self.raw))

    def wait(self) -> None:
        """Sleep until everything begun so far is done. Raises what any of it failed with."""
        check(cudart.cudaEventRecord(self._done, self.raw))
        check(cudart.cudaEventSynchronize(self._done))

    def settle(self) -> None:
        """Wait after a failure until nothing reads or writes any buffer; never raises."""
        cudart.cudaStreamSynchronize(self.raw)

    def record(self, work: Callable[[], None]) -> Graph:
        """Record what `work` begins on this stream, without running it.

        Raises what `work` raises and `CudaError`; either way the stream is as before.
        """
        # Thread-local: other instances may allocate meanwhile in threads of their own.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cudart.cudaStreamBeginCapture(self.raw, mode))
        try:
            work()
        except BaseException:
            self._abandon()
            raise
        try:
            return Graph(check(cudart.cudaStreamEndCapture(self.raw)))
        except CudaError:
            cudart.cudaGetLastError()
            raise

    def _abandon(self) -> None:
        """End a capture that failed, which is an error itself: forget that, or others find it."""
        _, unfinished = cudart.cudaStreamEndCapture(self.raw)
        if unfinished is not None and int(unfinished):
            cudart.cudaGraphDestroy(unfinished)
        cudart.cudaGetLastError()

    def _give_back(self) -> None:
        try:
            check(cudart.cudaEventDestroy(self._done))
        finally:
            check(cudart.cudaStreamDestroy(self.raw))

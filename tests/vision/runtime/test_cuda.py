"""Errors of CUDA calls, and that everything is given back, on a fake device."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest

from tests.support.fake_cuda import FakeCuda, Misuse, cudaError_t
from vision.tensors import DataType


@pytest.fixture
def cuda(fake_cuda: FakeCuda) -> Any:
    """Our module, imported with the fake in the library's place."""
    return import_module("vision.runtime.cuda")


def test_values_come_without_their_error(cuda: Any, fake_cuda: FakeCuda) -> None:
    assert cuda.check((cudaError_t.cudaSuccess,)) is None
    assert cuda.check((cudaError_t.cudaSuccess, 7)) == 7
    assert cuda.check((cudaError_t.cudaSuccess, 7, 8)) == (7, 8)


def test_an_error_is_raised_with_its_name(cuda: Any, fake_cuda: FakeCuda) -> None:
    with pytest.raises(cuda.CudaError) as failed:
        cuda.check((cudaError_t.cudaErrorIllegalAddress, None))
    assert str(failed.value) == (
        "cudaErrorIllegalAddress (700): what cudaErrorIllegalAddress means"
    )
    assert failed.value.code == 700


def test_without_a_driver_there_are_no_devices(cuda: Any, fake_cuda: FakeCuda) -> None:
    assert cuda.device_count() == 2
    fake_cuda.devices = 0  # (35, None), as cuda-python answers where there is no driver.
    assert cuda.device_count() == 0


def test_another_failure_to_count_is_an_error(cuda: Any, fake_cuda: FakeCuda) -> None:
    fake_cuda.fail("cudaGetDeviceCount", cudaError_t.cudaErrorMemoryAllocation)
    with pytest.raises(cuda.CudaError):
        cuda.device_count()


def test_memory_is_given_back_once(cuda: Any, fake_cuda: FakeCuda) -> None:
    with cuda.Memory(0) as memory, cuda.Pinned(16) as pinned:
        assert fake_cuda.leaks() == ["device of 1", "pinned of 16"]
    memory.close()
    pinned.close()
    assert fake_cuda.called("cudaFree") == fake_cuda.called("cudaFreeHost") == 1


def test_pinned_memory_is_an_array_of_its_first_bytes(cuda: Any, fake_cuda: FakeCuda) -> None:
    with cuda.Pinned(24) as pinned:
        array = pinned.array(DataType.FP32, (2, 3))
        array[:] = [[1, 2, 3], [4, 5, 6]]
        assert array.ctypes.data == pinned.address
        assert pinned.array(DataType.FP32, (1, 3)).tolist() == [[1, 2, 3]]
        with pytest.raises(ValueError, match="28 bytes do not fit into 24"):
            pinned.array(DataType.FP32, (7,))


def test_copies_go_there_and_back_in_order(cuda: Any, fake_cuda: FakeCuda) -> None:
    with (
        cuda.Stream() as stream,
        cuda.Memory(8) as memory,
        cuda.Pinned(8) as ours,
        cuda.Pinned(8) as theirs,
    ):
        ours.array(DataType.INT64, (1,))[:] = 42
        stream.clear(memory)
        stream.upload(memory, ours.address, 8)
        stream.download(theirs.address, memory, 8)
        assert theirs.array(DataType.INT64, (1,))[0] != 42
        stream.wait()
        assert theirs.array(DataType.INT64, (1,))[0] == 42


def test_the_fake_refuses_copies_from_memory_that_is_not_pinned(
    cuda: Any, fake_cuda: FakeCuda
) -> None:
    array = np.zeros(8, np.uint8)
    with (
        cuda.Stream() as stream,
        cuda.Memory(8) as memory,
        pytest.raises(Misuse, match="not in pinned"),
    ):
        stream.upload(memory, array.ctypes.data, 8)


def test_a_stream_whose_event_fails_is_given_back(cuda: Any, fake_cuda: FakeCuda) -> None:
    fake_cuda.fail("cudaEventCreateWithFlags", cudaError_t.cudaErrorMemoryAllocation)
    with pytest.raises(cuda.CudaError):
        cuda.Stream()
    assert fake_cuda.leaks() == []


def test_a_stream_is_given_back_although_its_event_fails(cuda: Any, fake_cuda: FakeCuda) -> None:
    stream = cuda.Stream()
    fake_cuda.fail("cudaEventDestroy", cudaError_t.cudaErrorIllegalAddress)
    with pytest.raises(cuda.CudaError):
        stream.close()
    assert fake_cuda.leaks() == []


def test_what_was_recorded_runs_at_each_launch(cuda: Any, fake_cuda: FakeCuda) -> None:
    with cuda.Stream() as stream, cuda.Memory(4) as memory, cuda.Pinned(4) as ours:
        with stream.record(lambda: stream.upload(memory, ours.address, 4)) as graph:
            for value in (1, 2):
                ours.array(DataType.INT32, (1,))[:] = value
                graph.launch(stream)
                stream.download(ours.address, memory, 4)
                stream.wait()
                assert ours.array(DataType.INT32, (1,))[0] == value
        assert fake_cuda.called("cudaGraphLaunch") == 2


def test_a_capture_that_fails_leaves_the_stream_usable(cuda: Any, fake_cuda: FakeCuda) -> None:
    def fail() -> None:
        raise ValueError("no")

    with cuda.Stream() as stream, cuda.Memory(4) as memory:
        with pytest.raises(ValueError, match="no"):
            stream.record(fail)
        assert fake_cuda.cudaGetLastError() == (cudaError_t.cudaSuccess,)
        stream.clear(memory)
        stream.wait()


def test_an_error_of_a_capture_that_failed_is_found_by_nobody_else(
    cuda: Any, fake_cuda: FakeCuda
) -> None:
    """It stays the thread's last error, which TensorRT and torch would take for their own."""

    def fail() -> None:
        stream.settle()  # Not allowed here: CUDA gives the capture up.
        raise ValueError("no")

    with cuda.Stream() as stream:
        with pytest.raises(ValueError, match="no"):
            stream.record(fail)
        assert fake_cuda.cudaGetLastError() == (cudaError_t.cudaSuccess,)


@pytest.mark.parametrize("call", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_graph_that_cannot_be_made_is_an_error_and_no_leak(
    cuda: Any, fake_cuda: FakeCuda, call: str
) -> None:
    with cuda.Stream() as stream, cuda.Memory(4) as memory:
        fake_cuda.fail(call, cudaError_t.cudaErrorMemoryAllocation)
        with pytest.raises(cuda.CudaError):
            stream.record(lambda: stream.clear(memory))
        assert fake_cuda.cudaGetLastError() == (cudaError_t.cudaSuccess,)
    assert fake_cuda.leaks() == []


def test_waiting_for_a_stream_that_is_being_recorded_is_an_error(
    cuda: Any, fake_cuda: FakeCuda
) -> None:
    with cuda.Stream() as stream, pytest.raises(cuda.CudaError, match="CaptureInvalidated"):
        stream.record(stream.settle)

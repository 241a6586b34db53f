"""The buckets and graphs of torch's CUDA instances, on torch's CPU in CUDA's place.

The stand-in does what torch.cuda does to our code: a graph's replay computes anew from the very
tensors that were there when it was recorded, into the very tensors that came out then. What a real
device answers is `tests/vision/runtime/test_gpu.py`'s to say.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from vision.config import Batching, Instances, ModelConfig
from vision.runtime.torch_cuda import CudaInstance
from vision.tensors import Array, DataType, TensorSpec

pytestmark = pytest.mark.integration


class Doubles:
    """A program: y = 2 x + 1, on images if they have three axes."""

    device = "cpu"
    max_batch = 8

    def __init__(self, shape: tuple[int | None, ...] = (3,)) -> None:
        self.inputs = (TensorSpec("x", DataType.FP32, shape),)
        self.outputs = (TensorSpec("y", DataType.FP32, shape),)
        self.calls: list[tuple[int, ...]] = []
        self.dense: list[bool] = []
        self.last: tuple[dict[str, Any], dict[str, Any]] | None = None
        self.fails = False

    def call(self, tensors: dict[str, Any]) -> dict[str, Any]:
        if self.fails:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        x = tensors["x"]
        self.calls.append(tuple(x.shape))
        self.dense.append(x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
        outputs = {"y": (x * 2 + 1).to(torch.float16)}
        self.last = tensors, outputs
        return outputs


class Stream:
    """Counts how often it was waited for."""

    def __init__(self) -> None:
        self.waits = 0

    def synchronize(self) -> None:
        self.waits += 1


class Graph:
    """What was recorded, which `replay` does again in place."""

    def __init__(self) -> None:
        self.recorded: Any = None
        self.replays = 0

    def replay(self) -> None:
        inputs, outputs = self.recorded
        self.replays += 1
        outputs["y"].copy_(inputs["x"] * 2 + 1)


class Cuda:
    """Stands for `torch.cuda`."""

    def __init__(self, program: Doubles) -> None:
        self.program = program
        self.graphs: list[Graph] = []
        self.streams: list[Stream] = []
        self.refuses = False

    def Stream(self, device: Any) -> Stream:  # noqa: N802 - torch's name
        self.streams.append(Stream())
        return self.streams[-1]

    def CUDAGraph(self) -> Graph:  # noqa: N802 - torch's name
        self.graphs.append(Graph())
        return self.graphs[-1]

    def stream(self, stream: Stream) -> Any:
        return nullcontext()

    @contextmanager
    def graph(self, graph: Graph, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        assert stream.waits, "work was under way"
        yield
        if self.refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        graph.recorded = self.program.last


class Torch:
    """torch, but for the calls that need a device; says which precision was asked for."""

    def __init__(self, program: Doubles) -> None:
        self.cuda = Cuda(program)
        self.precisions: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def empty(self, shape: Any, dtype: Any, pin_memory: bool) -> Any:
        assert pin_memory
        return torch.empty(shape, dtype=dtype)

    def autocast(self, device: str, dtype: Any, cache_enabled: bool) -> Any:
        assert (device, cache_enabled) == ("cuda", False)
        self.precisions.append(dtype)
        return nullcontext()


def _instance(
    program: Doubles, half: bool = True, dense: bool = False
) -> tuple[CudaInstance, Torch]:
    library = Torch(program)
    config = ModelConfig(
        batching=Batching(max_batch=8, preferred=(4,)), instances=Instances(half=half)
    )
    return CudaInstance(library, program, config, dense=dense), library


def _rows(*values: float) -> Array:
    return np.array([[value] * 3 for value in values], np.float32)


def _answer(instance: CudaInstance, *values: float) -> list[float]:
    outputs = instance.run({"x": _rows(*values)})
    assert outputs["y"].dtype == np.float32  # The file's type, whatever came out.
    assert outputs["y"].shape == (len(values), 3)
    return list(outputs["y"][:, 0])


def test_a_bucket_is_recorded_after_its_first_run_and_replayed_then() -> None:
    program = Doubles()
    instance, library = _instance(program)
    assert _answer(instance, 1, 2, 3, 4) == [3, 5, 7, 9]
    assert program.calls == [(4, 3), (4, 3)]  # The first run, and the recording.
    assert _answer(instance, 5, 6, 7, 8) == [11, 13, 15, 17]
    assert len(program.calls) == 2
    assert library.cuda.graphs[0].replays == 1


def test_a_batch_of_half_a_bucket_is_filled_up() -> None:
    instance, library = _instance(Doubles())
    _answer(instance, 9, 9, 9, 9)
    assert _answer(instance, 1, 2, 3) == [3, 5, 7]
    assert library.cuda.graphs[0].replays == 1


def test_a_batch_far_from_any_bucket_runs_without_a_graph() -> None:
    program = Doubles()
    instance, library = _instance(program)
    program.max_batch = 8
    config = ModelConfig(batching=Batching(max_batch=8))
    plain = CudaInstance(library, program, config, dense=False)
    for _ in range(2):
        assert _answer(plain, 1, 2, 3) == [3, 5, 7]
    assert library.cuda.graphs == []
    assert program.calls == [(3, 3), (3, 3)]
    instance.close()


def test_any_order_of_sizes_gives_the_right_rows() -> None:
    instance, _ = _instance(Doubles())
    random = np.random.default_rng(5)
    for _ in range(100):
        values = random.integers(0, 50, random.integers(1, 9)).tolist()
        assert _answer(instance, *values) == [2 * value + 1 for value in values]


def test_a_model_of_any_size_runs_without_graphs() -> None:
    program = Doubles((None,))
    instance, library = _instance(program)
    for width in (2, 5, 2):
        outputs = instance.run({"x": np.ones((4, width), np.float32)})
        assert outputs["y"].tolist() == [[3] * width] * 4
    assert library.cuda.graphs == []


def test_a_capture_that_fails_goes_on_with_plain_runs(caplog: pytest.LogCaptureFixture) -> None:
    program = Doubles()
    instance, library = _instance(program)
    library.cuda.refuses = True
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert _answer(instance, 1) == [3]
    assert caplog.text.count("no CUDA graph for a batch of 1, it runs without") == 1
    assert len(library.cuda.graphs) == 1


def test_after_a_failure_the_stream_is_waited_for() -> None:
    program = Doubles()
    instance, library = _instance(program)
    program.fails = True
    waits = library.cuda.streams[0].waits
    with pytest.raises(RuntimeError, match="illegal memory access"):
        instance.run({"x": _rows(1)})
    assert library.cuda.streams[0].waits == waits + 1
    program.fails = False
    assert _answer(instance, 2) == [5]


@pytest.mark.parametrize(("half", "precisions"), [(True, {torch.float16}), (False, set())])
def test_half_precision_is_the_configuration_s(half: bool, precisions: set[Any]) -> None:
    instance, library = _instance(Doubles(), half=half)
    _answer(instance, 1)
    assert set(library.precisions) == precisions


@pytest.mark.parametrize("dense", [True, False])
def test_images_are_in_channels_last_order_if_the_program_takes_it(dense: bool) -> None:
    program = Doubles((3, 2, 2))
    instance, _ = _instance(program, dense=dense)
    for rows in (1, 1, 4, 2):
        outputs = instance.run({"x": np.full((rows, 3, 2, 2), rows, np.float32)})
        assert outputs["y"].tolist() == np.full((rows, 3, 2, 2), 2 * rows + 1).tolist()
    assert set(program.dense) == {dense}


def test_pinned_buffers_are_arrays() -> None:
    instance, _ = _instance(Doubles())
    buffer = instance.allocate(DataType.INT64, (2, 3))
    assert (buffer.dtype, buffer.shape) == (np.int64, (2, 3))

"""Batches through a TensorRT engine on a fake GPU: data, graphs, errors, and what is given back.

The fake's outputs are sums of the inputs' rows, times 1, 2, … so that each row shows whose it is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.fake_cuda import FakeCuda, cudaError_t
from tests.support.fake_tensorrt import plan
from vision.config import Batching, Instances, ModelConfig
from vision.runtime.base import Instance, Loaded
from vision.runtime.tensorrt import TensorRtRuntime
from vision.tensors import Array, DataType


class Machine:
    """Plans x [batch, 4] → y [batch, 2] on the fake device, closed at the end."""

    def __init__(self, cuda: FakeCuda, folder: Path) -> None:
        self.cuda = cuda
        self._file = folder / "model.plan"
        self._open: list[Loaded | Instance] = []

    def load(
        self,
        *profiles: dict[str, Any],
        preferred: tuple[int, ...] = (4,),
        device: str = "auto",
        **rest: Any,
    ) -> Loaded:
        said = {"inputs": {"x": (-1, 4)}, "outputs": {"y": (-1, 2)}, "scratch": 64} | rest
        self._file.write_bytes(plan(profiles=profiles or ({"x": (1, 4, 8)},), **said))
        config = ModelConfig(
            batching=Batching(max_batch=8, preferred=preferred), instances=Instances(device=device)
        )
        loaded = TensorRtRuntime().load(self._file, config)
        self._open.append(loaded)
        return loaded

    def instance(self, loaded: Loaded) -> Instance:
        made = loaded.instance()
        self._open.append(made)
        return made

    def close(self) -> None:
        while self._open:
            self._open.pop().close()


@pytest.fixture
def machine(fake_cuda: FakeCuda, tmp_path: Path) -> Iterator[Machine]:
    made = Machine(fake_cuda, tmp_path)
    yield made
    made.close()


def _rows(*values: float) -> Array:
    return np.array([[value] * 4 for value in values], np.float32)


def _sums(*values: float) -> list[list[float]]:
    return [[4 * value, 8 * value] for value in values]


def test_each_row_comes_back_in_its_place(machine: Machine) -> None:
    instance = machine.instance(machine.load())
    assert instance.run({"x": _rows(1, 2, 3)})["y"].tolist() == _sums(1, 2, 3)


def test_pinned_rows_are_copied_from_where_they_lie(machine: Machine) -> None:
    instance = machine.instance(machine.load())
    buffer = instance.allocate(DataType.FP32, (8, 4))
    pinned = machine.cuda.called("cudaHostAlloc")
    buffer[:3] = _rows(1, 2, 3)
    assert instance.run({"x": buffer[:3]})["y"].tolist() == _sums(1, 2, 3)
    assert machine.cuda.called("cudaHostAlloc") == pinned


def test_pinned_rows_are_given_back_with_the_last_view_of_them(machine: Machine) -> None:
    instance = machine.instance(machine.load())
    held = len(machine.cuda.leaks())
    view = instance.allocate(DataType.FP32, (8, 4))[2:4]
    assert len(machine.cuda.leaks()) == held + 1
    view[:] = 1
    assert instance.run({"x": view})["y"].tolist() == _sums(1, 1)
    staging = len(machine.cuda.leaks()) - held - 1
    del view
    assert len(machine.cuda.leaks()) == held + staging


def test_other_rows_go_through_one_pinned_buffer(machine: Machine) -> None:
    instance = machine.instance(machine.load())
    strided = np.repeat(_rows(1, 2), 2, axis=0)[::2]
    offset = instance.allocate(DataType.FP32, (8, 4))
    offset[2:4] = _rows(5, 6)
    before = machine.cuda.called("cudaHostAlloc")
    assert instance.run({"x": strided})["y"].tolist() == _sums(1, 2)
    assert instance.run({"x": offset[2:4]})["y"].tolist() == _sums(5, 6)
    assert machine.cuda.called("cudaHostAlloc") == before + 1


def test_only_the_rows_that_are_there_are_copied(machine: Machine) -> None:
    instance = machine.instance(machine.load())
    instance.run({"x": _rows(1, 2, 3)})
    machine.cuda.journal.clear()
    instance.run({"x": _rows(1, 2, 3)})
    copies = [call[1] for call in machine.cuda.journal if call[0] == "cudaMemcpyAsync"]
    assert copies == [3 * 4 * 4, 3 * 2 * 4]


def test_outputs_stay_until_the_next_run(machine: Machine) -> None:
    instance = machine.instance(machine.load())
    first = instance.run({"x": _rows(1)})["y"]
    assert first.tolist() == _sums(1)
    instance.run({"x": _rows(2)})
    assert first.tolist() == _sums(2)  # A view: who wants to keep it copies it.


def test_a_bucket_is_recorded_after_its_first_run_and_launched_then(machine: Machine) -> None:
    instance = machine.instance(machine.load())
    for value in (1, 2, 3):
        assert instance.run({"x": _rows(*[value] * 4)})["y"].tolist() == _sums(*[value] * 4)
    cuda = machine.cuda
    assert cuda.called("cudaStreamBeginCapture") == 1
    assert cuda.called("cudaGraphLaunch") == 2
    assert cuda.journal.count(("execute_async_v3",)) == 2  # The first run, and the recording.


def test_a_batch_of_half_a_bucket_is_filled_up(machine: Machine) -> None:
    instance = machine.instance(machine.load())
    instance.run({"x": _rows(9, 9, 9, 9)})
    launches = machine.cuda.called("cudaGraphLaunch")
    assert instance.run({"x": _rows(1, 2, 3)})["y"].tolist() == _sums(1, 2, 3)
    assert machine.cuda.called("cudaGraphLaunch") == launches + 1


def test_a_batch_far_from_any_bucket_runs_without_a_graph(machine: Machine) -> None:
    instance = machine.instance(machine.load(preferred=()))
    for _ in range(3):
        assert instance.run({"x": _rows(1, 2, 3)})["y"].tolist() == _sums(1, 2, 3)
    assert machine.cuda.called("cudaStreamBeginCapture") == 0


def test_batches_of_any_sizes_do_not_spoil_each_other(machine: Machine) -> None:
    """The fake refuses to launch a graph whose context has been brought to other shapes."""
    instance = machine.instance(machine.load())
    random = np.random.default_rng(3)
    for _ in range(100):
        values = random.integers(0, 99, random.integers(1, 9)).tolist()
        assert instance.run({"x": _rows(*values)})["y"].tolist() == _sums(*values)


def test_a_model_of_any_size_runs_without_graphs(machine: Machine) -> None:
    loaded = machine.load(
        {"x": ((1, 1), (4, 4), (8, 6))}, inputs={"x": (-1, -1)}, outputs={"y": (-1, -1)}
    )
    instance = machine.instance(loaded)
    for width in (2, 6, 2):
        outputs = instance.run({"x": np.ones((4, width), np.float32)})
        assert outputs["y"].tolist() == [[width * (place + 1) for place in range(width)]] * 4
    assert machine.cuda.called("cudaStreamBeginCapture") == 0


def test_the_narrowest_profile_is_chosen(machine: Machine) -> None:
    instance = machine.instance(machine.load({"x": (2, 8, 8)}, {"x": (1, 1, 1)}))
    for values in ((1,), (1, 2), (3,), (1, 2, 3, 4, 5)):
        assert instance.run({"x": _rows(*values)})["y"].tolist() == _sums(*values)


def test_a_batch_under_every_profile_is_filled_up(machine: Machine) -> None:
    instance = machine.instance(machine.load({"x": (4, 8, 8)}))
    for values in ((1,), (1, 2), (1,)):
        assert instance.run({"x": _rows(*values)})["y"].tolist() == _sums(*values)


def test_several_inputs_outputs_and_types(machine: Machine) -> None:
    loaded = machine.load(
        {"a": (1, 4, 8), "b": (1, 4, 8)},
        inputs={"a": (-1, 2), "b": (-1, 1, 3)},
        outputs={"p": (-1, 1), "q": (-1, 2, 2)},
        dtypes={"a": "INT64", "p": "HALF"},
    )
    instance = machine.instance(loaded)
    for _ in range(2):
        outputs = instance.run(
            {"a": np.array([[1, 2], [3, 4]]), "b": np.ones((2, 1, 3), np.float32)}
        )
        assert outputs["p"].dtype == np.float16
        assert outputs["p"].tolist() == [[6], [10]]
        assert outputs["q"].tolist() == [[[6, 12], [18, 24]], [[10, 20], [30, 40]]]


@pytest.mark.parametrize("array", [np.zeros((9, 4), np.float32), np.zeros((1, 4), np.float64)])
def test_an_array_that_would_run_over_a_buffer_is_refused(machine: Machine, array: Array) -> None:
    instance = machine.instance(machine.load())
    with pytest.raises(ValueError, match="is not what the plan takes"):
        instance.run({"x": array})


def test_a_shape_outside_of_every_profile_is_refused(machine: Machine) -> None:
    loaded = machine.load(
        {"x": ((1, 2), (4, 4), (8, 6))}, inputs={"x": (-1, -1)}, outputs={"y": (-1, 2)}
    )
    instance = machine.instance(loaded)
    with pytest.raises(Exception, match=r"x \[1, 7\]: x: \[1, 7\] is not in profile 0"):
        instance.run({"x": np.ones((1, 7), np.float32)})
    assert instance.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 4]]


def test_after_a_refused_shape_the_one_before_is_set_anew(machine: Machine) -> None:
    widths = ((1, 1), (4, 4), (8, 6))
    loaded = machine.load(
        {"a": widths, "b": ((1, 1), (4, 2), (8, 2))},
        inputs={"a": (-1, -1), "b": (-1, -1)},
        outputs={"y": (-1, 1)},
    )
    instance = machine.instance(loaded)

    def run(width: int, other: int) -> list[list[float]]:
        rows = {"a": np.ones((3, width), np.float32), "b": np.ones((3, other), np.float32)}
        return instance.run(rows)["y"].tolist()

    assert run(2, 2) == [[4]] * 3
    with pytest.raises(Exception, match="is not in profile 0"):
        instance.run({"a": np.ones((3, 5), np.float32), "b": np.ones((3, 3), np.float32)})
    assert run(2, 2) == [[4]] * 3


def test_a_capture_that_fails_goes_on_with_plain_runs(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    instance = machine.instance(machine.load(no_capture=True))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert instance.run({"x": _rows(1, 2, 3, 4)})["y"].tolist() == _sums(1, 2, 3, 4)
    assert caplog.text.count("a loop cannot be captured") == 1
    assert machine.cuda.called("cudaStreamBeginCapture") == 1
    assert machine.cuda.called("cudaGraphLaunch") == 0


def test_a_failed_execution_gives_tensorrt_s_reason_and_the_next_one_runs(
    machine: Machine,
) -> None:
    instance = machine.instance(machine.load(fails_on=4))
    with pytest.raises(Exception, match="execution: Cask convolution execution"):
        instance.run({"x": _rows(1, 2, 3, 4)})
    assert instance.run({"x": _rows(1)})["y"].tolist() == _sums(1)


@pytest.mark.parametrize(
    "call", ["cudaSetDevice", "cudaMemcpyAsync", "cudaEventRecord", "cudaEventSynchronize"]
)
def test_a_failed_call_is_an_error_and_leaves_nothing_under_way(
    machine: Machine, call: str
) -> None:
    instance = machine.instance(machine.load())
    machine.cuda.fail(call, cudaError_t.cudaErrorIllegalAddress)
    with pytest.raises(Exception, match="cudaErrorIllegalAddress"):
        instance.run({"x": _rows(1)})
    assert all(not handle.work for handle in machine.cuda.handles.values())
    assert instance.run({"x": _rows(2)})["y"].tolist() == _sums(2)


def test_a_graph_that_fails_to_launch_is_an_error(machine: Machine) -> None:
    instance = machine.instance(machine.load())
    instance.run({"x": _rows(1)})
    machine.cuda.fail("cudaGraphLaunch", cudaError_t.cudaErrorIllegalAddress)
    with pytest.raises(Exception, match="cudaErrorIllegalAddress"):
        instance.run({"x": _rows(1)})


def test_an_instance_serves_from_any_thread_on_its_own_device(machine: Machine) -> None:
    """CUDA's current device is each thread's: the fake refuses memory of another one."""
    instance = machine.instance(machine.load(device="cuda:1"))
    answers: list[Any] = []

    def serve() -> None:
        buffer = instance.allocate(DataType.FP32, (8, 4))
        buffer[:2] = _rows(1, 2)
        answers.append(instance.run({"x": buffer[:2]})["y"].tolist())

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    assert answers == [_sums(1, 2)]


def test_instances_have_streams_and_buffers_of_their_own(machine: Machine) -> None:
    loaded = machine.load()
    one, two = machine.instance(loaded), machine.instance(loaded)
    first, second = one.run({"x": _rows(1)})["y"], two.run({"x": _rows(2)})["y"]
    assert (first.tolist(), second.tolist()) == (_sums(1), _sums(2))


def test_everything_is_given_back_in_order(machine: Machine) -> None:
    loaded = machine.load()
    instance = machine.instance(loaded)
    instance.allocate(DataType.FP32, (8, 4))
    for rows in (1, 3, 4, 8):
        instance.run({"x": np.ones((rows, 4), np.float32)})
    machine.cuda.journal.clear()
    instance.close()
    instance.close()
    order = [call[0] for call in machine.cuda.journal]
    last = {name: len(order) - 1 - order[::-1].index(name) for name in set(order)}
    assert last["cudaGraphExecDestroy"] < order.index("cudaFree")
    assert last["context freed"] < order.index("cudaFree")
    assert last["cudaFree"] < order.index("cudaStreamDestroy")
    assert last["cudaFreeHost"] < order.index("cudaStreamDestroy")
    assert order.count("context freed") == 4  # Buckets of 1, 4 and 8, and one for the rest.
    assert machine.cuda.leaks() == []


_MAKING = [
    ("cudaSetDevice", 1),
    ("cudaStreamCreateWithFlags", 1),
    ("cudaEventCreateWithFlags", 1),
    ("cudaMalloc", 1),
    ("cudaMalloc", 2),
    ("cudaMalloc", 3),
    ("cudaHostAlloc", 1),
    ("cudaMemsetAsync", 1),
    ("cudaEventSynchronize", 1),
]


@pytest.mark.parametrize(("call", "nth"), _MAKING)
def test_an_instance_that_fails_halfway_holds_nothing(
    machine: Machine, call: str, nth: int
) -> None:
    loaded = machine.load()
    machine.cuda.fail(call, cudaError_t.cudaErrorMemoryAllocation, nth)
    with pytest.raises(Exception, match="cudaErrorMemoryAllocation"):
        loaded.instance()
    assert machine.cuda.leaks() == []


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"contexts": 1}, "no execution context: out of memory"),
        ({"bad_addresses": ["y"]}, "address of y: y: not aligned"),
    ],
)
def test_an_instance_without_a_context_holds_nothing(
    machine: Machine, said: dict[str, Any], why: str
) -> None:
    loaded = machine.load(**said)
    machine.cuda.journal.clear()
    with pytest.raises(Exception, match=why):
        loaded.instance()
    assert machine.cuda.leaks() == []
    order = [call[0] for call in machine.cuda.journal]
    assert "context freed" not in order[order.index("cudaFree") :]


def test_a_context_that_cannot_be_made_later_fails_that_run_only(machine: Machine) -> None:
    instance = machine.instance(machine.load(contexts=2, preferred=()))  # To load; for any batch.
    with pytest.raises(Exception, match="out of memory for a context"):
        instance.run({"x": _rows(1)})
    assert instance.run({"x": _rows(1, 2, 3)})["y"].tolist() == _sums(1, 2, 3)

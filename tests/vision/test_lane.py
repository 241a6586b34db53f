"""Items run in batches off the event loop; each gets its own answer, or its own error."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

import vision
from vision.config import Batching, ModelConfig
from vision.errors import BadInput, DeadlineExceeded, ExecutionFailed, ModelNotReady, QueueFull
from vision.lane import Lane
from vision.runtime.onnx import OnnxRuntime
from vision.tensors import Array, Arrays, DataType, TensorSpec

LIMIT_S = 20.0
"""Nothing here takes as long, unless it is stuck."""


class Doubling:
    """An instance that doubles its rows, in an output array that it uses again each time."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.threads = {threading.get_ident()}
        self.closed = False
        self.output = np.zeros((64, 1), np.float32)

    def allocate(self, dtype: DataType, shape: tuple[int, ...]) -> Array:
        return np.empty(shape, dtype.numpy)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        self.threads.add(threading.get_ident())
        rows = inputs["x"]
        self.model.runs.append(len(rows))
        if self.model.held:
            self.model.inside.release()
            assert self.model.go_on.acquire(timeout=LIMIT_S)
        if (rows == 13).any():
            raise RuntimeError("13 is not allowed")
        if (rows == 666).any():
            raise SystemExit
        np.multiply(rows, 2, out=self.output[: len(rows)])
        return {"y": self.output[: len(rows)]}

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed = True
        if self.model.cannot_close:
            raise OSError("busy")


class Model:
    """A loaded version. While `held`, every run waits for `go_on`."""

    runtime = "fake"
    inputs = (TensorSpec("x", DataType.FP32, (1,)),)
    outputs = (TensorSpec("y", DataType.FP32, (1,)),)
    memory_bytes = 0

    def __init__(self, device: str = "cpu", max_batch: int = 64) -> None:
        self.device = device
        self.max_batch = max_batch
        self.instances: list[Doubling] = []
        self.most_instances = 9
        self.runs: list[int] = []
        self.cannot_close = False
        self.held = False
        self.inside = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def instance(self) -> Doubling:
        if len(self.instances) == self.most_instances:
            raise MemoryError("no room for one more")
        self.instances.append(Doubling(self))
        return self.instances[-1]

    def close(self) -> None:
        raise AssertionError("the lane does not own it")

    async def entered(self) -> None:
        """Return once a run has begun."""
        await until(lambda: self.inside.acquire(blocking=False))


class Diary:
    """An observer that writes down what it hears, and that it hears it on the event loop."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.batches: list[int] = []
        self.queued: list[float] = []
        self.ran: list[int] = []
        self.lengths: list[int] = []

    def started(self, rows: int, queued_s: Sequence[float]) -> None:
        assert threading.get_ident() == self.thread
        self.batches.append(rows)
        self.queued.extend(queued_s)

    def executed(self, rows: int, execute_s: float) -> None:
        assert execute_s >= 0
        self.ran.append(rows)

    def waiting(self, rows: int) -> None:
        assert threading.get_ident() == self.thread
        self.lengths.append(rows)


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110  it is other threads that bring it about
            await asyncio.sleep(0)


@asynccontextmanager
async def serving(
    model: Model,
    *,
    instances: int = 1,
    diary: Diary | None = None,
    patience_s: float = LIMIT_S,
    batching: Batching | None = None,
) -> AsyncIterator[Lane]:
    """A lane that has started, and is closed in the end."""
    lane = Lane(model, batching or Batching(), instances, diary or Diary(), patience_s=patience_s)
    await lane.start()
    try:
        yield lane
    finally:
        model.held = False
        for _ in range(99):
            model.go_on.release()
        await lane.close()


def x(*values: float) -> dict[str, Array]:
    """One row for each value."""
    return {"x": np.array(values, np.float32).reshape(-1, 1)}


async def y(lane: Lane, *values: float, deadline: float | None = None) -> list[float]:
    """Infer, and return the answer's values."""
    answer = await lane.infer(x(*values), deadline)
    result: list[float] = answer["y"].ravel().tolist()
    return result


def waiting_for(lane: Lane, *values: float, deadline: float | None = None) -> asyncio.Task[object]:
    """Begin to infer."""
    return asyncio.ensure_future(y(lane, *values, deadline=deadline))


async def test_an_item_is_answered() -> None:
    """With as many rows as it has."""
    async with serving(Model()) as lane:
        assert await y(lane, 4) == [8]
        assert await y(lane, 1, 2, 3) == [2, 4, 6]
        assert (lane.waiting, lane.running) == (0, 0)


@pytest.mark.parametrize("rows", [0, 9])
async def test_an_item_that_fits_no_batch_is_refused(rows: int) -> None:
    """Whoever ought to have checked it: it would wait for ever."""
    async with serving(Model(max_batch=8)) as lane:
        with pytest.raises(BadInput, match=f"1 to 8 rows, not {rows}"):
            await lane.infer(x(*range(rows)))


async def test_the_shipped_model_answers_in_batches_as_it_does_alone() -> None:
    """The digits model on ONNX Runtime."""
    file = Path(vision.__file__).parent / "models" / "digits" / "1" / "model.onnx"
    loaded = OnnxRuntime().load(file, ModelConfig())
    (spec,) = loaded.inputs
    images = np.random.default_rng(1).random((40, 1, 8, 8), np.float32)
    alone = loaded.instance()
    diary = Diary()
    lane = Lane(loaded, Batching(), 2, diary)
    await lane.start()
    answers = await asyncio.gather(*(lane.infer({spec.name: image[None]}) for image in images))
    await lane.close()
    for image, answer in zip(images, answers, strict=True):
        for name, expected in alone.run({spec.name: image[None]}).items():
            np.testing.assert_allclose(answer[name], expected, rtol=1e-4, atol=1e-5)
    assert sum(diary.batches) == 40
    assert len(diary.batches) < 40


async def test_an_answer_is_the_callers_own() -> None:
    """The next run uses the instance's array again."""
    async with serving(Model()) as lane:
        answer = await lane.infer(x(1))
        assert await y(lane, 5) == [10]
        assert answer["y"].tolist() == [[2]]


async def test_each_instance_lives_in_one_thread_that_is_not_the_loops() -> None:
    """It is made there, runs there and is closed there."""
    model = Model()
    async with serving(model, instances=2) as lane:
        await asyncio.gather(*(y(lane, value) for value in range(9)))
    threads = [instance.threads for instance in model.instances]
    assert [len(each) for each in threads] == [1, 1]
    assert len({threading.get_ident()}.union(*threads)) == 3
    assert all(instance.closed for instance in model.instances)


async def test_what_comes_while_it_runs_is_one_batch() -> None:
    """And each item has its own answer out of it."""
    model, diary = Model(), Diary()
    async with serving(model, diary=diary) as lane:
        model.held = True
        first = waiting_for(lane, 1)
        await model.entered()
        others = [waiting_for(lane, value, value + 1) for value in (2, 4, 6)]
        await until(lambda: lane.waiting == 6)
        assert lane.running == 1
        model.held = False
        model.go_on.release()
        assert await first == [2]
        assert await asyncio.gather(*others) == [[4, 6], [8, 10], [12, 14]]
    assert model.runs == diary.batches == diary.ran == [1, 6]
    assert len(diary.queued) == 4
    assert min(diary.queued) >= 0
    assert max(diary.lengths) == 6
    assert diary.lengths[-1] == 0


@pytest.mark.parametrize("delay_ms", [0.0, 2.0])
async def test_a_long_turn_of_the_loop_does_not_hold_anything_back(delay_ms: float) -> None:
    """An instance starts in the midst of it, once an item has waited for max_delay_ms."""
    now = [100.0]
    looks: list[int] = []

    def clock() -> float:
        looks.append(threading.get_ident())
        return now[0]

    model = Model()
    lane = Lane(model, Batching(max_delay_ms=delay_ms), 1, Diary(), monotonic=clock)
    await lane.start()
    await until(lambda: bool(looks))  # The instance has asked, and got nothing.
    model.held = True
    requests = [lane.infer(x(1)), lane.infer(x(2))]
    for request in requests:
        request.send(None)
        now[0] += 0.0025
    assert model.inside.acquire(timeout=LIMIT_S), "while the loop's turn is not over"
    model.held = False
    model.go_on.release()
    for request in requests:
        request.close()
    await lane.close()


async def test_a_batch_is_no_larger_than_the_file_allows() -> None:
    """Whatever is configured."""
    model = Model(max_batch=2)
    async with serving(model, batching=Batching(max_batch=8)) as lane:
        model.held = True
        tasks = [waiting_for(lane, 1)]
        await model.entered()
        tasks += [waiting_for(lane, value) for value in range(5)]
        await until(lambda: lane.waiting == 5)
        model.held = False
        model.go_on.release()
        await asyncio.gather(*tasks)
    assert model.runs == [1, 2, 2, 1]


async def test_instances_run_side_by_side() -> None:
    """On a CPU the second item does not wait at all."""
    model = Model()
    batching = Batching(max_delay_ms=1000 * LIMIT_S)
    async with serving(model, instances=2, batching=batching) as lane:
        await lane.warm([1], x(1), 1)
        model.held = True
        tasks = [waiting_for(lane, 1)]
        await model.entered()
        tasks.append(waiting_for(lane, 2))
        await model.entered()
        assert (lane.waiting, lane.running) == (0, 2)
        model.go_on.release(2)
        assert await asyncio.gather(*tasks) == [[2], [4]]


async def test_on_a_gpu_an_item_is_held_but_not_for_long() -> None:
    """The first run does not end, and yet the second item is served."""
    model = Model("cuda:0")
    async with serving(model, instances=2, batching=Batching(max_delay_ms=20)) as lane:
        await lane.warm([1], x(1), 1)
        model.held = True
        first = waiting_for(lane, 1)
        await model.entered()
        began = time.monotonic()
        second = waiting_for(lane, 2)
        await model.entered()
        assert time.monotonic() - began >= 0.02
        model.go_on.release(2)
        assert await asyncio.gather(first, second) == [[2], [4]]


async def test_a_held_batch_starts_when_it_is_full() -> None:
    """Long before its time."""
    model = Model("cuda:0")
    batching = Batching(max_delay_ms=1000 * LIMIT_S, max_batch=2)
    async with serving(model, instances=2, batching=batching) as lane:
        await lane.warm([1], x(1), 1)
        model.held = True
        tasks = [waiting_for(lane, 1)]
        await model.entered()
        tasks += [waiting_for(lane, 2), waiting_for(lane, 3)]
        await model.entered()
        model.go_on.release(2)
        await asyncio.gather(*tasks)
    assert model.runs == [1, 1, 1, 2]  # Two of them to warm up.


async def test_what_is_left_over_goes_to_the_other_instance() -> None:
    """Three rows, batches of two: the one that takes the first two tells it."""
    looks: list[int] = []

    def clock() -> float:
        looks.append(threading.get_ident())
        return time.monotonic()

    model = Model()
    lane = Lane(model, Batching(max_batch=2), 2, Diary(), monotonic=clock)
    await lane.start()
    await until(lambda: len(looks) == 2)  # Both have asked, and got nothing.
    model.held = True
    tasks = [waiting_for(lane, 1, 2), waiting_for(lane, 3)]
    await model.entered()
    await model.entered()
    model.go_on.release(2)
    assert await asyncio.gather(*tasks) == [[2, 4], [6]]
    await lane.close()


async def test_a_full_queue_refuses() -> None:
    """And says when to come again."""
    model = Model()
    async with serving(model, batching=Batching(queue=2)) as lane:
        model.held = True
        tasks = [waiting_for(lane, 1)]
        await model.entered()
        tasks += [waiting_for(lane, 2), waiting_for(lane, 3)]
        await until(lambda: lane.waiting == 2)
        with pytest.raises(QueueFull, match="2 rows wait") as refused:
            await lane.infer(x(4))
        assert refused.value.retry_after_s == 1
        model.go_on.release(2)
        assert await asyncio.gather(*tasks) == [[2], [4], [6]]


async def test_a_deadline_that_has_passed_is_refused_at_once() -> None:
    """It is not even queued."""
    model = Model()
    async with serving(model) as lane:
        with pytest.raises(DeadlineExceeded):
            await lane.infer(x(1), time.monotonic())
    assert model.runs == []


async def test_a_deadline_that_passes_in_the_queue() -> None:
    """It is refused though the instance does not come back, and so is the next."""
    model = Model()
    async with serving(model) as lane:
        model.held = True
        first = waiting_for(lane, 1)
        await model.entered()
        patient = waiting_for(lane, 2, deadline=time.monotonic() + LIMIT_S)
        hurried = [waiting_for(lane, 3, deadline=time.monotonic() + s) for s in (0.002, 0.03)]
        for task in hurried:
            with pytest.raises(DeadlineExceeded, match=r"it had waited \d+ ms"):
                await task
        assert lane.waiting == 1
        model.go_on.release(2)
        assert await asyncio.gather(first, patient) == [[2], [4]]
    assert model.runs == [1, 1]


async def test_a_deadline_that_passes_while_it_runs() -> None:
    """The client is told; its result is dropped when it comes."""
    now = [100.0]
    model = Model()
    lane = Lane(model, Batching(), 1, Diary(), monotonic=lambda: now[0])
    await lane.start()
    model.held = True
    late = waiting_for(lane, 1, deadline=100.001)
    await model.entered()
    now[0] = 101.0
    with pytest.raises(DeadlineExceeded):
        await late
    assert lane.running == 1
    model.held = False
    model.go_on.release()
    assert await y(lane, 2) == [4]
    await lane.close()


async def test_a_turn_refuses_what_has_expired_before() -> None:
    """If the instance looks before the loop's timer does."""
    now = [100.0]
    model = Model()
    lane = Lane(model, Batching(), 1, Diary(), monotonic=lambda: now[0])
    await lane.start()
    model.held = True
    first = waiting_for(lane, 1)
    await model.entered()
    late = waiting_for(lane, 2, deadline=100.0 + LIMIT_S)
    await until(lambda: lane.waiting == 1)
    now[0] += LIMIT_S
    model.go_on.release()
    with pytest.raises(DeadlineExceeded):
        await late
    assert await first == [2]
    await lane.close()
    assert model.runs == [1]


async def test_who_leaves_the_queue_is_not_run() -> None:
    """And who leaves while it runs does no harm."""
    model = Model()
    async with serving(model) as lane:
        model.held = True
        first = waiting_for(lane, 1)
        await model.entered()
        gone, stays = waiting_for(lane, 2), waiting_for(lane, 3)
        await until(lambda: lane.waiting == 2)
        for task in (gone, first):
            task.cancel()
        await asyncio.gather(gone, first, return_exceptions=True)
        assert gone.cancelled()
        assert first.cancelled()
        assert (lane.waiting, lane.running) == (1, 1)
        model.go_on.release(2)
        assert await stays == [6]
    assert model.runs == [1, 1]


async def test_a_bad_item_fails_alone() -> None:
    """It ran in a batch with two good ones."""
    model = Model()
    async with serving(model) as lane:
        model.held = True
        tasks = [waiting_for(lane, 1)]
        await model.entered()
        tasks += [waiting_for(lane, value) for value in (2, 13, 3)]
        await until(lambda: lane.waiting == 3)
        model.held = False
        model.go_on.release()
        *_, good, bad, fine = await asyncio.gather(*tasks, return_exceptions=True)
    assert (good, fine) == ([4], [6])
    assert isinstance(bad, ExecutionFailed)
    assert "13 is not allowed" in bad.message
    assert model.runs == [1, 3, 1, 1, 1]


async def test_warming_up_runs_every_instance_on_every_size() -> None:
    """As often as it is told to."""
    model = Model()
    async with serving(model, instances=2) as lane:
        await lane.warm([1, 4], x(1), 2)
        assert model.runs == [1, 1, 4, 4] * 2
        await lane.warm([1], x(1), 0)


async def test_warming_up_raises_what_the_runtime_raises() -> None:
    """The version is not fit to serve then."""
    async with serving(Model()) as lane:
        with pytest.raises(RuntimeError, match="13 is not allowed"):
            await lane.warm([1, 2], x(13), 1)


async def test_an_instance_that_cannot_be_made() -> None:
    """The error is the runtime's, and the instances before it are closed."""
    model = Model()
    model.most_instances = 1
    lane = Lane(model, Batching(), 2, Diary())
    with pytest.raises(MemoryError, match="no room for one more"):
        await lane.start()
    assert [instance.closed for instance in model.instances] == [True]
    with pytest.raises(ModelNotReady):
        await lane.infer(x(1))


async def test_closing_answers_what_waits() -> None:
    """And takes nothing new."""
    model = Model()
    async with serving(model) as lane:
        model.held = True
        tasks = [waiting_for(lane, 1)]
        await model.entered()
        tasks.append(waiting_for(lane, 2))
        await until(lambda: lane.waiting == 1)
        closing = asyncio.ensure_future(lane.close())
        await asyncio.sleep(0)
        with pytest.raises(ModelNotReady):
            await lane.infer(x(3))
        assert not closing.done()
        model.go_on.release(2)
        await closing
        assert await asyncio.gather(*tasks) == [[2], [4]]
        assert [instance.closed for instance in model.instances] == [True]


async def test_closing_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """A run that does not return is left behind, and nobody is left without an answer."""
    model = Model()
    lane = Lane(model, Batching(), 1, Diary(), patience_s=0.001)
    await lane.start()
    model.held = True
    tasks = [waiting_for(lane, 1)]
    await model.entered()
    tasks.append(waiting_for(lane, 2))
    await until(lambda: lane.waiting == 1)
    await lane.close()
    for task in tasks:
        with pytest.raises(ModelNotReady):
            await task
    assert "gave up on 1 instances" in caplog.text
    assert not model.instances[0].closed
    model.go_on.release()
    await until(lambda: model.instances[0].closed)
    assert model.runs == [1]


def test_a_run_that_outlives_the_loop_is_quiet() -> None:
    """Nobody waits for it any more."""
    model = Model()

    async def main() -> None:
        lane = Lane(model, Batching(), 1, Diary(), patience_s=0.001)
        await lane.start()
        model.held = True
        task = waiting_for(lane, 1)
        await model.entered()
        task.cancel()
        await lane.close()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    (thread,) = (each for each in threading.enumerate() if each.name == "instance")
    model.go_on.release()
    thread.join(LIMIT_S)
    assert model.instances[0].closed


async def test_an_instance_that_cannot_be_closed(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the thread ends."""
    model = Model()
    model.cannot_close = True
    async with serving(model):
        pass
    assert "OSError: busy" in caplog.text


async def test_a_thread_that_dies_takes_only_its_batch_with_it() -> None:
    """The other instance serves on; after that one too, the lane is not ready."""
    model = Model()
    async with serving(model, instances=2) as lane:
        with pytest.raises(ExecutionFailed, match="broke down"):
            await lane.infer(x(666))
        assert await asyncio.gather(*(y(lane, value) for value in range(9))) == [
            [2 * value] for value in range(9)
        ]
        assert not lane.broken
        with pytest.raises(ExecutionFailed, match="broke down"):
            await lane.infer(x(666))
        with pytest.raises(ModelNotReady):
            await lane.infer(x(1))
        assert lane.broken
    assert [instance.closed for instance in model.instances] == [True, True]


async def test_a_thread_that_dies_while_it_looks_for_work() -> None:
    """It is not asked again."""
    loop = threading.get_ident()
    faulty: list[int] = []

    def clock() -> float:
        if faulty and threading.get_ident() != loop:
            raise OSError(faulty.pop())
        return time.monotonic()

    lane = Lane(Model(), Batching(), 2, Diary(), monotonic=clock)
    await lane.start()
    assert await y(lane, 1) == [2]
    faulty.append(1)
    assert await y(lane, 2) == [4]
    assert await y(lane, 3) == [6]
    assert not faulty
    await lane.close()


async def test_an_order_that_nobody_waits_for_is_not_carried_out() -> None:
    """The service gave up on a version while its first instance was warming up."""
    model = Model()
    async with serving(model, instances=1) as lane:
        model.held = True
        first = asyncio.ensure_future(lane.warm([1], x(1), 1))
        await model.entered()
        second = asyncio.ensure_future(lane.warm([5], x(1), 1))
        await asyncio.sleep(0)
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        model.go_on.release()
        model.held = False
        assert await y(lane, 1) == [2]
    assert model.runs == [1, 1]


async def test_who_waits_for_the_last_instance_when_it_dies() -> None:
    """Is told that the model is not ready."""
    model = Model()
    async with serving(model, batching=Batching(max_batch=1)) as lane:
        model.held = True
        tasks = [waiting_for(lane, 666)]
        await model.entered()
        tasks.append(waiting_for(lane, 1))
        await until(lambda: lane.waiting == 1)
        model.go_on.release()
        died, waited = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(died, ExecutionFailed)
    assert isinstance(waited, ModelNotReady)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
async def test_nobody_gets_anybody_elses_answer(
    device: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Hundreds of items of different sizes, of which some are bad and some clients leave."""
    caplog.set_level(logging.CRITICAL)  # Thirteens are logged.
    rng = random.Random(1)
    batching = Batching(max_batch=16, max_delay_ms=0.5, preferred=(4, 8), queue=4096)

    async def client(lane: Lane) -> None:
        for _ in range(20):
            values = [float(rng.randrange(1, 500)) for _ in range(rng.choice([1, 1, 1, 5]))]
            task = waiting_for(lane, *values)
            if rng.random() < 0.1:
                await asyncio.sleep(0)
                task.cancel()
            try:
                assert await task == [2 * value for value in values]
            except ExecutionFailed:
                assert 13 in values
            except asyncio.CancelledError:
                assert task.cancelled()

    model = Model(device)
    async with serving(model, instances=3, batching=batching) as lane:
        await lane.warm([1], x(1), 1)
        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            for _ in range(30):
                group.create_task(client(lane))
        await until(lambda: not lane.running)
        assert lane.waiting == 0
    assert max(model.runs) <= 16

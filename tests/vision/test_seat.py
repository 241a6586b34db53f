"""A seat makes, uses and closes its instance in one thread, and ends when it is told to."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from vision.errors import DeadlineExceeded, ModelNotReady
from vision.seat import Request, Seat
from vision.tensors import Array, Arrays, DataType, TensorSpec

LIMIT_S = 20.0


class Model:
    """Loaded version and instance in one, which says what it was asked and where."""

    runtime = "fake"
    device = "cpu"
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", DataType.FP32, ()),)
    outputs: tuple[TensorSpec, ...] = ()
    max_batch = 8
    memory_bytes = 0

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.threads: set[int] = set()

    def note(self, call: str) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())

    def instance(self) -> Model:
        self.note("instance")
        return self

    def allocate(self, dtype: DataType, shape: tuple[int, ...]) -> Array:
        self.note(f"allocate {shape}")
        return np.empty(shape, dtype.numpy)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        self.note(f"run {len(inputs['x'])}")
        return {"y": -inputs["x"]}

    def close(self) -> None:
        self.note("close")


async def ended(seat: Seat) -> None:
    """End it, and wait until it has."""
    seat.end()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.wrap_future(seat.ended)


async def test_its_life() -> None:
    """One thread does it all; a batch of two has a buffer, a lone row has none."""
    model = Model()
    answers: list[object] = []
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    one = Request({"x": np.float32([1])}, "", 1, 0.0, 9.0)
    two = Request({"x": np.float32([2, 3])}, "", 2, 0.0, 9.0)

    def work(seat: Seat) -> None:
        answers.extend(answer["y"].tolist() for answer in seat.run([one, two]) if answer)
        loop.call_soon_threadsafe(asked.set)

    seat = Seat(work, pytest.fail)
    await seat.open(model, 8)
    assert await seat.warm([1, 2], {"x": np.float32([0])}, 1) >= 0.0
    seat.ask()
    async with asyncio.timeout(LIMIT_S):
        await asked.wait()
    await ended(seat)
    assert answers == [[-1], [-2, -3]]
    assert model.calls == [
        *("instance", "run 1", "allocate (2,)", "run 2"),
        *("allocate (4,)", "run 3", "close"),
    ]
    assert len(model.threads) == 1
    assert threading.get_ident() not in model.threads


async def test_it_asks_again_when_it_was_told_to() -> None:
    """After as many seconds as `work` said, without being asked."""
    loop = asyncio.get_running_loop()
    again = asyncio.Event()
    answers: list[float | None] = [0.0005, None]

    def work(seat: Seat) -> float | None:
        if len(answers) == 1:
            loop.call_soon_threadsafe(again.set)
        return answers.pop(0)

    seat = Seat(work, pytest.fail)
    await seat.open(Model(), 8)
    seat.ask()
    async with asyncio.timeout(LIMIT_S):
        await again.wait()
    await ended(seat)
    assert answers == []


async def test_what_nobody_else_hears_of_is_told_as_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The instance is closed all the same."""
    broken: list[Seat] = []
    model = Model()

    def work(seat: Seat) -> None:
        raise SystemExit

    seat = Seat(work, broken.append)
    await seat.open(model, 8)
    seat.ask()
    async with asyncio.timeout(LIMIT_S):
        await asyncio.wrap_future(seat.ended)
    assert broken == [seat]
    assert model.calls[-1] == "close"
    assert "broke down" in caplog.text


async def test_a_request_is_answered_once() -> None:
    """A second error, or one after the client has left, goes nowhere."""
    request = Request({}, "", 1, 1.0, 2.0)
    request.fail(error := request.too_late(1.5))
    request.fail(ModelNotReady("later"))
    assert request.answer.exception() is error
    assert isinstance(error, DeadlineExceeded)
    assert error.message == "The request's time ran out; it had waited 500 ms."
    left = Request({}, "", 1, 1.0, 2.0)
    left.answer.cancel()
    left.fail(error)
    assert left.answer.cancelled()

"""What a process does otherwise as a worker."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import msgspec
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from gateway.workers import worker as module
from gateway.workers.inner import Question, ask
from gateway.workers.own import Seen, Standing
from gateway.workers.seat import Seat
from gateway.workers.worker import Worker
from tests.gateway.control.test_admin import Heart, Here
from tests.support.control import FakeView, endpoint, model


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that leaves pytest's output alone."""
    locks: list[str] = []
    monkeypatch.setattr(module, "take_turns", locks.append)
    made = Worker(Seat(2, 4, str(tmp_path), 0))
    assert locks == [str(tmp_path / "output.lock")]
    return made


def test_a_line_says_which_worker_wrote_it(worker: Worker) -> None:
    line_of = worker.line_of(lambda record: f'{{"model":"{record}"}}\n')
    assert line_of("m") == '{"model":"m","worker":2}\n'


def test_its_port_does_not_listen_yet(worker: Worker) -> None:
    with worker.bind("127.0.0.1") as bound:
        assert bound.getsockopt(1, 30) == 0  # SOL_SOCKET, SO_ACCEPTCONN


async def test_it_waits_for_a_healthy_endpoint_once_it_may_go(worker: Worker) -> None:
    view = FakeView(known=[model("m")], pool=[endpoint("a", "m", healthy=False)])
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(worker.until_served(view, lambda: False))
        worker._go.set()
        await asyncio.sleep(0)
        assert not waiting.done()
        view.pool = [endpoint("a", "m")]


async def test_it_does_not_wait_for_ever(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for the parent's word nor for an endpoint, and not at all when it leaves."""
    monkeypatch.setattr(module, "GO_S", 0.01)
    monkeypatch.setattr(module, "SERVED_S", 0.04)
    await worker.until_served(FakeView(), lambda: False)
    monkeypatch.setattr(module, "SERVED_S", 1e6)
    await worker.until_served(FakeView(), lambda: True)


async def test_it_leaves_when_the_parent_s_end_of_the_pipe_closes(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes through the pipe says nothing; its end does."""
    reading, writing = os.pipe()
    left: list[str] = []
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.until_orphaned(lambda: left.append("now")))
            await asyncio.sleep(0)
            os.write(writing, b"x")
            await asyncio.sleep(0.01)
            assert left == []
            os.close(writing)
    assert left == ["now"]


async def test_the_parent_is_answered(worker: Worker) -> None:
    """How far it is, what it sees and counts; and its word is heard."""
    view = FakeView(known=[model("m", root="x")], pool=[endpoint("a", "m")])
    registry = CollectorRegistry()
    ways = Here(), Heart(0.5)
    async with worker.answer_parent(FastAPI(), view, registry, ways):
        path = worker.seat.socket

        async def asked(route: str, method: str = "GET") -> bytes:
            answer = await ask(path, Question(method, f"/worker/{route}"))
            assert answer.status_code == 200
            return answer.content

        decoded = msgspec.json.decode(await asked("standing"), type=Standing)
        assert decoded == Standing(listening=False, lag_s=0.5)
        worker.listening = True
        assert json.loads(await asked("standing"))["listening"] is True
        assert msgspec.json.decode(await asked("seen"), type=Seen) == Seen.of(view)
        assert await asked("metrics") == b"[]"
        assert not worker._go.is_set()
        await asked("go", "POST")
        assert worker._go.is_set()


async def test_a_port_may_tell_all_workers_state(worker: Worker) -> None:
    """The app's own routes stand behind the parent's."""
    app = FastAPI()
    worker.together(app, FakeView())
    assert {route.path for route in app.router.routes[:3]} == {  # type: ignore[attr-defined]
        "/health",
        "/readyz",
        "/metrics",
    }

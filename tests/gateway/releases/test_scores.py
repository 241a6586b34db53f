"""A score reaches the process that served its request, and counts there once."""

from __future__ import annotations

import asyncio
import math
from random import Random
from typing import Any

import pytest

from gateway.releases import scores as module
from gateway.releases.scores import HANDED_ON, STREAM, Scores
from gateway.store.base import StoreError
from gateway.store.memory import MemoryStore
from gateway.store.resilient import Resilient, Standing
from gateway.telemetry.arms import ArmTally
from gateway.telemetry.feedback import Given, Remembered
from gateway.telemetry.record import Record
from tests.support.control import ManualClock


class Process:
    """One of several over one store."""

    def __init__(self, name: str, store: MemoryStore) -> None:
        self.remembered = Remembered()
        self.shared = Resilient(store, name, ManualClock(), Random(1))
        self.scores = Scores(self.remembered, self.shared)
        self.tally = ArmTally()

    def serve(self, request_id: bytes, traceparent: bytes = b"") -> None:
        record = Record("chat", request_id, "client", 0.0)
        record.policy, record.arm, record.tally = "p", "a", self.tally
        self.remembered.remember(record, traceparent)


async def test_a_score_that_came_to_another_process_is_handed_on() -> None:
    """By the store's log; reading it again changes nothing."""
    store = MemoryStore(ManualClock())
    one, other = Process("one", store), Process("other", store)
    one.serve(b"r-1")
    assert other.scores.give("r-1", 3.0, "good") is Given.HANDED_ON
    await other.shared.turn(push=True)
    events = await store.tail(STREAM, 10)
    assert events == [{"id": "other/1", "request": "r-1", "score": 3.0, "label": "good"}]
    assert [one.scores.take(events), one.scores.take(events), other.scores.take(events)] == [
        1,
        0,
        0,
    ]
    assert one.tally.feedback.total == 3.0


async def test_a_score_is_of_one_request_of_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that follow in the same trace do not get it too, while the log still holds it."""
    monkeypatch.setattr(module, "SEEN", 2)
    store = MemoryStore(ManualClock())
    one, other = Process("one", store), Process("other", store)
    trace = b"00-%b-%b-01" % (b"a" * 32, b"b" * 16)
    for number in range(4):
        one.serve(b"r-%d" % number, trace)
        if number in {0, 2}:
            assert other.scores.give("a" * 32, 1.0) is Given.HANDED_ON
            await other.shared.turn(push=True)
        assert one.scores.take(await store.tail(STREAM, 10)) == int(number in {0, 2})
    assert one.tally.feedback.n == 2


async def test_what_is_known_here_goes_nowhere() -> None:
    """Nor does what is refused."""
    store = MemoryStore(ManualClock())
    one = Process("one", store)
    one.serve(b"r-1")
    assert one.scores.give("r-1", 1.0) is Given.COUNTED
    assert one.scores.give("r-1", 1.0) is Given.REPEATED
    await one.shared.turn(push=True)
    assert await store.tail(STREAM, 10) == []


async def test_invented_ids_are_handed_on_within_bounds() -> None:
    """And not at all while the store is down; what is known here counts all the same."""
    one = Process("one", MemoryStore(ManualClock()))
    one.serve(b"r-1")
    given = [one.scores.give(f"made-up-{number}", 1.0) for number in range(HANDED_ON + 5)]
    assert given == [Given.HANDED_ON] * HANDED_ON + [Given.UNKNOWN] * 5
    assert one.scores.give("r-1", 1.0) is Given.COUNTED
    other = Process("other", MemoryStore(ManualClock()))
    other.shared.standing = Standing(available=False, since=0.0, reason="down")
    assert other.scores.give("r-1", 1.0) is Given.UNKNOWN


async def test_alone_what_is_not_known_is_unknown() -> None:
    """And there is nothing to pull."""
    scores = Scores(Remembered(), None)
    assert scores.give("r", 1.0) is Given.UNKNOWN
    await scores.pull_forever()


async def test_the_log_is_read_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the store was down, or held what nobody can read."""
    monkeypatch.setattr(module, "PULL_S", 0)
    store = MemoryStore(ManualClock())
    one = Process("one", store)
    one.serve(b"r-1")
    while one.scores.give("made-up", 1.0) is Given.HANDED_ON:
        pass
    huge = {"request": "r-1", "score": 10**400}
    tails = [StoreError("down"), [], [huge], [{"request": "r-1", "score": 1, "label": ""}]]
    looked = asyncio.Event()

    async def tail(stream: str, count: int) -> Any:
        assert stream == STREAM
        if not tails:
            looked.set()
            return []
        found = tails.pop(0)
        if isinstance(found, StoreError):
            raise found
        return found

    monkeypatch.setattr(store, "tail", tail)
    task = asyncio.create_task(one.scores.pull_forever())
    async with asyncio.timeout(10):
        await looked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert one.tally.feedback.n == 1
    assert one.scores.give("made-up", 1.0) is Given.HANDED_ON


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        {},
        {"request": 1, "score": 1},
        {"request": "r-1", "score": "1"},
        {"request": "r-1", "score": math.inf},
        {"request": "r-1", "score": 1e9},
    ],
)
def test_what_cannot_be_read_is_passed_over(event: Any) -> None:
    """Another version may have written it; the next one counts."""
    one = Process("one", MemoryStore(ManualClock()))
    one.serve(b"r-1")
    assert one.scores.take([event, {"request": "r-1", "score": 2, "label": 7}]) == 1
    assert one.tally.feedback.total == 2

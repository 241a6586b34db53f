"""A process goes on without its store, and catches up with it."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from gateway.store.base import Document, StoreError
from gateway.store.outbox import Outbox
from gateway.store.resilient import (
    MAX_WAIT_S,
    MAX_WAITING_EVENTS,
    POLL_S,
    REPORT_TTL_S,
    Resilient,
    Standing,
    process_name,
)
from tests.gateway.store.flaky import FlakyStore
from tests.gateway.store.pace import Pace
from tests.support.control import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> FlakyStore:
    return FlakyStore(clock)


@pytest.fixture
async def pace(clock: ManualClock) -> Pace:
    return Pace(clock)


@pytest.fixture
def shared(store: FlakyStore, clock: ManualClock, pace: Pace) -> Resilient:
    return Resilient(store, "me", clock, Random(1), pace.sleep)


def test_no_two_processes_have_one_name() -> None:
    """Not even with one pid on one host, after a restart."""
    rng = Random(1)
    assert process_name(rng) != process_name(rng)


async def test_sums_go_out_each_second(shared: Resilient, store: FlakyStore, pace: Pace) -> None:
    """Every second round pushes; every round looks at the documents."""
    async with pace.running(shared.run()):
        shared.add({"n": {"": 1}})
        assert await store.inner.totals("") == {}
        await pace.go(2)
        assert await store.inner.totals("") == {"n": {"": 1.0}}
        shared.add({"n": {"": 2}})
        await pace.go(2)
        assert await store.inner.totals("") == {"n": {"": 3.0}}
    assert pace.slept == [POLL_S] * 5
    assert store.calls.count("changes") == 5
    assert store.calls.count("push") == 3


async def test_documents_are_seen_within_two_rounds(
    shared: Resilient, store: FlakyStore, pace: Pace
) -> None:
    """By who asks and by who watches; removed ones too."""
    seen: list[Document] = []
    await store.inner.put("w/a", 5, 0)
    async with pace.running(shared.run()):
        shared.watch("w/", seen.append)
        shared.watch("other/", seen.append)
        version = await store.inner.put("w/b", 6, 0)
        await store.inner.put("else", 7, 0)
        await pace.go()
        assert [(one.key, one.value) for one in seen] == [("w/a", 5), ("w/b", 6)]
        assert shared.document("w/b").value == 6
        assert [one.key for one in shared.documents("")] == ["else", "w/a", "w/b"]
        assert [one.key for one in shared.documents("w/")] == ["w/a", "w/b"]
        await store.inner.put("w/b", None, version or 0)
        await pace.go()
    assert [(one.key, one.value) for one in seen[2:]] == [("w/b", None)]
    assert [one.key for one in shared.documents("w/")] == ["w/a"]
    assert shared.document("never") == Document("never", None, 0)


async def test_reports_go_out_and_are_withdrawn(
    shared: Resilient, store: FlakyStore, pace: Pace
) -> None:
    """What the process says of itself at that moment."""
    inflight = 1
    shared.report(lambda: {"inflight": inflight})
    async with pace.running(shared.run()):
        assert await store.inner.reports() == {"me": {"inflight": 1}}
        inflight = 2
        await pace.go(2)
        assert await store.inner.reports() == {"me": {"inflight": 2}}
    await shared.finish()
    assert await store.inner.reports() == {}
    assert REPORT_TTL_S > 4 * 2 * POLL_S


async def test_while_the_store_is_down_it_goes_on(
    shared: Resilient, store: FlakyStore, pace: Pace, clock: ManualClock
) -> None:
    """With the documents as seen last; sums and events wait, and all arrive, once."""
    await store.inner.put("weights", 5, 0)
    async with pace.running(shared.run()):
        assert shared.standing == Standing(available=True, since=100.0)
        await pace.go()
        store.down, down_at = True, clock.now + POLL_S
        for number in range(20):
            shared.add({"n": {"": 1}, "h": {str(number % 3): 1}})
            shared.append("audit", number)
            await pace.go()
        assert shared.standing == Standing(available=False, since=down_at, reason="switched off")
        assert shared.document("weights").value == 5
        store.down = False
        await pace.go(3)
        assert shared.standing.available
        assert shared.standing.since > down_at
        assert shared.standing.reason == ""
    assert await store.inner.totals("") == {
        "n": {"": 20.0},
        "h": {"0": 7.0, "1": 7.0, "2": 6.0},
    }
    assert await store.inner.tail("audit", 100) == list(range(20))
    assert shared.outbox.losses == 0


async def test_waits_are_jittered_and_bounded(
    shared: Resilient, store: FlakyStore, pace: Pace
) -> None:
    """tenacity's full jitter: the store is asked again within 2 s, and not by all at once."""
    store.down = True
    async with pace.running(shared.run()):
        await pace.go(40)
    assert max(pace.slept) <= MAX_WAIT_S
    assert len(set(pace.slept)) > 30
    assert max(pace.slept) > MAX_WAIT_S / 2
    assert pace.slept[0] <= 0.1


async def test_answers_that_get_lost_double_nothing(
    shared: Resilient, store: FlakyStore, pace: Pace
) -> None:
    """The calls took effect, and are made again."""
    async with pace.running(shared.run()):
        store.mute = True
        for _ in range(5):
            shared.add({"n": {"": 1}})
            shared.append("audit", "once")
            await pace.go(2)
        store.mute = False
        await pace.go(6)
    assert await store.inner.totals("") == {"n": {"": 5.0}}
    assert await store.inner.tail("audit", 100) == ["once"] * 5


async def test_what_is_over_goes_from_the_store_as_well(
    shared: Resilient, store: FlakyStore, pace: Pace
) -> None:
    """When it can; what only this process has no use for stays there."""
    for name in ("p/1/a", "p/2/a", "q/1/a"):
        shared.add({name: {"": 1}})
    async with pace.running(shared.run()):
        await pace.go(2)
        store.mute = True
        shared.forget("p/1/", everywhere=True)
        shared.forget("q/")
        await pace.go(4)
        assert sorted(await store.inner.totals("")) == ["p/1/a", "p/2/a", "q/1/a"]
        store.mute = False
        await pace.go(6)
    assert sorted(await store.inner.totals("")) == ["p/2/a", "q/1/a"]
    assert list(shared.outbox.names) == ["p/2/a"]


def test_sums_for_which_there_is_no_room_are_told_once(
    shared: Resilient, caplog: pytest.LogCaptureFixture
) -> None:
    """A gate that sees nothing would else wait without a reason."""
    shared.outbox = Outbox(max_fields=1)
    for name in "abc":
        shared.add({name: {"": 1}})
    assert shared.outbox.dropped == 2
    assert caplog.text.count("no room is left") == 1


async def test_what_the_store_lost_comes_back(
    shared: Resilient, store: FlakyStore, pace: Pace, caplog: pytest.LogCaptureFixture
) -> None:
    """Sums since the start, documents as seen last, and events; the log says so."""
    version = await store.inner.put("weights", 5, 0)
    shared.add({"n": {"": 3}})
    shared.append("audit", "before")
    async with pace.running(shared.run()):
        store.lose()
        shared.add({"n": {"": 4}})
        shared.append("audit", "after")
        await pace.go(6)
    assert store.calls.count("restore") == 1
    assert await store.inner.tail("audit", 9) == ["before", "after"]
    assert await store.inner.totals("") == {"n": {"": 7.0}}
    assert await store.inner.get("weights") == Document("weights", 5, version or 0)
    assert "flaky has lost state: 1 documents restored" in caplog.text
    assert shared.outbox.losses == 1


async def test_what_is_gone_on_from_is_never_older_than_what_was_seen(
    shared: Resilient, store: FlakyStore
) -> None:
    """Though the round has not found out yet that the store has lost something."""
    version = await store.inner.put("weights", 5, 0)
    assert await shared.fetch("weights") == Document("weights", 5, version or 0)
    await shared.poll()
    store.lose()
    assert await shared.fetch("weights") == Document("weights", 5, version or 0)
    later = await store.inner.put("weights", 50, version or 0)
    assert await shared.fetch("weights") == Document("weights", 50, later or 0)
    assert store.calls.count("restore") == 1


async def test_a_loss_in_the_middle_of_trouble_is_not_forgotten(
    shared: Resilient, store: FlakyStore, pace: Pace
) -> None:
    """The restoring fails, and is done when the store is back."""
    await store.inner.put("weights", 5, 0)
    async with pace.running(shared.run()):
        store.lose()
        restore = store.inner.restore

        async def fails(documents: object) -> int:
            raise StoreError("no answer")

        store.inner.restore = fails  # type: ignore[method-assign, assignment]  # one call of the store fails
        await pace.go(4)
        assert not shared.standing.available
        store.inner.restore = restore  # type: ignore[method-assign]  # see above
        await pace.go(2)
    assert (await store.inner.get("weights")).value == 5


async def test_a_restored_store_is_believed_only_where_it_is_newer(
    shared: Resilient, store: FlakyStore, pace: Pace
) -> None:
    """Another process brought back an older document: ours replaces it."""
    first = await store.inner.put("weights", 5, 0)
    second = await store.inner.put("weights", 50, first or 0)
    async with pace.running(shared.run()):
        store.lose()
        pace.clock.now += 1.0
        await store.inner.restore([Document("weights", 5, first or 0)])
        assert (await store.inner.changes(second or 0)).documents
        await pace.go()
        assert shared.document("weights").value == 50
        await pace.go()
    assert await store.inner.get("weights") == Document("weights", 50, second or 0)


async def test_a_forgotten_policy_stays_forgotten(
    shared: Resilient, store: FlakyStore, pace: Pace
) -> None:
    """Also after a loss."""
    shared.add({"p/x": {"": 1}, "q": {"": 1}})
    async with pace.running(shared.run()):
        await store.inner.forget("p/")
        shared.forget("p/")
        store.lose()
        await pace.go(2)
    assert await store.inner.totals("") == {"q": {"": 1.0}}


async def test_the_last_words_are_said(shared: Resilient, store: FlakyStore) -> None:
    """At the end of the process: sums, also behind a batch that waited, and events."""
    shared.add({"n": {"": 1}})
    push = store.inner.push

    async def fails(process: str, batch: object) -> int:
        raise StoreError("no answer")

    store.inner.push = fails  # type: ignore[method-assign, assignment]  # one call of the store fails
    with pytest.raises(StoreError):
        await shared.turn(push=True)
    store.inner.push = push  # type: ignore[method-assign]  # see above
    shared.add({"n": {"": 2}})
    shared.append("audit", "the end")
    await shared.finish()
    assert await store.inner.totals("") == {"n": {"": 3.0}}
    assert await store.inner.tail("audit", 9) == ["the end"]


@pytest.mark.parametrize("waiting", [True, False])
async def test_last_words_that_nobody_hears_are_noted(
    shared: Resilient, store: FlakyStore, caplog: pytest.LogCaptureFixture, waiting: bool
) -> None:
    """In the log, if there were any; the end is not held up."""
    if waiting:
        shared.add({"n": {"": 1}})
    store.down = True
    await shared.finish()
    assert ("could not be stored" in caplog.text) is waiting


async def test_waiting_events_are_bounded(shared: Resilient, store: FlakyStore) -> None:
    """The oldest go first, counted."""
    for number in range(MAX_WAITING_EVENTS + 5):
        shared.append("audit", number)
    assert shared.lost_events == 5
    await shared.turn(push=True)
    assert (await store.inner.tail("audit", 2_000))[0] == 5


async def test_an_event_given_up_while_it_is_written_is_no_trouble(
    shared: Resilient, store: FlakyStore
) -> None:
    """The queue was full, and its first was under way."""
    for number in range(MAX_WAITING_EVENTS):
        shared.append("audit", number)
    append = store.inner.append

    async def slowly(stream: str, event: object, event_id: str) -> None:
        await append(stream, event, event_id)
        if event == 0:
            shared.append("audit", "more")

    store.inner.append = slowly  # type: ignore[method-assign, assignment]  # while it is written
    await shared.turn(push=True)
    assert len(await store.inner.tail("audit", 2_000)) == MAX_WAITING_EVENTS + 1


async def test_a_look_between_the_rounds(shared: Resilient, store: FlakyStore) -> None:
    """For what must not wait: a put of this process, say."""
    await store.inner.put("weights", 5, 0)
    await shared.poll()
    assert shared.document("weights").value == 5
    store.down = True
    with pytest.raises(StoreError):
        await shared.poll()


async def test_nothing_that_is_said_waits(shared: Resilient, store: FlakyStore) -> None:
    """While the store is down, and without a loop going round."""
    store.down = True
    shared.add({"n": {"": 1}})
    shared.append("audit", 1)
    shared.report(dict)
    await asyncio.sleep(0)
    assert store.calls == []

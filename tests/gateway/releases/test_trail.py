"""Is every transition in the audit log, whoever dies between writing it and telling it?"""

from __future__ import annotations

from typing import Any

import pytest

from gateway.plan.rollout_state import Command
from gateway.releases import trail
from gateway.releases.leader import Leader
from gateway.releases.trail import AUDIT, FIELD, KEPT, Trail
from gateway.store.base import Changes, Document, Fence, Json, StoreError
from gateway.store.memory import MemoryStore
from tests.gateway.releases.test_member import World, rollout, split, world


class Mute(MemoryStore):
    """A store whose audit log cannot be written to while `mute`, and not be polled while `deaf`."""

    mute = True
    deaf = False

    async def changes(self, since: int) -> Changes:
        if self.deaf:
            raise StoreError("down")
        return await super().changes(since)

    async def append(
        self, stream: str, event: Json, event_id: str, fence: Fence | None = None
    ) -> None:
        if self.mute:
            raise StoreError("down")
        await super().append(stream, event, event_id, fence)


def muted(policy: dict[str, Any]) -> tuple[World, Mute]:
    """Two processes around a store whose audit log fails; both lead with the same fence."""
    one = World(policy)
    store = Mute(one.clock)
    one.store = store
    one.processes = [type(each)(one, seed) for seed, each in enumerate(one.processes)]
    return one, store


def another(one: World) -> Leader:
    """The leader of a process that has just taken over."""
    process = one.processes[1]
    return Leader(process.member.shared, lambda: process.rules, one.clock)


async def test_what_a_rollout_s_leader_did_not_live_to_tell_the_next_one_tells() -> None:
    one, store = muted(rollout())
    await one.lead()
    with pytest.raises(StoreError):
        await one.look()
    assert await one.audit() == []
    store.mute = False
    leader = another(one)
    for _ in range(3):  # Once, however often it looks.
        await leader.look(one.fence)
        assert await one.audit() == [("pending", "progressing")]


async def test_what_a_split_s_leader_did_not_live_to_tell_the_next_one_tells() -> None:
    one, store = muted(split())
    await one.lead()
    await one.look()
    one.processes[0].serve("ab", "a", 700, 300)
    one.processes[0].serve("ab", "b", 970, 30)
    with pytest.raises(StoreError):
        await one.look()
    store.mute = False
    await another(one).look(one.fence)
    (event,) = await store.tail(AUDIT, 9)
    assert (event["policy"], event["kind"]) == ("ab", "promoted")


async def test_what_a_person_ordered_is_told_by_the_leader_if_need_be() -> None:
    """The store took the state and failed then: the order is done, and the answer says so."""
    one, store = muted(rollout())
    store.mute = False
    await one.lead()
    await one.look()
    store.mute = store.deaf = True
    said = await one.processes[1].member.command("new", Command.PAUSE, "ada")
    assert said["phase"] == "paused"
    store.mute = store.deaf = False
    await one.look()
    assert await one.audit() == [("pending", "progressing"), ("progressing", "paused")]
    assert (await store.tail(AUDIT, 1))[0]["by"] == "ada"


async def test_a_document_holds_the_last_transitions_only() -> None:
    async with world(rollout()) as one:
        for _ in range(KEPT):
            for wanted in (Command.PAUSE, Command.RESUME):
                await one.processes[1].member.command("new", wanted, "ada")
        await one.look()
        document = await one.store.get("policy/new")
        assert len(document.value[FIELD]) == KEPT
        assert len(await one.audit()) == 1 + 2 * KEPT


@pytest.mark.parametrize("value", [None, [], {}, {FIELD: None}, {FIELD: {"id": "x"}}])
async def test_a_document_without_transitions_has_none_to_tell(value: Json) -> None:
    """An older gateway wrote it, or nobody."""
    store = World(rollout()).store
    document = Document("policy/new", value, 1)
    assert trail.following(document, [1]) == [1]
    await Trail(store).catch_up(document, Fence("leader", 0))
    assert await store.tail(AUDIT, 9) == []

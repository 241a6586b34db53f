"""What the leader does where it cannot judge; what it decides is tested with `Member`."""

from __future__ import annotations

import sys

import pytest

from gateway.plan.rollout_state import Command, RefusedError
from gateway.releases.leader import UNJUDGED
from gateway.releases.overview import Overview
from tests.gateway.releases.test_member import World, rollout, split


async def test_without_scipy_no_canary_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could send it back. The state says what is missing, and is written once."""
    monkeypatch.setitem(sys.modules, "gateway.stats.bounds", None)
    world = World(rollout())
    await world.lead()
    await world.look()
    key = "policy/new"
    written = (await world.store.get(key)).version
    await world.look(3)
    process = world.processes[1]
    assert process.weights("new") == (100, 0)
    shown = (await Overview(process.member, lambda: process.rules).policy("new")).rollout
    assert shown is not None
    assert (shown.phase, shown.waiting) == ("pending", [UNJUDGED])
    assert (await world.store.get(key)).version == written
    for wanted in (Command.START, Command.RESUME):  # Not by hand, either.
        with pytest.raises(RefusedError, match="needs the analysis"):
            await process.member.command("new", wanted, "ada")
    assert await world.audit() == []


async def test_rollouts_begin_once_scipy_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart, from the state that was kept."""
    world = World(rollout())
    await world.lead()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "gateway.stats.bounds", None)
        await world.look()
    await world.look()
    assert [each.weights("new") for each in world.processes] == [(90, 10)] * 2


async def test_without_scipy_a_split_divides_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until somebody can look; then the verdict is of the figures, though none has changed."""

    def halted(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'numpy'")

    world = World(split())
    await world.lead()
    with monkeypatch.context() as patched:
        patched.setattr("gateway.releases.experiment.look", halted)
        await world.look()
        written = (await world.store.get("policy/ab")).version
        await world.look(2)
    assert (await world.store.get("policy/ab")).version == written
    assert world.processes[1].member.status()[0]["verdict"] == f"waits for {UNJUDGED}"
    assert world.processes[1].weights("ab") == (1, 1)
    await world.look()
    assert UNJUDGED not in world.processes[1].member.status()[0]["verdict"]

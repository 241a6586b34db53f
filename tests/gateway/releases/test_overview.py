"""What people are told of policies is what the store and the machine know."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.config.policy import Policy
from gateway.plan.likeness import Figures, Likeness
from gateway.plan.match import Rules
from gateway.plan.rollout_state import Command, RefusedError
from gateway.releases.mirrored import Mirrored, Pair
from gateway.releases.overview import MIRRORS, Overview
from gateway.store.base import StoreError
from gateway.store.memory import MemoryStore
from tests.gateway.releases.test_member import KNOWN, World, rollout, split

MIRROR = {"name": "shadow", "mirror": {"to": {"cluster": "c", "upstream_model": "next"}}}


def overview(world: World, process: int = 1) -> Overview:
    found = world.processes[process]
    return Overview(found.member, lambda: found.rules)


async def test_a_rollout_is_shown_with_its_gates_and_figures() -> None:
    """By every process, with the sums of all."""
    world = World({**rollout(), "description": "new engine"})
    await world.lead()
    await world.look(2)
    world.processes[0].serve("new", "canary", 30)
    world.processes[1].serve("new", "canary", 9, bad=1)
    world.processes[1].serve("new", "baseline", 200)
    await world.look()
    await world.processes[1].turn()
    found = await overview(world).policies()
    (shown,) = found.policies
    assert (found.store.label, found.store.available, found.leads) == ("memory", True, False)
    assert (shown.name, shown.kind, shown.models) == ("new", "rollout", ["m"])
    assert shown.description == "new engine"
    assert shown.rollout is not None
    assert (shown.rollout.phase, shown.rollout.step, shown.rollout.weight) == ("progressing", 1, 10)
    assert (shown.rollout.requests, len(shown.rollout.steps)) == (40, 2)
    assert "40 of 50 requests by the canary" in shown.rollout.waiting
    assert shown.rollout.gates[0]["metric"] == "error_rate"
    baseline, canary = shown.arms
    assert (baseline.name, baseline.to, baseline.share) == ("baseline", "m", 90)
    assert (canary.share, canary.figures["success_rate"].n) == (10, 40)
    assert canary.figures["success_rate"].mean == pytest.approx(0.975)
    assert canary.figures["latency"].p95 == pytest.approx(1.0, rel=0.02)
    assert "ttft" not in canary.figures


async def test_what_has_ended_a_rollout_is_still_shown() -> None:
    """The figures of the epoch that has begun with the end are of the baseline alone."""
    world = World(rollout())
    await world.lead()
    await world.look(2)
    world.processes[1].serve("new", "baseline", 600, 2)
    world.processes[1].serve("new", "canary", 30, 40)
    await world.look(3)
    shown = (await overview(world).policy("new")).rollout
    assert shown is not None
    gate = shown.gates[0]
    assert (shown.phase, gate["verdict"], gate["canary_n"]) == ("rolled_back", "fail", 70)


async def test_before_anybody_has_looked() -> None:
    """All is known but figures."""
    world = World(rollout(), split())
    found = [await overview(world).policy(name) for name in ("new", "ab")]
    assert found[0].rollout is not None and found[1].experiment is not None  # noqa: PT018
    assert (found[0].rollout.phase, found[0].rollout.weight) == ("pending", 0)
    assert found[1].experiment.verdict == "nobody has looked at it yet"
    assert [arm.figures for each in found for arm in each.arms] == [{}] * 4


async def test_a_reload_may_come_while_the_store_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there when the question came is shown."""
    world = World(rollout(), split())
    process = world.processes[1]
    shown = overview(world)
    plain = MemoryStore.totals

    async def totals(self: MemoryStore, prefix: str) -> Any:
        process.rules = Rules([], KNOWN)
        return await plain(self, prefix)

    monkeypatch.setattr(MemoryStore, "totals", totals)
    assert [each.name for each in (await shown.policies()).policies] == ["new", "ab"]
    assert (await shown.policies()).policies == []


async def test_a_split_is_shown_with_its_comparisons() -> None:
    """And with its winner, once there is one."""
    world = World(split())
    await world.lead()
    world.processes[0].serve("ab", "a", 300, bad=300)
    world.processes[1].serve("ab", "b", 600)
    await world.look(2)
    for process in world.processes:
        await process.turn()
    shown = await overview(world).policy("ab")
    assert shown.experiment is not None
    assert shown.experiment.winner == "b"
    (one,) = shown.experiment.comparisons
    assert (one["arm"], one["decision"]) == ("b", "promote")
    assert [arm.share for arm in shown.arms] == [0, 100]
    assert (await overview(world).audit(5))[-1]["kind"] == "promoted"


async def test_a_mirror_is_shown_with_its_report() -> None:
    """Of all processes that have said what they found."""
    world = World(MIRROR)
    for process in world.processes:
        process.member.shared.report(lambda: {MIRRORS: Mirrored().snapshot()})
        await process.turn()
    await world.store.report("odd", ["another version"], 10.0)
    shown = await overview(world).policy("shadow")
    assert shown.mirror is not None
    assert (shown.mirror["pairs"], shown.mirror["worst"]) == (0, ())
    assert [(arm.name, arm.to) for arm in shown.arms] == [("mirror", "cluster c (next)")]


async def test_a_mirror_with_another_target_has_a_report_of_its_own() -> None:
    """What the copies to the one before came to says nothing of this one."""
    world = World(MIRROR, processes=1)
    process = world.processes[0]
    mirrored = process.member._mirrored
    alike, figures = Likeness(same_status=True, exact=False, similarity=0.5), Figures(200, 1.0)
    pair = Pair("shadow", 0, "r", "m", "chat", 1.0, figures, figures, alike)
    mirrored.heard(replace(pair, epoch=process.rules.rules["shadow"].epoch))
    await process.turn()
    shown = (await overview(world, 0).policy("shadow")).mirror
    assert shown is not None
    assert (shown["pairs"], len(shown["worst"])) == (1, 1)
    other = {**MIRROR, "mirror": {"to": {"cluster": "c", "upstream_model": "other"}}}
    process.rules = Rules([Policy.model_validate(other)], KNOWN)
    process.member.follow()
    await process.turn()
    shown = (await overview(world, 0).policy("shadow")).mirror
    assert shown is not None
    assert (shown["pairs"], shown["worst"]) == (0, ())


async def test_commands_are_for_rollouts_and_fit_their_phase() -> None:
    """Each is in the audit log with who gave it."""
    world = World(rollout(start="manual"), split())
    await world.lead()
    shown = overview(world)
    with pytest.raises(RefusedError, match="cannot pause"):
        await shown.command("new", Command.PAUSE, "anna")
    for name in ("ab", "nobody"):
        with pytest.raises(KeyError):
            await shown.command(name, Command.START, "anna")
    state = await shown.command("new", Command.START, "anna")
    assert (state["phase"], state["weight"]) == ("progressing", 10)
    assert [event["by"] for event in await shown.audit(5)] == ["anna"]
    assert await shown.audit(5, "ab") == []
    assert len(await shown.audit(5, "new")) == 1
    with pytest.raises(KeyError):
        await shown.policy("nobody")


async def test_without_the_store_there_is_the_state_and_no_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is said that it does not answer; who asks for more is told, too."""
    world = World(rollout(), MIRROR)
    await world.lead()
    await world.look(2)
    world.processes[1].serve("new", "baseline", 5)
    await world.look()

    async def down(*_: Any) -> Any:
        raise StoreError("down")

    for name in ("totals", "reports", "tail"):
        monkeypatch.setattr(MemoryStore, name, down)
    found = await overview(world).policies()
    assert [arm.figures for arm in found.policies[0].arms] == [{}, {}]
    assert found.policies[0].rollout is not None
    assert found.policies[0].rollout.phase == "progressing"
    assert found.policies[1].mirror is None
    with pytest.raises(StoreError):
        await overview(world).audit(1)

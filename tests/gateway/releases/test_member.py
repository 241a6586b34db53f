"""Processes that share a store divide alike, and the one that leads lets a canary in or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from gateway.config.policy import Policy
from gateway.config.policy_conflicts import Known
from gateway.model import Outcome, Usage
from gateway.plan.match import Rules
from gateway.plan.rollout_state import Command, RefusedError
from gateway.releases import member as module
from gateway.releases.leader import Leader
from gateway.releases.member import LEASE, Counted, Member
from gateway.releases.mirrored import Mirrored
from gateway.releases.trail import AUDIT
from gateway.store.base import Fence, FencedError, StoreError
from gateway.store.memory import MemoryStore
from gateway.store.outbox import Outbox
from gateway.telemetry.arms import ArmTallies
from gateway.telemetry.record import Record
from tests.support.control import ManualClock

KNOWN = Known({"m": (), "n": ()}, ("c",), discovers=False)
STEPS = [{"weight": 10, "min_requests": 50}, {"weight": 50, "min_requests": 50}]


def rollout(**more: Any) -> dict[str, Any]:
    gates = [{"metric": "error_rate", "max_increase": 0.05}]
    said = {"baseline": {"model": "m"}, "canary": {"model": "n"}, "steps": STEPS, "gates": gates}
    return {"name": "new", "match": {"models": ["m"]}, "rollout": {**said, **more}}


def split(**more: Any) -> dict[str, Any]:
    arms = [{"name": "a", "model": "m"}, {"name": "b", "model": "n"}]
    said = {"arms": arms, "metrics": ["success_rate"], "on_decision": "promote"}
    return {"name": "ab", "match": {"models": ["m"]}, "split": {**said, **more}}


class Process:
    """One of several gateway processes, without its sockets."""

    def __init__(self, world: World, seed: int) -> None:
        self.rules = Rules([Policy.model_validate(each) for each in world.policies], KNOWN)
        self.tallies = ArmTallies()
        self.member = Member(
            world.store,
            lambda: self.rules,
            Counted(self.tallies, Mirrored()),
            world.clock,
            Random(seed),
        )

    def serve(self, policy: str, arm: str, good: int, bad: int = 0) -> None:
        """Count requests of an arm in the epoch that this process believes in."""
        tally = self.tallies.of(policy, self.rules.rules[policy].epoch, arm)
        for outcome in [Outcome.SUCCESS] * good + [Outcome.FAILURE] * bad:
            record = Record("chat", b"id", "client", 0.0)
            record.outcome, record.ended_at, record.usage = outcome, 1.0, Usage(1, 10)
            tally.observe(record)

    async def turn(self) -> None:
        self.member.collect()
        await self.member.shared.turn(push=True)

    def weights(self, policy: str) -> tuple[float, ...]:
        return self.rules.rules[policy].splitter.weights


class World:
    """A store, a clock, and the processes around them."""

    def __init__(self, *policies: dict[str, Any], processes: int = 2) -> None:
        self.policies = list(policies)
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)
        self.processes = [Process(self, seed) for seed in range(processes)]
        self.fence = Fence(LEASE, 0)

    async def lead(self) -> Fence:
        token = await self.store.acquire(LEASE, "test", 1e9)
        assert token is not None
        self.fence = Fence(LEASE, token)
        return self.fence

    async def look(self, times: int = 1, seconds: float = 1.0) -> None:
        """Let every process hand on and poll, and the first one look as the leader."""
        leader = self.processes[0].member._leader
        for _ in range(times):
            self.clock.now += seconds
            for process in self.processes:
                await process.turn()
            await leader.look(self.fence)
            for process in self.processes:
                await process.turn()

    async def audit(self) -> list[tuple[str, str]]:
        return [(each["before"], each["after"]) for each in await self.store.tail(AUDIT, 100)]


@asynccontextmanager
async def world(*policies: dict[str, Any], processes: int = 2) -> AsyncIterator[World]:
    made = World(*policies, processes=processes)
    await made.lead()
    await made.look()
    yield made


async def test_a_good_canary_goes_through_everywhere() -> None:
    """By its steps, each counted over all processes; the audit log tells each."""
    async with world(rollout()) as one:
        for expected in ((90, 10), (50, 50), (0, 100)):
            assert [each.weights("new") for each in one.processes] == [expected] * 2
            if expected == (0, 100):
                break
            for process in one.processes:
                process.serve("new", "baseline", 300)
                process.serve("new", "canary", 150)
            await one.look()
        phases = [after for _, after in await one.audit()]
        assert phases == ["progressing", "progressing", "succeeded"]
        assert one.processes[1].member.status()[0]["state"]["phase"] == "succeeded"


async def test_a_bad_canary_is_back_at_once() -> None:
    """In every process, by the first look that has the evidence."""
    async with world(rollout()) as one:
        one.processes[1].serve("new", "baseline", 600, 2)
        one.processes[1].serve("new", "canary", 30, 40)
        await one.look()
        assert [each.weights("new") for each in one.processes] == [(100, 0)] * 2
        events = await one.store.tail(AUDIT, 9)
        assert (events[-1]["after"], events[-1]["by"]) == ("rolled_back", "gate")
        assert events[-1]["readings"][0]["canary_n"] == 70


async def test_few_requests_hold_the_step() -> None:
    """However long they take."""
    async with world(rollout()) as one:
        one.processes[0].serve("new", "canary", 10)
        one.processes[0].serve("new", "baseline", 10)
        await one.look(times=20, seconds=20)
        assert one.processes[1].weights("new") == (90, 10)
        assert one.processes[1].member.status()[0]["waiting"]


async def test_people_may_steer_from_any_process() -> None:
    """What they ask for holds everywhere, and is told by whom."""
    async with world(rollout()) as one:
        other = one.processes[1].member
        state = await other.command("new", Command.PAUSE, "ada")
        assert state["phase"] == "paused"
        with pytest.raises(RefusedError, match="paused"):
            await other.command("new", Command.PAUSE, "ada")
        with pytest.raises(KeyError):
            await other.command("nothing", Command.PAUSE, "ada")
        await other.command("new", Command.PROMOTE, "ada")
        assert one.processes[1].weights("new") == (0, 100)
        await one.look()
        assert one.processes[0].weights("new") == (0, 100)
        assert (await one.store.tail(AUDIT, 1))[0]["by"] == "ada"


async def test_a_leader_that_was_replaced_writes_nothing() -> None:
    """Its term is over when another's has begun."""
    async with world(rollout()) as one:
        before = one.processes[0].weights("new")
        one.clock.now += 1e10
        assert await one.store.acquire(LEASE, "other", 5.0) is not None
        one.processes[0].serve("new", "canary", 0, 500)
        with pytest.raises(FencedError):
            await one.look()
        assert one.processes[0].weights("new") == before


async def test_a_store_that_lost_its_state_begins_nothing_anew() -> None:
    """Whoever looks or orders first goes on from what it knows: a canary that went stays away."""
    async with world(rollout(), {**split(), "name": "ab"}) as one:
        one.processes[0].serve("new", "baseline", 900)
        one.processes[0].serve("new", "canary", 30, 40)
        for process in one.processes:
            process.serve("ab", "a", 700, 300)
            process.serve("ab", "b", 970, 30)
        await one.look()
        for order in (False, True):
            empty = MemoryStore(one.clock)
            vars(one.store).update(vars(empty))
            await one.lead()
            if order:
                with pytest.raises(RefusedError, match="rolled back"):
                    await one.processes[1].member.command("new", Command.PROMOTE, "ada")
            await one.processes[0].member._leader.look(one.fence)
            await one.look()
            assert [each.weights("new") for each in one.processes] == [(100, 0)] * 2
            assert [each.weights("ab") for each in one.processes] == [(0, 1)] * 2


@pytest.mark.parametrize("own", [True, False])
async def test_nothing_is_judged_while_the_sums_come_back(own: bool) -> None:
    """What one process has pushed again is half of the truth, and the better one here.

    Whoever leads then may not know of the loss: the documents are back, and it has not pushed yet.
    """
    async with world(rollout()) as one:
        good, bad = one.processes
        for process, whole, failed in ((good, 60, 0), (bad, 34, 6)):
            process.serve("new", "baseline", 200)
            process.serve("new", "canary", whole, failed)
        await one.look(3)
        assert good.weights("new") == (90, 10)
        vars(one.store).update(vars(MemoryStore(one.clock)))
        await one.lead()
        one.clock.now += 1
        await good.turn()
        leader = (good if own else bad).member._leader
        leader.begin()
        await leader.look(one.fence)
        await one.look(5)
        assert [each.weights("new") for each in one.processes] == [(90, 10)] * 2
        good.serve("new", "canary", 0, 40)
        await one.look(5)  # It goes on by itself.
        assert good.member.status()[0]["state"]["phase"] == "rolled_back"


async def test_no_number_of_rollouts_uses_up_the_room_for_sums() -> None:
    """What is over makes way; a canary that nobody counts could never be sent back."""
    async with world(rollout(), processes=1) as one:
        process = one.processes[0]
        process.member.shared.outbox = Outbox(max_fields=200)
        for _ in range(20):
            process.serve("new", "baseline", 30)
            process.serve("new", "canary", 10)
            await one.look()
            for wanted in (Command.ABORT, Command.START):
                await process.member.command("new", wanted, "ada")
        process.serve("new", "baseline", 900)
        process.serve("new", "canary", 30, 40)
        await one.look()
        assert process.member.shared.outbox.dropped == 0
        state = process.member.status()[0]["state"]
        assert state["phase"] == "rolled_back"
        epochs = {int(name.split("/")[1]) for name in await one.store.totals("new/")}
        assert epochs == {state["epoch"] - 1}  # In the store, too; nothing has come since.


async def test_the_sums_of_policies_that_are_gone_make_way() -> None:
    """A release each week may have a name of its own; what comes back counts on in the store."""
    async with world(rollout(), split(), processes=1) as one:
        process = one.processes[0]
        process.serve("new", "baseline", 30)
        await one.look()
        both = process.rules
        process.rules = Rules([Policy.model_validate(split())], KNOWN)
        process.member.follow()
        assert not list(process.member.shared.outbox.names)
        process.rules = both
        process.member.follow()
        process.serve("new", "baseline", 7)
        await one.look()
        assert (await one.store.totals("new/1/baseline/error_rate"))["new/1/baseline/error_rate"][
            "n"
        ] == 37


async def test_a_split_is_won_by_the_better_arm() -> None:
    """It then has everything, in each process, and keeps it."""
    async with world(split()) as one:
        for process in one.processes:
            process.serve("ab", "a", 700, 300)
            process.serve("ab", "b", 970, 30)
        await one.look()
        assert [each.weights("ab") for each in one.processes] == [(0, 1)] * 2
        status = one.processes[1].member.status()[0]
        assert status["verdict"] == "b has won and has all requests"
        event = (await one.store.tail(AUDIT, 1))[0]
        assert (event["policy"], event["kind"]) == ("ab", "promoted")
        await one.look(times=3)
        assert len(await one.store.tail(AUDIT, 9)) == 1


async def test_requests_of_the_same_people_are_fewer_samples() -> None:
    """Ten users who always fail or never do prove nothing, however often each of them asks."""
    async with world(split(on_decision="report"), processes=1) as one:
        tallies = one.processes[0].tallies
        for user in range(20):
            arm = "ab"[user % 2]
            fails = user % 2 == 0 and user < 12  # 6 of 10 users of a, none of b.
            for _ in range(100):
                record = Record("chat", b"id", "client", 0.0)
                record.outcome = Outcome.FAILURE if fails else Outcome.SUCCESS
                record.ended_at, record.usage, record.group = 1.0, Usage(1, 10), user
                tallies.of("ab", 0, arm).observe(record)
        await one.look()
        first = one.processes[0].member.status()[0]["state"]["comparisons"][0]
        assert (first["metric"], first["samples"]) == ("success_rate", 2000)
        assert first["decision"] == "wait", first["text"]


async def test_a_split_that_only_reports_changes_nothing() -> None:
    """And a worse arm is said to be so."""
    async with world(split(on_decision="report")) as one:
        one.processes[0].serve("ab", "a", 980, 20)
        one.processes[0].serve("ab", "b", 700, 300)
        await one.look()
        assert one.processes[0].weights("ab") == (1, 1)
        status = one.processes[0].member.status()[0]
        assert "b is worse" in status["verdict"]
        version = (await one.store.get("policy/ab")).version
        await one.look(times=2)  # Nothing has changed, and nothing is written.
        assert (await one.store.get("policy/ab")).version == version
        assert status["state"]["counts"] == {"a": 1000, "b": 1000}


async def test_shares_that_are_not_those_given_are_a_defect() -> None:
    """No figure of such an experiment is believed."""
    async with world(split()) as one:
        one.processes[0].serve("ab", "a", 700, 300)
        one.processes[0].serve("ab", "b", 2970, 30)
        await one.look()
        assert one.processes[0].weights("ab") == (1, 1)
        assert "shares of traffic" in one.processes[0].member.status()[0]["verdict"]


async def test_another_experiment_under_the_name_begins_anew() -> None:
    """With no sum of the one before, and without its winner."""
    async with world(split()) as one:
        one.processes[0].serve("ab", "a", 700, 300)
        one.processes[0].serve("ab", "b", 970, 30)
        await one.look()
        changed = split(
            arms=[{"name": "a", "model": "m", "weight": 3}, {"name": "b", "model": "n"}]
        )
        for process in one.processes:
            process.rules = Rules([Policy.model_validate(changed)], KNOWN)
            process.member.follow()
            assert process.weights("ab") == (3, 1)
            assert process.rules.rules["ab"].epoch == 1
        await one.look()
        assert one.processes[1].member.status()[0]["state"]["counts"] == {"a": 0, "b": 0}


async def test_another_kind_of_policy_under_the_name_meets_no_old_sums() -> None:
    """A rollout, then a split, then a rollout: no canary steps by what the first one did."""
    async with world(rollout(), processes=1) as one:
        process = one.processes[0]
        process.serve("new", "baseline", 400)
        process.serve("new", "canary", 40)
        await one.look()
        seen = [process.rules.rules["new"].epoch]
        for policy in ({**split(), "name": "new"}, rollout()):
            process.rules = Rules([Policy.model_validate(policy)], KNOWN)
            process.member.follow()
            await one.look(2)
            seen.append(process.rules.rules["new"].epoch)
        assert seen == sorted(set(seen))
        assert process.weights("new") == (90, 10)
        assert process.member.status()[0]["requests"] == 0


async def test_a_promotion_can_be_taken_back() -> None:
    """By a file that only reports: the arms share the requests again, and sums begin anew."""
    async with world(split()) as one:
        for process in one.processes:
            process.serve("ab", "a", 700, 300)
            process.serve("ab", "b", 970, 30)
        await one.look()
        assert one.processes[0].weights("ab") == (0, 1)
        for process in one.processes:
            process.rules = Rules([Policy.model_validate(split(on_decision="report"))], KNOWN)
            process.member.follow()
            assert process.weights("ab") == (1, 1)
        await one.look(2)
        assert [each.rules.rules["ab"].epoch for each in one.processes] == [1, 1]
        assert one.processes[1].member.status()[0]["state"]["winner"] is None


async def test_a_state_that_cannot_be_read_changes_nothing() -> None:
    """A newer gateway may have written it; the other policies go on."""
    async with world(rollout(), split(), processes=1) as one:
        document = await one.store.get("policy/new")
        await one.store.put("policy/new", {"kind": "rollout", "state": 7}, document.version)
        one.processes[0].serve("ab", "a", 980, 20)
        one.processes[0].serve("ab", "b", 980, 20)
        await one.look()
        assert one.processes[0].weights("new") == (90, 10)
        assert one.processes[0].member.status()[1]["state"]["counts"]["a"] == 1000


async def test_what_is_wrong_with_one_policy_stops_no_gate_of_another() -> None:
    """Whatever it is: a canary that turns bad is back, though a policy before it is beyond help."""
    async with world(split(), rollout(), processes=1) as one:
        document = await one.store.get("policy/ab")
        odd = {"kind": "split", "state": {"fingerprint": "", "epoch": 0, "held": []}}
        await one.store.put("policy/ab", odd, document.version)
        one.processes[0].serve("new", "baseline", 900, 0)
        one.processes[0].serve("new", "canary", 40, 60)
        await one.look()
        assert one.processes[0].weights("new") == (100, 0)
        one.processes[0].member.follow()  # A reload goes on as well.


async def test_a_process_that_starts_divides_as_the_others_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before its first request; a store that is down, or hangs, keeps it from nothing."""
    async with world(rollout(), processes=1) as one:
        fresh = Process(one, 7)
        assert fresh.weights("new") == (1, 0)
        await fresh.member.catch_up()
        assert fresh.weights("new") == (90, 10)
        assert fresh.rules.rules["new"].epoch == 1

        async def down(since: int) -> Any:
            raise StoreError("down")

        async def hangs(since: int) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(module, "CATCH_UP_S", 0.01)
        for changes in (down, hangs):
            monkeypatch.setattr(one.store, "changes", changes)
            late = Process(one, 8)
            await late.member.catch_up()
            assert late.weights("new") == (1, 0)


def test_who_leads_is_told() -> None:
    """By the election's own clock."""
    one = World(rollout(), processes=1)
    assert not one.processes[0].member.leads
    assert isinstance(one.processes[0].member._leader, Leader)

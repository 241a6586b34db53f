"""Requests go where the first policy that matches sends them, and nowhere else."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.app import Gateway
from gateway.config.watch import FileSource
from gateway.plan.match import Subject
from gateway.plan.rollout_state import Phase, initial
from gateway.store.base import Changes
from gateway.telemetry.arms import ArmKey
from tests.support.control import ManualClock
from tests.support.engine import DONE, Script, Then, finish, response, stream, token, usage
from tests.support.policies import steered, write_policies
from tests.support.raw import post
from tests.support.rig import _protocol, eventually

ANSWER: Script = [response(b'{"id":"c","model":"b","choices":[]}')]
STREAM: Script = stream(token("x"), token("y"), finish(), usage(), DONE)
CHAT = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}


def split(*weights: float, **more: Any) -> dict[str, Any]:
    arms = [
        {"name": name, "model": name, "weight": weight}
        for name, weight in zip("abc", weights, strict=False)
    ]
    return {"split": {"by": "user", "arms": arms, **more}}


async def test_a_route_sends_all_that_matches_elsewhere(tmp_path: Path) -> None:
    """Under the engine's name of the model; the client reads its own name."""
    policy = {"match": {"models": ["a"], "headers": [{"name": "x-team", "exact": "blue"}]}}
    route = {**policy, "route": {"model": "b"}}
    async with steered(tmp_path, {"blue": route}, [ANSWER] * 2, [ANSWER] * 2) as rig:
        assert (await rig.post(CHAT)).status == 200
        answer = await rig.post(CHAT, fields={"X-Team": "blue"})
        assert json.loads(answer.body)["model"] == "a"
        assert rig.served() == [1, 1]
        assert json.loads(rig.engines[1].requests[0].body)["model"] == "b"
        assert (await rig.post({**CHAT, "model": "b"})).status == 200  # Not its model.
        assert rig.served() == [1, 2]


async def test_an_arm_is_for_good(tmp_path: Path) -> None:
    """The same user meets the same engine, and the arms share the users."""
    policies = {"ab": {"match": {"models": ["a"]}, **split(50, 50)}}
    async with steered(tmp_path, policies, [ANSWER] * 200, [ANSWER] * 200) as rig:
        seen = Counter[int]()
        for user in range(40):
            before = rig.served()
            for _ in range(3):
                await rig.post({**CHAT, "user": f"u{user}"})
            moved = [now - was for now, was in zip(rig.served(), before, strict=True)]
            assert sorted(moved) == [0, 3]
            seen[moved.index(3)] += 1
        assert min(seen[0], seen[1]) >= 10


async def test_a_client_with_a_key_keeps_its_arm(tmp_path: Path) -> None:
    """Its key needs no name for that; and no log has it."""
    policies = {"ab": {"match": {"models": ["a"]}, **split(1, 1, by="api_key")}}
    async with steered(tmp_path, policies, [ANSWER] * 80, [ANSWER] * 80) as rig:
        seen = Counter[int]()
        for key in range(16):
            before = rig.served()
            for _ in range(4):
                await rig.post(CHAT, fields={"Authorization": f"Bearer {key}"})
            moved = [now - was for now, was in zip(rig.served(), before, strict=True)]
            assert sorted(moved) == [0, 4]
            seen[moved.index(4)] += 1
        assert min(seen[0], seen[1]) >= 2
    subject = Subject("m", "chat", lambda _: b"", b"r", credentials=b"Bearer secret")
    assert "secret" not in repr(subject)


async def test_the_arm_is_counted_with_what_became_of_it(tmp_path: Path) -> None:
    """Times and tokens of what went well, and what the engine did wrong."""
    policies = {"ab": {"match": {"models": ["a"]}, **split(0, 1)}}
    broken = [*stream(token("x"), whole=False), Then.YIELD, Then.RESET]
    refused = [response(b"{}", b"400 Bad Request")]
    scripts = [STREAM, broken, refused]
    off = {"resume": "off"}
    async with steered(tmp_path, policies, [], scripts, cluster=off) as rig:
        for _ in scripts:
            await rig.post({**CHAT, "stream": True})
        tally = rig.gateway.tallies.of("ab", 0, "b")
        assert not tally.latency.n  # They are counted when somebody looks, or 256 at a time.
        assert [key for key, _ in rig.gateway.tallies.items()] == [ArmKey("ab", 0, "b")]
        assert (tally.success_rate.n, tally.success_rate.hits) == (2, 1)
        assert (tally.truncation_rate.hits, tally.abort_rate.hits) == (1, 0)
        assert (tally.latency.n, tally.ttft.n, tally.output_tokens.total) == (1, 1, 2)


async def test_an_override_changes_what_the_engine_reads(tmp_path: Path) -> None:
    """And nothing else of the body."""
    arm = {"model": "b", "override": {"temperature": 0.25, "system_prompt": "Be brief."}}
    policies = {"brief": {"match": {"models": ["a"]}, "route": arm}}
    async with steered(tmp_path, policies, [], [ANSWER]) as rig:
        await rig.post({**CHAT, "seed": 12345678901234567890})
        body = json.loads(rig.engines[1].requests[0].body)
        assert (body["temperature"], body["seed"]) == (0.25, 12345678901234567890)
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}


async def test_a_cluster_is_asked_for_the_same_model(tmp_path: Path) -> None:
    """Where the arm names a cluster and no model."""
    policies = {"there": {"match": {"models": ["a"]}, "route": {"cluster": "b"}}}
    async with steered(tmp_path, policies, [], [ANSWER]) as rig:
        await rig.post(CHAT)
        assert json.loads(rig.engines[1].requests[0].body)["model"] == "a"


@pytest.mark.parametrize("target", ["c", "b"])
async def test_a_reload_moves_what_comes_next(tmp_path: Path, target: str) -> None:
    """Policies are taken over with the configuration, or all stays."""
    policies = {"r": {"match": {"models": ["a"]}, "route": {"model": "b"}}}
    async with steered(tmp_path, policies, [ANSWER] * 3, [ANSWER] * 3, [ANSWER] * 3) as rig:
        await rig.post(CHAT)
        rig.write({"r": {"match": {"models": ["a"]}, "route": {"model": target}}})
        result = await rig.gateway.reload()
        assert not result.problems
        await rig.post(CHAT)
        assert rig.served() == ([0, 1, 1] if target == "c" else [0, 2, 0])
        rig.write({"r": {"route": {"model": "nobody"}}})
        assert "nobody" in (await rig.gateway.reload()).problems[0]
        await rig.post(CHAT)
        assert sum(rig.served()) == 3


@pytest.mark.parametrize("shown", [True, False])
async def test_an_answer_may_say_where_it_came_from(tmp_path: Path, shown: bool) -> None:
    """Only where the operator lets it: names of clusters and endpoints are not for everybody."""
    policies = {"r": {"match": {"models": ["a"]}, "route": {"model": "b"}}}
    server = {"route_header": shown}
    async with steered(tmp_path, policies, [], [ANSWER] * 2, server=server) as rig:
        place = f"cluster=b; endpoint=127.0.0.1:{rig.engines[1].port}"
        steered_one, other = await rig.post(CHAT), await rig.post({**CHAT, "model": "b"})
        said = [one.header(b"x-sluice-route") for one in (steered_one, other)]
        expected = [[f"policy=r; arm=route; {place}".encode()], [place.encode()]]
        assert said == (expected if shown else [[], []])


@pytest.mark.parametrize(("status", "counted"), [(b"500 Oops", 1), (b"429 Too Many", 0)])
async def test_a_fallbacks_answer_is_no_success_of_the_arm(
    tmp_path: Path, status: bytes, counted: int
) -> None:
    """Its client has an answer, but a dead canary must not look well; a refusal says nothing."""
    policies = {"ab": {"match": {"models": ["a"]}, **split(0, 1)}}
    once = {"retries": {"attempts": 1}}
    failing = [response(b"{}", status)]
    async with steered(tmp_path, policies, [ANSWER] * 2, [failing, ANSWER], cluster=once) as rig:
        file = tmp_path / "sluice.yaml"
        config = yaml.safe_load(file.read_text())
        config["models"]["b"]["fallbacks"] = ["a"]
        file.write_text(yaml.safe_dump(config))
        assert not (await rig.gateway.reload()).problems
        for _ in range(2):
            assert (await rig.post({**CHAT, "user": "u"})).status == 200
        assert rig.served() == [1, 2]
        rig.gateway.tallies.settle()
        tally = rig.gateway.tallies.of("ab", 0, "b")
        assert (tally.error_rate.n, tally.error_rate.hits) == (1 + counted, counted)
        assert (tally.success_rate.hits, tally.latency.n) == (1, 1)
        assert sum(tally.groups()["error_rate"].totals) == counted


async def test_who_has_no_key_is_not_part_of_the_experiment(tmp_path: Path) -> None:
    """With `missing_key: baseline` nobody has drawn lots for them: no arm's figures have them."""
    policies = {"ab": {"match": {"models": ["a"]}, **split(1, 1, missing_key="baseline")}}
    async with steered(tmp_path, policies, [ANSWER] * 20, [ANSWER] * 20) as rig:
        for number in range(10):
            assert (await rig.post({**CHAT, "user": f"u{number}"})).status == 200
            before = rig.served()
            assert (await rig.post(CHAT)).status == 200
            assert rig.served() == [before[0] + 1, before[1]]
        counted = [tally.success_rate.n for _, tally in rig.gateway.tallies.items()]
        assert sum(counted) == 10
        assert rig.served()[0] > 10


async def test_a_gateway_that_is_ended_says_nothing_of_an_arm(tmp_path: Path) -> None:
    """Or its restart, with long streams under way, would look like failures of the canary."""
    policies = {"ab": {"match": {"models": ["a"]}, **split(0, 1)}}
    begun = [*stream(token("x"), whole=False), Then.HANG]
    async with steered(tmp_path, policies, [], [begun, [Then.HANG]]) as rig:
        async with rig.client() as first, rig.client() as second:
            first.send(post({**CHAT, "stream": True}))
            await rig.engines[1].wait_requests(1)
            second.send(post(CHAT))
            await rig.engines[1].wait_requests(2)
            rig.gateway.force()
            assert (await second.answer()).status == 503
            assert (await first.answer()).status in {200, 503}
        await eventually(lambda: rig.inflight == 0)
        tally = rig.gateway.tallies.of("ab", 0, "b")
        rig.gateway.tallies.settle()
        assert (tally.error_rate.n, tally.truncation_rate.n, tally.cancel_rate.n) == (0, 0, 0)


async def test_a_restarted_gateway_divides_as_before_from_its_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the store is: it listens when it knows the states."""
    stages = {"canary": {"model": "b"}, "baseline": {"model": "a"}, "steps": [{"weight": 5}]}
    write_policies(tmp_path, {"new": {"match": {"models": ["a"]}, "rollout": stages}})
    config = {
        "server": {"host": "127.0.0.1", "port": 0, "admin": None, "watch": False},
        "clusters": {name: {"endpoints": [{"url": "http://127.0.0.1:1"}]} for name in "ab"},
        "models": {name: {"cluster": name} for name in "ab"},
        "logging": {"access": None},
        "policies": [str(tmp_path / "policies" / "*.yaml")],
    }
    (tmp_path / "sluice.yaml").write_text(yaml.safe_dump(config))
    source = FileSource(tmp_path / "sluice.yaml")
    gateway = Gateway(source.load(), ManualClock(), source)
    rule, store = gateway.live.rules.rules["new"], gateway.releases.shared.store
    assert rule.policy.rollout is not None
    state = replace(initial(rule.policy.rollout, 0.0), phase=Phase.SUCCEEDED, weight=100.0, epoch=3)
    await store.put("policy/new", {"kind": "rollout", "state": state.as_json()}, 0)
    changes = store.changes

    async def slow(since: int) -> Changes:
        await asyncio.sleep(0.05)
        return await changes(since)

    monkeypatch.setattr(store, "changes", slow)
    async with _protocol(gateway):
        assert rule.splitter.weights == (0, 100)
        assert rule.epoch == 3

"""`sluice policy` and `sluice rollout` against real admin listeners, as a person sees them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.admin import AdminError
from gateway.cli.root import build
from gateway.config.server import Admin
from gateway.control.admin import build_admin
from gateway.dispatch.explanation import Explainer
from gateway.operators import Crossing, Heartbeat, serve_operators
from gateway.plan.likeness import Figures, Likeness
from gateway.plan.table import Table
from gateway.releases.mirrored import Content, Mirrored, Pair
from gateway.releases.overview import MIRRORS, Overview
from gateway.store.base import StoreError
from gateway.store.memory import MemoryStore
from gateway.store.resilient import Standing
from gateway.wire.guard import Limits
from tests.gateway.control.test_admin import FakeOperations
from tests.gateway.releases.test_member import World, rollout, split
from tests.support.policies import Steered, steered

MIRROR = {"name": "shadow", "mirror": {"to": {"cluster": "c"}, "log_content": True}}
TOKEN = "t0ken"


def sluice(*arguments: str, given: bytes | None = None, **environ: str) -> Result:
    runner = CliRunner()
    env = {"COLUMNS": "250", "SLUICE_ADMIN_TOKEN": TOKEN, **environ}
    return runner.invoke(build(), arguments, prog_name="sluice", env=env, input=given)


class Operated:
    """An admin listener, and the command line as it is used on it."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def sluice(self, *arguments: str, **more: Any) -> Result:
        return await asyncio.to_thread(sluice, *arguments, "--admin", self.url, **more)


@asynccontextmanager
async def listening(policies: Any, explainer: Any) -> AsyncIterator[Operated]:
    crossing = Crossing(asyncio.get_running_loop())
    heart = Heartbeat(lambda: 0.0)
    app = build_admin(FakeOperations(), crossing, heart, TOKEN, policies, explainer)
    admin = Admin.model_validate({"host": "127.0.0.1", "port": 0, "token": TOKEN})
    async with serve_operators(admin, app) as url:
        assert url is not None
        yield Operated(url)


def no_explainer() -> Explainer:
    return Explainer(lambda: Table({}), lambda: 0.0, Limits())


@asynccontextmanager
async def operated(*policies: dict[str, Any]) -> AsyncIterator[tuple[World, Operated]]:
    """Two processes over one store; the second one has the listener."""
    world = World(*policies)
    await world.lead()
    process = world.processes[1]
    overview = Overview(process.member, lambda: process.rules)
    async with listening(overview, no_explainer()) as listener:
        yield world, listener


def _lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


async def turn(world: World) -> None:
    for process in world.processes:
        await process.turn()


async def test_status_lists_policies_with_their_arms() -> None:
    """Shares, requests, success, times, and where each stands."""
    async with operated(rollout(), split(), MIRROR) as (world, listener):
        await world.look(2)
        world.processes[0].serve("new", "canary", 9, bad=1)
        world.processes[1].serve("new", "baseline", 190, bad=10)
        await world.look()
        await turn(world)
        shown = await listener.sluice("policy", "status")
        assert shown.exit_code == 0, shown.output
        lines = _lines(shown.stdout)
        assert lines[1][:9] == ["new", "rollout", "baseline", "→", "m", "90", "%", "200", "95"]
        assert lines[2][:8] == ["canary", "→", "n", "10", "%", "10", "90", "%"]
        assert "new: progressing, step 1 of 2, 10 % for the canary; waits for: " in shown.stdout
        assert "not enough data" in shown.stdout
        assert "Nothing has been compared yet." in shown.stdout
        assert lines[5][2:] == ["mirror", "→", "cluster", "c", "-", "-", "-", "-", "-"]
        as_json = await listener.sluice("policy", "status", "--json")
        assert [each["name"] for each in json.loads(as_json.stdout)["policies"]] == [
            "new",
            "ab",
            "shadow",
        ]


async def test_status_of_one_rollout_shows_its_gates() -> None:
    """With the figures of both arms, the steps and what is waited for."""
    async with operated({**rollout(), "description": "The new engine"}) as (world, listener):
        await world.look(2)
        world.processes[0].serve("new", "canary", 30)
        world.processes[1].serve("new", "baseline", 200)
        await world.look()
        await turn(world)
        said = (await listener.sluice("policy", "status", "new")).stdout
        assert "new: rollout for m" in said
        assert "The new engine" in said
        (row,) = (row for row in _lines(said) if row[:2] == ["→", "1"])
        assert (row[2:4], row[-3:]) == (["10", "%"], ["30", "of", "50"])
        assert "waits for: 30 of 50 requests by the canary" in said
        assert "error_rate passes: canary 0 % (0 of 30), baseline 0 % (0 of 200)" in said
        assert "latency" in said
        assert "995 ms / 995 ms" in said or "1 s / 1 s" in said or "1.01 s / 1.01 s" in said


async def test_a_classifier_s_arms_have_no_shares() -> None:
    """What it chooses is not divided."""
    arms = [{"name": "small", "model": "m"}, {"name": "large", "model": "n"}]
    spec = {"file": "none.onnx", "arms": arms, "default": "large"}
    async with operated({"name": "auto", "classifier": spec}) as (_, listener):
        said = (await listener.sluice("policy", "status")).stdout
        assert ["auto", "classifier", "small", "→", "m", "-", "0", "-", "-", "-"] in _lines(said)
        said = (await listener.sluice("policy", "status", "auto")).stdout
        assert ["small", "large"] in _lines(said)


async def test_status_of_a_young_split_has_no_table_of_effects() -> None:
    """Heads without lines would look like a defect; shares are written short."""
    arms = [{"name": "a", "model": "m", "weight": 9}, {"name": "b", "model": "n", "weight": 5}]
    async with operated(split(arms=arms)) as (_, listener):
        said = (await listener.sluice("policy", "status", "ab")).stdout
        assert ["a", "(64.29", "%)", "b", "(35.71", "%)"] in _lines(said)
        assert "effect, interval" not in said


async def test_status_of_one_split_shows_effects() -> None:
    """Effect, interval, p, samples and a recommendation; feedback by its mean."""
    async with operated(split(metrics=["success_rate", "latency"])) as (world, listener):
        world.processes[0].serve("ab", "a", 300, bad=300)
        world.processes[1].serve("ab", "b", 600)
        world.processes[1].tallies.of("ab", 0, "b").feedback.add(4)
        await world.look(2)
        await turn(world)
        said = (await listener.sluice("policy", "status", "ab")).stdout
        assert "b has won and has all requests" in said
        assert "+50 points (" in said
        assert "< 0.001" in said
        assert "promote it" in said
        assert "4 (1)" in said
        assert "shares of traffic as given: p = " in said


async def test_status_may_be_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until Ctrl-C, or until the gateway is gone."""
    async with operated(rollout(), split(), MIRROR) as (world, listener):
        looks: list[float] = []
        last: list[type[BaseException]] = [KeyboardInterrupt]

        def sleep(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                looks.clear()
                raise last[0]

        monkeypatch.setattr("gateway.cli.policy_status.time.sleep", sleep)
        await world.look(2)
        await turn(world)
        shown = await listener.sluice("policy", "status", "--watch")
        assert (shown.exit_code, shown.stderr) == (0, "")
        assert shown.stdout.count("progressing, step 1 of 2") >= 1
        last[0] = AdminError
        gone = await listener.sluice("policy", "status", "ab", "--watch")
        assert gone.exit_code == 1


async def test_a_rolled_back_rollout_says_why() -> None:
    """In the list and in the audit log."""
    async with operated(rollout()) as (world, listener):
        await world.look(2)
        world.processes[0].serve("new", "canary", 0, bad=40)
        world.processes[1].serve("new", "baseline", 400)
        await world.look(2)
        await turn(world)
        said = (await listener.sluice("policy", "status")).stdout
        assert "rolled back, 0 % for the canary; error_rate fails" in said
        log = (await listener.sluice("policy", "audit", "new")).stdout
        assert "rolled back" in log.splitlines()[-1]
        assert "1970-01-01 00:01:4" in log
        assert (
            await listener.sluice("policy", "audit", "other")
        ).stdout == "Nothing has happened.\n"
        events = json.loads((await listener.sluice("policy", "audit", "--json")).stdout)
        assert [event["kind"] for event in events] == ["started", "rolled_back"]


async def test_rollouts_are_steered() -> None:
    """Each command says what holds then; what does not fit says why, with code 1."""
    async with operated(rollout(start="manual"), split()) as (world, listener):
        await world.look(2)
        await turn(world)
        for action, said in (
            ("start", "new: progressing, step 1, 10 % for the canary\n"),
            ("pause", "new: paused, step 1, 10 % for the canary\n"),
            ("resume", "new: progressing, step 1, 10 % for the canary\n"),
            ("abort", "new: rolled back, 0 % for the canary\n"),
            ("start", "new: progressing, step 1, 10 % for the canary\n"),
            ("promote", "new: succeeded, 100 % for the canary\n"),
        ):
            done = await listener.sluice("rollout", action, "new")
            assert (done.exit_code, done.stdout) == (0, said)
        refused = await listener.sluice("rollout", "pause", "new")
        assert (refused.exit_code, refused.stdout) == (1, "")
        assert "cannot pause: it has succeeded" in refused.stderr
        unknown = await listener.sluice("rollout", "pause", "ab")
        assert (unknown.exit_code, "no rollout `ab`" in unknown.stderr) == (1, True)


async def test_a_person_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers have such; the command is given all the same."""

    def nobody() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nobody)
    async with operated(rollout(start="manual")) as (world, listener):
        await listener.sluice("rollout", "start", "new")
        await turn(world)
        assert "sluice rollout" in (await listener.sluice("policy", "audit")).stdout


def pair(**more: Any) -> Pair:
    values: dict[str, Any] = {
        "policy": "shadow",
        "epoch": 0,
        "request_id": "r-1",
        "model": "m",
        "route": "chat",
        "at_s": 1.0,
        "live": Figures(200, 0.5, None, 10),
        "copy": Figures(200, 0.7, None, 9),
        "likeness": Likeness(True, 1.4, exact=False, similarity=0.25),
        **more,
    }
    return Pair(**values)


async def test_a_report_shows_the_worst_pairs() -> None:
    """Content only where it was kept, and so that it cannot touch the terminal."""
    async with operated(MIRROR, rollout()) as (world, listener):
        mirrored = Mirrored()
        epoch = world.processes[0].rules.rules["shadow"].epoch
        mirrored.heard(pair(epoch=epoch, content=Content("hi\x1b[2J", "yes", "no")))
        failed = Figures(failure="time-out")
        mirrored.heard(pair(epoch=epoch, request_id="r-2", copy=failed))
        member = world.processes[0].member
        member.shared.report(lambda: {MIRRORS: mirrored.snapshot()})
        member.shared.add(mirrored.take())
        await turn(world)
        said = (await listener.sluice("policy", "report", "shadow")).stdout
        assert "2 pairs were compared; 50 % of the copies failed." in said
        assert "live_latency" in said
        assert "500 ms" in said or "496 ms" in said or "502 ms" in said
        assert "r-2" in said
        assert "time-out" in said
        assert 'prompt: "hi\\u001b[2J"' in said
        assert "\x1b" not in said
        assert (
            '"pairs": 2' in (await listener.sluice("policy", "report", "shadow", "--json")).stdout
        )
        status = (await listener.sluice("policy", "status", "shadow")).stdout
        assert status.startswith("shadow: mirror for every model\ncopies go to cluster c\n")
        assert status.count("2 pairs were compared") == 1
        wrong = await listener.sluice("policy", "report", "new")
        assert (wrong.exit_code, "only mirrors have a report" in wrong.stderr) == (1, True)


async def test_a_store_that_is_down_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is shown all the same."""

    async def down(*_: Any) -> Any:
        raise StoreError("connection refused")

    async with operated(rollout(), MIRROR) as (world, listener):
        shared = world.processes[1].member.shared
        for name in ("totals", "changes"):
            monkeypatch.setattr(MemoryStore, name, down)
        shared.standing = Standing(available=False, since=0.0, reason="connection refused")
        shown = await listener.sluice("policy", "status")
        assert shown.exit_code == 0
        assert "pending" in shown.stdout
        assert "The store memory does not answer: connection refused. Weights stay." in shown.stdout
        gone = await listener.sluice("policy", "report", "shadow")
        assert (gone.exit_code, "the store does not answer" in gone.stderr) == (1, True)


async def test_without_policies_the_list_says_so() -> None:
    """Rather than nothing."""
    async with operated() as (_, listener):
        assert (await listener.sluice("policy", "status")).stdout == "There are no policies.\n"


async def test_what_cannot_be_asked(tmp_path: Path) -> None:
    """No listener, a wrong one, and a wrong token: one line that says what to give, code 1."""
    nobody = await asyncio.to_thread(sluice, "policy", "status", "--admin", "http://127.0.0.1:1")
    assert (nobody.exit_code, "no answer from http://127.0.0.1:1" in nobody.stderr) == (1, True)
    assert "--admin or SLUICE_ADMIN says where" in nobody.stderr
    odd = await asyncio.to_thread(sluice, "policy", "status", "--admin", "nonsense")
    assert (odd.exit_code, "no answer from nonsense" in odd.stderr) == (1, True)
    async with operated() as (_, listener):
        refused = await listener.sluice("policy", "status", SLUICE_ADMIN_TOKEN="wrong")
        assert (refused.exit_code, "HTTP 401" in refused.stderr) == (1, True)
        assert "--admin-token or SLUICE_ADMIN_TOKEN" in refused.stderr
        assert "wrong" not in refused.stderr
        open_door = await listener.sluice("rollout", "start", "new", SLUICE_ADMIN_TOKEN="")
        assert open_door.exit_code == 1
        docs = Operated(f"{listener.url}/docs?")
        strange = await docs.sluice("policy", "status")
        assert (strange.exit_code, "this is no admin listener" in strange.stderr) == (1, True)


# Explain.

CHAT = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}
POLICIES: dict[str, Mapping[str, Any]] = {
    "blue": {
        "order": 1,
        "match": {"headers": [{"name": "x-team", "exact": "blue"}]},
        "route": {"cluster": "b"},
    },
    "ab": {
        "order": 2,
        "match": {"models": ["a"]},
        "split": {
            "by": "session",
            "arms": [
                {"name": "old", "model": "a"},
                {"name": "new", "model": "b", "override": {"temperature": 0.5}, "weight": 0},
            ],
        },
    },
    "later": {"order": 3, "route": {"cluster": "b"}},
    "shadow": {"mirror": {"to": {"cluster": "b"}}},
}


def explainer_of(rig: Steered) -> Explainer:
    return Explainer(lambda: rig.gateway.table, lambda: rig.clock.now, Limits())


async def test_a_gateway_explains_a_request(tmp_path: Path) -> None:
    """Rules, arm, endpoints with their scores; the same by file, without the scores."""
    async with steered(tmp_path, POLICIES, [], [], cluster={"balancer": "session"}) as rig:
        (endpoint,) = rig.gateway.clusters["a"].endpoints
        endpoint.whole.observe(0.25, rig.clock.now)
        world = World()
        overview = Overview(world.processes[0].member, lambda: world.processes[0].rules)
        (tmp_path / "body.json").write_text(json.dumps(CHAT))
        body = str(tmp_path / "body.json")
        async with listening(overview, explainer_of(rig)) as listener:
            ask = ("policy", "explain", "--body", body, "-H", "x-session-id: s-1")
            said = (await listener.sluice(*ask)).stdout
            assert "blue (route): no, for this does not hold: x-team is blue" in said
            assert "→ ab (split): applies" in said
            assert "later (route): not asked any more" in said
            assert "Arm old" in said
            assert f"the session belongs to {endpoint.id}" in said
            assert "250 ms" in said
            assert "shadow copies it" in said
            assert "s-1" not in said
            endpoint.drain()
            assert "It would be refused: no endpoint" in (await listener.sluice(*ask)).stdout
            refused = await listener.sluice(*ask, "--path", "/v1/nope")
            assert (refused.exit_code, "The path must be one of" in refused.stderr) == (1, True)
            whole = await listener.sluice("policy", "explain", "--body", "-", "--json", given=b"{}")
            assert (whole.exit_code, "needs a `model`" in whole.stderr) == (1, True)
            broken = await listener.sluice("policy", "explain", "--body", "-", given=b"{")
            assert (broken.exit_code, "- is no JSON" in broken.stderr) == (1, True)
            found = await listener.sluice(*ask, "--json")
            assert json.loads(found.stdout)["decision"]["arm"] == "old"


def configured(folder: Path, models: str = "{a: {cluster: a}, b: {cluster: b}}") -> str:
    """Write a configuration with policies; return its name."""
    (folder / "policies").mkdir()
    for name, policy in POLICIES.items():
        file = folder / "policies" / f"{name}.yaml"
        file.write_text(json.dumps({"name": name, **policy}))
    arms = [{"name": "s", "model": "a"}, {"name": "l", "model": "b"}]
    auto = {"file": "none.onnx", "arms": arms, "default": "l"}
    match = {"headers": [{"name": "x-auto", "present": True}]}
    more = {"name": "auto", "order": 0, "match": match, "classifier": auto}
    (folder / "policies" / "auto.yaml").write_text(json.dumps(more))
    file = folder / "sluice.yaml"
    file.write_text(
        "clusters:\n  a: {endpoints: [{url: 'http://a:1'}]}\n  b: {endpoints: [{url: 'http://b:1'}]}\n"
        f"models: {models}\npolicies: ['{folder}/policies/*.yaml']\n"
    )
    return str(file)


def test_a_file_explains_a_request(tmp_path: Path) -> None:
    """Without a gateway; endpoints are named, and not asked."""
    file = configured(tmp_path)
    (tmp_path / "body.json").write_text(json.dumps(CHAT))
    ask = ("policy", "explain", "-c", file, "--body", str(tmp_path / "body.json"))
    said = sluice(*ask)
    assert said.exit_code == 0, said.output
    assert "→ ab (split): applies" in said.stdout
    assert "one arm has everything" in said.stdout
    assert "shares: old 100 %, new 0 %" in said.stdout
    assert "endpoints are not asked" in said.stdout
    assert "refused" not in said.stdout
    said = sluice(*ask, "--header", "x-team:blue")
    assert "Arm route" in said.stdout
    assert "shares" not in said.stdout
    said = sluice(*ask, "--header", "x-auto:1")
    assert "Arm l\n" in said.stdout
    assert "onnxruntime is not installed" in said.stdout or "cannot be used" in said.stdout


def test_what_an_arm_changes_is_shown(tmp_path: Path) -> None:
    """Value by value."""
    file = configured(tmp_path)
    policy = tmp_path / "policies" / "ab.yaml"
    policy.write_text(policy.read_text().replace('"weight": 0', '"weight": 1e6'))
    said = sluice("policy", "explain", "-c", file, "--body", "-", given=json.dumps(CHAT).encode())
    assert "temperature: nothing → 0.5" in said.stdout
    assert "Cluster b, where the model is called b" in said.stdout


def test_what_a_file_cannot_explain(tmp_path: Path) -> None:
    """One line each, code 1."""
    file = configured(tmp_path, "{a: {cluster: a, fallbacks: [b]}, b: {cluster: b}}")
    (tmp_path / "body.json").write_text(json.dumps({"model": "nobody"}))
    body = str(tmp_path / "body.json")
    for arguments, words in (
        (("-c", file, "--body", body), "404 model_not_found"),
        (("-c", file, "--body", str(tmp_path / "none")), "No such file"),
        (("-c", file, "--body", body, "-H", "x-team"), "write NAME:VALUE"),
        (("-c", str(tmp_path / "none.yaml"), "--body", body), "none.yaml"),
    ):
        said = sluice("policy", "explain", *arguments)
        assert (said.exit_code, words in said.stderr) == (1, True), said.output
        assert "without a gateway" not in said.stderr
    given = json.dumps(CHAT).encode()
    said = sluice("policy", "explain", "-c", file, "--body", "-", given=given)
    assert "fallbacks: b" in said.stdout


def test_a_model_without_policies_goes_its_own_way(tmp_path: Path) -> None:
    """By name, and nothing more is said."""
    file = tmp_path / "sluice.yaml"
    file.write_text(
        "clusters: {a: {endpoints: [{url: 'http://a:1'}]}}\nmodels: {a: {cluster: a}}\n"
    )
    given = json.dumps(CHAT).encode()
    said = sluice("policy", "explain", "-c", str(file), "--body", "-", given=given)
    assert "No policy applies: the model goes its own way." in said.stdout
    assert "Mirrors" not in said.stdout


def test_mirrors_that_do_not_copy(tmp_path: Path) -> None:
    """Are named with what they want."""
    file = configured(tmp_path)
    shadow = {"name": "shadow", "match": {"routes": ["score"]}, "mirror": {"to": {"cluster": "b"}}}
    (tmp_path / "policies" / "shadow.yaml").write_text(json.dumps(shadow))
    said = sluice("policy", "explain", "-c", file, "--body", "-", given=json.dumps(CHAT).encode())
    assert "shadow (mirror): no, for this does not hold: route in score" in said.stdout
    assert "copies it" not in said.stdout


def test_models_that_only_endpoints_know(tmp_path: Path) -> None:
    """Are no mistake of the person's."""
    file = tmp_path / "sluice.yaml"
    file.write_text("clusters: {a: {endpoints: [{url: 'http://a:1'}]}}\n")
    given = json.dumps(CHAT).encode()
    said = sluice("policy", "explain", "-c", str(file), "--body", "-", given=given)
    assert (said.exit_code, "not known without a gateway" in said.stderr) == (1, True)


@pytest.mark.parametrize(
    ("group", "command"),
    [("policy", name) for name in ("status", "explain", "report", "replay", "audit")]
    + [("rollout", name) for name in ("start", "pause", "resume", "promote", "abort")],
)
def test_every_command_explains_itself(group: str, command: str) -> None:
    """--help says how to call it, with an example that begins with its name."""
    result = sluice(group, command, "--help")
    assert result.exit_code == 0
    assert f"sluice {group} {command}" in result.stdout.partition("Example")[2]

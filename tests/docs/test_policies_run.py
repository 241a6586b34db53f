"""The commands of the policies' page, run one after the other on a gateway with real processes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from gateway.cli.root import build
from tests.support.markdown import page
from tests.support.process import PATIENCE_S, sim, sluice, until

POLICIES = page("docs/policies.md")
FILE = """
server: {{drain_delay_s: 0, admin: {{port: 0}}, workers: {workers}, max_event_loop_lag_s: 60}}
clusters:
  llama: {{endpoints: [{{url: "{first}"}}]}}
  llama-next: {{endpoints: [{{url: "{second}"}}]}}
models:
  llama-3-8b: {{cluster: llama, upstream_model: sim}}
  llama-3.1-8b: {{cluster: llama-next, upstream_model: sim}}
  other: {{cluster: llama, upstream_model: sim}}
logging: {{access: "{folder}/access.log"}}
policies: ["{folder}/policies/*.yaml"]
"""
ROLLOUT = {
    "match": {"models": ["other"]},
    "rollout": {
        "baseline": {"model": "llama-3-8b"},
        "canary": {"model": "llama-3.1-8b"},
        "steps": [{"weight": 50, "hold_s": 600}],
    },
}


@dataclass(frozen=True)
class Stage:
    """A gateway with the page's split and a rollout, one on each of its models."""

    url: str
    admin: str
    folder: Path

    def sluice(self, *arguments: str) -> str:
        """Run a command on the gateway; return what it prints."""
        done = CliRunner().invoke(
            build(),
            arguments,
            prog_name="sluice",
            env={"SLUICE_ADMIN": self.admin, "COLUMNS": "200", "SLUICE_ADMIN_TOKEN": ""},
        )
        assert done.exit_code == 0, done.output
        return done.stdout

    def line(self, begin: str) -> str:
        """Run the one line of the page that begins so."""
        lines = [line for block in POLICIES.blocks("sh") for line in block.text.splitlines()]
        (line,) = (line for line in lines if line.startswith(begin))
        words = [
            str(self.folder / word) if word.endswith((".yaml", ".json", ".log")) else word
            for word in line.removeprefix("sluice ").split()
        ]
        return self.sluice(*(word for word in words if word != "--watch"))

    def ask(self, model: str, name: str) -> None:
        """Send one request."""
        body = {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
        headers = {"x-request-id": name, "x-session-id": name}
        answer = httpx.post(
            f"{self.url}/v1/chat/completions",
            json=body,
            headers=headers,
            trust_env=False,
            timeout=PATIENCE_S,
        )
        assert answer.status_code == 200, answer.text

    def shows(self, name: str, true: Callable[[Any], bool]) -> Any:
        """Wait until a policy's state is as wanted; return it."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [json.loads(self.sluice("policy", "status", name, "--json"))]
            return true(found[0])

        until(look, f"{name} is shown so")
        return found[0]


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two workers"])
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """Two engines, and a gateway in front of them."""
    folder = tmp_path_factory.mktemp("policies")
    (folder / "policies").mkdir()
    split = POLICIES.blocks("yaml")[2].text
    (folder / "policies" / "new-llama.yaml").write_text(split)
    rollout = json.dumps({"name": "new-engine", **ROLLOUT})
    (folder / "policies" / "new-engine.yaml").write_text(rollout)
    (folder / "request.json").write_text(POLICIES.blocks("json")[0].text)
    with sim("--served-model-name", "sim") as one, sim("--served-model-name", "sim") as two:
        file = folder / "sluice.yaml"
        text = FILE.format(first=one.url, second=two.url, folder=folder, workers=request.param)
        file.write_text(text)
        with sluice("-c", file, model="llama-3-8b") as gateway:
            said = re.search(r"admin API on (\S+)", "".join(gateway.lines))
            assert said is not None
            yield Stage(gateway.url, said[1], folder)


def requests(policy: Any) -> int:
    """Return how many requests of a policy have been counted."""
    return sum(
        arm["figures"]["cancel_rate"]["n"]
        for arm in policy["arms"]
        if "cancel_rate" in arm["figures"]
    )


def test_arms_are_counted_and_shown(stage: Stage) -> None:
    """By whichever process served them, within seconds."""
    stage.shows("new-engine", lambda policy: policy["rollout"]["phase"] == "progressing")
    for number in range(20):
        stage.ask("llama-3-8b", f"req-{number}")
        stage.ask("other", f"other-{number}")
    found = stage.shows("new-llama", lambda policy: requests(policy) >= 20)
    assert requests(found) == 20
    assert {arm["name"] for arm in found["arms"]} == {"control", "treatment"}
    # A worker that has not heard of the first step yet counts for the time before it.
    assert 0 < requests(stage.shows("new-engine", lambda policy: requests(policy) > 0)) <= 20
    assert "new-llama" in stage.sluice("policy", "status")
    assert "leads to" in stage.line("sluice policy status")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the example is curl's")
def test_a_score_counts_for_its_arm(stage: Stage) -> None:
    """Whichever process it comes to."""
    stage.ask("llama-3-8b", "req-42")
    code = POLICIES.blocks("bash")[0].text.replace("http://127.0.0.1:8000", stage.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code.replace("curl ", "curl -sf --noproxy '*' ")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["status"] in ("counted", "handed_on")

    def scored(policy: Any) -> bool:
        return any(arm["figures"].get("feedback", {}).get("n") for arm in policy["arms"])

    found = stage.shows("new-llama", scored)
    scores = [arm["figures"]["feedback"] for arm in found["arms"] if "feedback" in arm["figures"]]
    assert [(each["n"], each["mean"]) for each in scores] == [(1, 1.0)]


def test_a_rollout_is_steered_and_its_history_told(stage: Stage) -> None:
    """In the order of the page."""
    stage.shows("new-engine", lambda policy: policy["rollout"]["phase"] == "progressing")
    assert "paused" in stage.line("sluice rollout pause")
    stage.shows("new-engine", lambda policy: policy["rollout"]["phase"] == "paused")
    assert "progressing, step 1, 50 %" in stage.line("sluice rollout resume")
    assert "rolled back, 0 %" in stage.line("sluice rollout abort")
    found = stage.shows("new-engine", lambda policy: policy["rollout"]["phase"] == "rolled_back")
    assert [arm["share"] for arm in found["arms"]] == [100, 0]
    told = stage.line("sluice policy audit").splitlines()[1:]
    whats = ["started", "paused", "resumed", "rolled"]
    assert [line.split()[3] for line in told] == whats


def test_a_request_is_explained_by_the_gateway(stage: Stage) -> None:
    """With the endpoints' state, and the same arm as by the file."""
    body = str(stage.folder / "request.json")
    said = stage.sluice("policy", "explain", "--body", body, "-H", "x-session-id:53")
    assert "Arm treatment" in said
    assert "healthy" in said
    assert "Arm treatment" in stage.line("sluice policy explain")


def test_the_access_log_is_replayed(stage: Stage) -> None:
    """What was logged is counted, and the rollout tried on it."""
    until(lambda: "req-42" in (stage.folder / "access.log").read_text(), "the log is written")
    said = stage.sluice(
        *("policy", "replay", "-c", str(stage.folder / "sluice.yaml")),
        *("--log", str(stage.folder / "access.log"), "--rollout", "new-engine"),
    )
    assert "new-llama" in said
    assert "At the end of the log: progressing, 50 % for the canary." in said

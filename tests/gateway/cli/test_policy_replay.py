"""`sluice policy replay`: a log and a file in, counts and a rehearsal out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.root import build
from gateway.model import Outcome, Usage
from gateway.telemetry.record import Record, line_of

GATES = [{"metric": "error_rate", "max_increase": 0.01}, {"metric": "abort_rate", "max": 0.1}]
STEPS = [{"weight": 10, "hold_s": 2, "min_requests": 20}]


def sluice(*arguments: str) -> Result:
    runner = CliRunner()
    return runner.invoke(build(), arguments, prog_name="sluice", env={"COLUMNS": "200"})


def line(at: float, model: str, number: int, arm: str = "", *, good: bool = True) -> str:
    record = Record("chat", f"{model}-{number}".encode(), "::1", at - 0.5)
    record.ended_at = record.wall_at = at
    record.model, record.status = model, 200 if good else 502
    record.outcome = Outcome.SUCCESS if good else Outcome.FAILURE
    record.usage = Usage(1, 10)
    record.policy, record.arm = ("new", arm) if arm else ("", "")
    return line_of(record)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration with one policy of each kind that has something to say."""
    policies: dict[str, dict[str, Any]] = {
        "0-blue": {
            "match": {"models": ["a"], "headers": [{"name": "x-team", "exact": "blue"}]},
            "route": {"cluster": "two"},
        },
        "1-ab": {
            "match": {"models": ["c"]},
            "split": {"arms": [{"name": "x", "model": "c"}, {"name": "y", "model": "b"}]},
        },
        "2-auto": {
            "match": {"models": ["d"]},
            "classifier": {
                "file": "none.onnx",
                "arms": [{"name": "s", "model": "a"}, {"name": "l", "model": "b"}],
                "default": "l",
            },
        },
        "new": {
            "match": {"models": ["b"]},
            "rollout": {
                "baseline": {"model": "a"},
                "canary": {"model": "b"},
                "steps": STEPS,
                "gates": GATES,
            },
        },
        "shadow": {"match": {"models": ["a"]}, "mirror": {"to": {"model": "b"}}},
    }
    (tmp_path / "policies").mkdir()
    for name, policy in policies.items():
        file = tmp_path / "policies" / f"{name}.yaml"
        file.write_text(json.dumps({"name": name, **policy}))
    (tmp_path / "sluice.yaml").write_text(
        "clusters: {one: {endpoints: [{url: 'http://a:1'}]}, two: {endpoints: [{url: 'http://b:1'}]}}\n"
        "models: {a: {cluster: one}, b: {cluster: two}, c: {cluster: one}, d: {cluster: one}}\n"
        f"policies: ['{tmp_path}/policies/*.yaml']\n"
    )
    return tmp_path


def replay(folder: Path, *arguments: str) -> Result:
    return sluice(
        *("policy", "replay", "-c", str(folder / "sluice.yaml")),
        *("--log", str(folder / "access.log"), *arguments),
    )


def test_who_would_have_gone_where(folder: Path) -> None:
    """By policy, arm and model; what the log cannot tell is said."""
    lines = [line(1.0, model, number) for model in "abcde" for number in range(10)]
    (folder / "access.log").write_text("".join(lines) + "\nnot json\n")
    result = replay(folder, "--log", str(folder / "access.log"))
    assert result.exit_code == 0, result.output
    rows = [row.split() for row in result.stdout.splitlines()]
    assert "100 requests, 2 lines that are none" in result.stdout
    assert ["0-blue", "route", "route", "a", "0", "20"] in rows
    assert ["1-ab", "split", "x", "c", "≈", "10"] in rows
    assert ["2-auto", "classifier", "l", "d", "0", "20"] in rows
    assert ["new", "rollout", "baseline", "b", "20"] in rows
    assert ["(none", "applies)", "e", "20"] in rows
    assert ["shadow", "mirror", "mirror", "a", "20"] in rows
    assert "0-blue looks at header x-team, which is not logged: perhaps." in result.stdout
    assert "1-ab divides by session, which is not logged" in result.stdout
    assert "Classifiers look at the request" in result.stdout
    assert "Rollouts stand at their beginning" in result.stdout


def test_a_log_that_tells_all_has_no_notes(folder: Path) -> None:
    """Nothing is said that need not be."""
    (folder / "access.log").write_text(line(1.0, "e", 1))
    assert replay(folder).stdout.splitlines()[-1].split() == ["(none", "applies)", "e", "1"]


@pytest.mark.parametrize("bad", [False, True])
def test_a_rollout_over_two_models(folder: Path, bad: bool) -> None:
    """Transitions in the log's time, how it ends, and how many it would have touched."""
    lines = [
        line(1000 + number / 40, model, number, good=not (bad and model == "b"))
        for number in range(800)
        for model in "ba"
    ]
    (folder / "access.log").write_text("".join(lines))
    result = replay(folder, "--rollout", "new", "--baseline", "a", "--canary", "b")
    assert result.exit_code == 0, result.output
    assert "1970-01-01 00:16:40Z" in result.stdout
    ended = "rolled back, 0 %" if bad else "succeeded, 100 %"
    assert f"At the end of the log: {ended} for the canary." in result.stdout
    assert "Gates on abort_rate are left out: the access log does not tell." in result.stdout
    assert ("0 of them failed" in result.stdout.splitlines()[-2]) is not bad


def test_a_rollout_over_what_it_has_divided(folder: Path) -> None:
    """The lines that name the policy; here too few of them."""
    lines = [line(1000 + number / 20, "b", number, "baseline") for number in range(20)]
    (folder / "access.log").write_text("".join(lines) + line(1001, "b", 99))
    result = replay(folder, "--rollout", "new")
    assert "At the end of the log: progressing, 10 % for the canary." in result.stdout
    assert "it waits for: 0 of 20 requests by the canary" in result.stdout
    assert "baseline: 20 requests, 0 of them failed" in result.stdout


def test_a_rollout_without_its_lines(folder: Path) -> None:
    """Is said, and is no failure: the counts are there."""
    (folder / "access.log").write_text(line(1.0, "a", 1))
    result = replay(folder, "--rollout", "new")
    assert (result.exit_code, "no request of its arms" in result.stdout) == (0, True)


def test_gates_that_can_all_be_judged(folder: Path) -> None:
    """Then nothing is said of others."""
    file = folder / "policies" / "new.yaml"
    policy = json.loads(file.read_text())
    policy["rollout"]["gates"] = GATES[:1]
    file.write_text(json.dumps(policy))
    (folder / "access.log").write_text(line(1.0, "b", 1, "canary"))
    result = replay(folder, "--rollout", "new")
    assert result.exit_code == 0
    assert "left out" not in result.stdout


def test_what_cannot_be_replayed(folder: Path) -> None:
    """One line, code 1; wrong usage is code 2."""
    assert "No such file" in replay(folder).stderr
    (folder / "access.log").write_text("nothing\n")
    assert "no line of a request" in replay(folder).stderr
    result = replay(folder, "--rollout", "shadow")
    assert (result.exit_code, "it has: new" in result.stderr) == (1, True)
    assert replay(folder, "--baseline", "a").exit_code == 2
    assert replay(folder, "--baseline", "a", "--canary", "b").exit_code == 2
    (folder / "sluice.yaml").write_text("x: 1\n")
    result = replay(folder)
    assert (result.exit_code, "sluice.yaml:1:1" in result.stderr) == (1, True)

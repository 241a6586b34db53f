"""The policies' page says what the code does; its files load, and its commands run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from gateway.cli.root import build
from gateway.config.policies import find_files, parse_policy
from gateway.control.feedback import FeedbackBody
from gateway.dispatch.copying import Result
from gateway.dispatch.tap import MOST_BYTES
from gateway.plan.evidence import WINDOW_REQUESTS, Verdict
from gateway.plan.gates import FLAKY
from gateway.plan.rollout_state import Command, Phase
from gateway.stats.compare import Decision
from gateway.stats.metrics import METRICS
from gateway.telemetry.feedback import MAX_SCORE, MOST, Given
from tests.support.markdown import ROOT, coded, page

POLICIES = page("docs/policies.md")
CONFIG, *FILES = [block.text for block in POLICIES.blocks("yaml")]


def test_there_is_a_file_of_each_kind() -> None:
    """All of them can be read, and each links to an example that is there."""
    kinds = [parse_policy(text, "page.yaml", {}).policy.kind for text in FILES]
    assert kinds == ["route", "split", "rollout", "classifier", "mirror"]
    examples = {f"../policies/examples/{file.name}" for file in find_files([EXAMPLES])}
    assert examples <= set(POLICIES.links())


EXAMPLES = f"{ROOT}/policies/examples/*.yaml"


def test_the_request_is_explained_as_shown(tmp_path: Path) -> None:
    """By the very files of the page."""
    (tmp_path / "policies").mkdir()
    (tmp_path / "sluice.yaml").write_text(CONFIG.replace("policies/*", f"{tmp_path}/policies/*"))
    (tmp_path / "policies" / "new-llama.yaml").write_text(FILES[1])
    (tmp_path / "request.json").write_text(POLICIES.blocks("json")[0].text)
    (line,) = (
        line
        for block in POLICIES.blocks("sh")
        for line in block.text.splitlines()
        if "policy explain" in line
    )
    arguments = [
        str(tmp_path / word) if word.endswith((".yaml", ".json")) else word
        for word in line.removeprefix("sluice ").split()
    ]
    done = CliRunner().invoke(build(), arguments, env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    shown = [line.rstrip() for line in done.stdout.splitlines()]
    assert shown == POLICIES.blocks("text")[0].text.splitlines()


def test_the_page_lists_every_command() -> None:
    """The groups' own commands, no more and no fewer."""
    listed = {coded(row[0])[0] for row in POLICIES.table("command")}
    commands = typer.main.get_command(build()).commands  # type: ignore[attr-defined]  # a group's
    own = {
        f"sluice {group} {name}"
        for group in ("policy", "rollout")
        for name in commands[group].commands
    }
    assert listed == own
    assert set(Command) <= {name.rpartition(" ")[2] for name in listed}


@pytest.mark.parametrize(
    ("first", "names"),
    [
        ("metric", set(METRICS)),
        ("decision", set(Decision)),
        ("phase", set(Phase)),
        ("verdict", set(Verdict)),
        ("result", set(Result)),
        ("status", set(Given) - {Given.UNKNOWN}),
    ],
)
def test_every_word_has_its_row(first: str, names: set[str]) -> None:
    """Metrics, decisions, phases, verdicts and what becomes of a score."""
    assert {coded(row[0])[0] for row in POLICIES.table(first)} == names


def test_metrics_are_described_as_they_are() -> None:
    """Better direction and unit."""
    told = {coded(row[0])[0]: (row[2], row[3]) for row in POLICIES.table("metric")}
    assert told == {name: (each.better, each.unit) for name, each in METRICS.items()}


def test_numbers_are_those_of_the_code() -> None:
    """How many requests are remembered, what scores may be, and what gates go by."""
    text = " ".join(POLICIES.text.split())
    assert f"remembers its last {MOST:,} requests" in text
    assert f"lie between {-MAX_SCORE:g} and {MAX_SCORE:g}" in text
    assert WINDOW_REQUESTS == 1000
    assert MOST_BYTES == 1 << 20
    assert "the canary's last thousand requests" in text
    assert f"fails more than {FLAKY:.0%} of its requests".replace("%", " %") in text


def test_the_feedback_is_one_that_is_taken() -> None:
    """The example's body has the form that the route wants."""
    (body,) = re.findall(r"-d '(\{.*?\})'", POLICIES.blocks("bash")[0].text)
    FeedbackBody.model_validate(json.loads(body))


def test_the_readme_s_policy_is_one() -> None:
    """Its gates and steps are read as written."""
    (text,) = (block.text for block in page("README.md").blocks("yaml") if "rollout:" in block.text)
    policy = parse_policy(text, "README.md", {}).policy
    assert policy.rollout is not None
    assert [step.weight for step in policy.rollout.stages] == [5, 50]

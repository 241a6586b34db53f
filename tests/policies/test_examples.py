"""Do the example policies load, together, and do what their comments say?"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from gateway.config.policies import PolicyFile, find_files, load_policies, missing_files
from gateway.config.policy_conflicts import Known
from gateway.plan.classify import load_classifier
from gateway.plan.features import COLUMNS
from gateway.plan.match import Lanes, Rules, Subject, first
from gateway.plan.override import Override
from gateway.plan.split import Splitter
from scripts.train_example_classifier import OUT, SEED, bodies

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "policies/examples"
MODELS = (
    "auto", "deepseek", "gemma-3", "llama-3-70b", "llama-3-8b", "llama-3.1-8b", "mistral-small",
    "phi-4", "qwen-7b",
)  # fmt: skip
CLUSTERS = (
    "deepseek-blue", "deepseek-green", "gemma", "gemma-next", "llama-next", "llama-research",
    "mistral", "mistral-next",
)  # fmt: skip
KNOWN = Known(dict.fromkeys(MODELS, ()), CLUSTERS, discovers=False)


def load() -> list[PolicyFile]:
    return list(load_policies(find_files([f"{FOLDER}/*.yaml"]), KNOWN, {}))


LOADED = load()
FILES = {Path(each.file).name: each for each in LOADED}
RULES = Rules([each.policy for each in LOADED], KNOWN)


def ask(model: str, headers: dict[bytes, bytes] | None = None, user: str = "") -> tuple[str, str]:
    """Which policy steers a chat, and which arm it gets; the request's id is always the same."""
    found = headers or {}
    subject = Subject(model, "chat", lambda name: found.get(name, b""), b"request", user)
    lanes = RULES.of(model) or Lanes((), ())
    rule = first(lanes.steering, subject)
    if rule is None:
        return "", ""
    return rule.policy.name, rule.splitter.names[rule.splitter.pick(rule.sticky(subject))]


def test_every_example_is_there_and_heads_its_schema() -> None:
    assert len(FILES) == len(list(FOLDER.glob("*.yaml"))) >= 9
    line = "# yaml-language-server: $schema=../schema.json\n"
    for each in FOLDER.glob("*.yaml"):
        assert each.read_text().startswith(line)
        assert (FOLDER / "../schema.json").resolve().is_file()
    assert missing_files(LOADED) == []


def test_each_loads_by_itself_too() -> None:
    for each in LOADED:
        assert load_policies([Path(each.file)], KNOWN, {})[0].policy == each.policy


def test_the_readme_links_each_example() -> None:
    readme = (ROOT / "policies/README.md").read_text()
    assert [name for name in FILES if f"(examples/{name})" not in readme] == []


def test_the_split_gives_a_tenth_of_the_sessions_the_new_model() -> None:
    found = Counter(ask("llama-3-8b", {b"x-session-id": b"%d" % number}) for number in range(3000))
    assert set(found) == {("new-llama", "control"), ("new-llama", "treatment")}
    assert 0.08 < found["new-llama", "treatment"] / 3000 < 0.12


def test_the_route_comes_before_the_split() -> None:
    assert ask("llama-3-8b", {b"x-team": b"research-nlp"}) == ("research-has-its-own", "route")
    shared = {b"x-team": b"research", b"x-shared": b"1"}
    assert ask("llama-3-8b", shared)[0] == "new-llama"
    assert ask("llama-3-8b", {b"x-team": b"researchers"})[0] == "new-llama"


def test_the_prompt_experiment_takes_a_tenth_of_one_team() -> None:
    team = {b"x-team": b"support"}
    found = Counter(ask("qwen-7b", team, f"user-{number}")[0] for number in range(3000))
    assert 0.08 < found["brief-answers"] / 3000 < 0.12
    assert ask("qwen-7b", {}, "user-1") == ("", "")
    (brief,) = [arm for arm in FILES["prompt-experiment.yaml"].policy.arms if arm.name == "brief"]
    body = json.dumps({"model": "qwen-7b", "messages": [{"role": "user", "content": "why?"}]})
    made = json.loads(Override(brief.override).apply(body.encode(), "chat"))
    assert made["messages"][0]["content"] == "Answer in three sentences at the most."
    assert (made["temperature"], made["max_tokens"]) == (0.3, 300)


def test_rollouts_begin_with_the_baseline_and_go_by_their_steps() -> None:
    weights = {}
    for name in ("rollout.yaml", "rollout-quick.yaml", "blue-green.yaml"):
        policy = FILES[name].policy
        assert policy.rollout is not None
        splitter = Splitter.of(policy)
        assert {splitter.names[splitter.pick(b"%d" % key)] for key in range(500)} == {"baseline"}
        weights[name] = [(step.weight, step.hold_s) for step in policy.rollout.stages]
    hour = 3600
    assert weights == {
        "rollout.yaml": [(1, hour), (5, 4 * hour), (25, 24 * hour), (50, 24 * hour)],
        "rollout-quick.yaml": [(5, 300), (10, 300), (25, 300), (50, 300)],
        "blue-green.yaml": [(100, 600)],
    }


def test_the_mirror_copies_every_fourth_whoever_answers() -> None:
    lanes = RULES.of("llama-3-8b")
    assert lanes is not None
    subjects = [Subject("llama-3-8b", "chat", lambda _: b"", b"r%d" % n) for n in range(3000)]
    copied = sum(first(lanes.mirrors, each) is not None for each in subjects)
    assert 0.22 < copied / 3000 < 0.28


def test_the_classifier_chooses_as_it_was_taught() -> None:
    """On requests that it was not trained on, and by the committed file."""
    pytest.importorskip("onnxruntime")
    policy = FILES["classifier.yaml"]
    spec, file = policy.policy.classifier, policy.classifier_file
    assert spec is not None
    assert file is not None
    classifier = load_classifier(spec, file)
    asked = list(bodies(Random(SEED + 1), 300))
    right = sum(classifier.pick(body).label == label for body, label in asked)
    assert right / len(asked) > 0.97
    assert classifier.failures == 0


def test_the_classifiers_file_is_small_and_of_this_width() -> None:
    data = (ROOT / OUT).read_bytes()
    assert len(data) <= 50 * 1024
    assert len(COLUMNS) == 10, "policies/README.md and the schema name the width"

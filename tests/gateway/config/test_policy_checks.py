"""Is every contradiction within one policy found, at its place?"""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.policy_checks import check_labels, check_rollout, check_split, repeated
from gateway.config.policy_rollout import Rollout
from gateway.config.policy_split import Split
from gateway.config.problems import key_path

A, B = {"name": "a", "model": "m"}, {"name": "b", "model": "n"}


def of_split(**values: Any) -> list[str]:
    flaws = check_split(Split.model_validate({"arms": [A, B], **values}))
    return [f"{key_path(flaw.loc)} {flaw.message}" for flaw in flaws]


def of_rollout(**values: Any) -> list[str]:
    ways = {"baseline": {"model": "m"}, "canary": {"model": "n"}, **values}
    return [
        f"{key_path(flaw.loc)} {flaw.message}"
        for flaw in check_rollout(Rollout.model_validate(ways))
    ]


def test_a_good_split_has_no_flaws() -> None:
    assert of_split(baseline="b", metrics=["feedback", "ttft"], on_decision="promote") == []
    same = {"name": "c", "model": "m"}
    assert of_split(arms=[A, same], analysis={"aa": True}) == []


@pytest.mark.parametrize(
    ("values", "flaw"),
    [
        (
            {"arms": [A, {"name": "a", "model": "n"}]},
            'split.arms[1].name "a" is already the name of arm number 1',
        ),
        (
            {"metrics": ["ttft", "ttft"]},
            'split.metrics[1] "ttft" is already the same as number 1',
        ),
        (
            {"arms": [{**A, "weight": 0}, {**B, "weight": 0}]},
            "split.arms give no arm any weight; one needs more than 0",
        ),
        (
            {"baseline": "control"},
            'split.baseline names the arm "control", which does not exist',
        ),
        (
            {"arms": [A, {"name": "b", "model": "m"}]},
            "split.arms are all the same; write analysis: {aa: true} if that is meant",
        ),
        (
            {"analysis": {"aa": True}},
            "split.analysis.aa is true, but the arms are not all the same",
        ),
        (
            {
                "arms": [A, {"name": "b", "model": "m"}],
                "analysis": {"aa": True},
                "on_decision": "promote",
            },
            "split.on_decision cannot be promote when the arms are the same on purpose",
        ),
        (
            {"metrics": ["output_tokens", "ttft"], "on_decision": "promote"},
            (
                "split.on_decision cannot be promote: longer answers are not better or worse "
                "(the first metric)"
            ),
        ),
    ],
)
def test_flaws_of_splits(values: dict[str, Any], flaw: str) -> None:
    assert of_split(**values) == [flaw]


def test_a_good_rollout_has_no_flaws() -> None:
    assert of_rollout() == []
    assert of_rollout(steps=[{"weight": 1}, {"weight": 2}]) == []
    gates = [
        {"metric": "ttft", "quantile": 0.5, "max_ratio": 2},
        {"metric": "ttft", "quantile": 0.9, "max_ratio": 2},
    ]
    assert of_rollout(gates=gates) == []


@pytest.mark.parametrize(
    ("values", "flaw"),
    [
        ({"canary": {"model": "m"}}, "rollout.canary is the same as the baseline"),
        (
            {"steps": [{"weight": 5}, {"weight": 5}]},
            "rollout.steps[1].weight must be more than the 5 of the step before",
        ),
        (
            {
                "gates": [
                    {"metric": "error_rate", "max": 0.1},
                    {"metric": "error_rate", "max_increase": 0.1},
                ]
            },
            "rollout.gates[1] has the same metric as gate 1; put both bounds into one",
        ),
        (
            {
                "gates": [
                    {"metric": "ttft", "max_s": 1},
                    {"metric": "ttft", "quantile": 0.95, "max_ratio": 2},
                ]
            },
            "rollout.gates[1] has the same metric and quantile as gate 1; put both bounds into one",
        ),
    ],
)
def test_flaws_of_rollouts(values: dict[str, Any], flaw: str) -> None:
    assert of_rollout(**values) == [flaw]


def test_flaws_of_classifiers() -> None:
    assert check_labels([("a", ("0", "1")), ("b", ("2",))], "b") == []
    flaws = check_labels([("a", ("0", "0")), ("a", ("1", "0"))], "c")
    assert [f"{key_path(flaw.loc)} {flaw.message}" for flaw in flaws] == [
        'classifier.arms[1].name "a" is already the name of arm number 1',
        'classifier.arms[0].labels[1] "0" already leads to this arm',
        'classifier.arms[1].labels[1] "0" already leads to arm 1',
        'classifier.default names the arm "c", which does not exist',
    ]


def test_each_repetition_is_named() -> None:
    found = [conflict.loc for conflict in repeated(("x",), ["a", "b", "a", "a"], None, "as")]
    assert found == [("x", 2), ("x", 3)]

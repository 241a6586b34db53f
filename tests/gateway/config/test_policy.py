"""Is a policy one thing, and can it be read as one whatever its kind?"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.config.policy import KINDS, Policy

SPLIT = {"arms": [{"name": "a", "model": "m", "weight": 3}, {"name": "b", "model": "n"}]}
ROLLOUT = {"baseline": {"cluster": "c"}, "canary": {"cluster": "d"}}
CLASSIFIER = {
    "file": "f.onnx",
    "arms": [{"name": "a", "model": "m", "labels": ["0", "1"]}, {"name": "b", "model": "n"}],
    "default": "b",
}
BODIES: dict[str, dict[str, Any]] = {
    "route": {"model": "m"},
    "split": SPLIT,
    "rollout": ROLLOUT,
    "classifier": CLASSIFIER,
    "mirror": {"to": {"model": "m"}, "percent": 5},
}


def policy(kind: str, **changes: Any) -> Policy:
    return Policy.model_validate({"name": "p", kind: {**BODIES[kind], **changes}})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_reads_alike(kind: str) -> None:
    """Whoever applies policies needs no case for each kind."""
    made = policy(kind)
    assert made.kind == kind
    assert made.steers == (kind != "mirror")
    assert made.baseline in [arm.name for arm in made.arms]
    assert made.salt == "p"
    assert made.by == ("session" if kind in ("split", "rollout") else "request")


def test_arms_by_kind() -> None:
    def read(kind: str) -> list[tuple[str, str | None, float | None]]:
        return [
            (arm.name, arm.model or arm.cluster, getattr(arm, "weight", None))
            for arm in policy(kind).arms
        ]

    assert read("route") == [("route", "m", 1)]
    assert read("split") == [("a", "m", 3), ("b", "n", 1)]
    assert read("rollout") == [("baseline", "c", 1), ("canary", "d", 0)]
    assert read("classifier") == [("a", "m", None), ("b", "n", None)]
    assert read("mirror") == [("mirror", "m", 1)]


def test_what_divides_is_taken_from_where_it_is_said() -> None:
    split = policy("split", by="user", salt="s", missing_key="baseline", baseline="b")
    assert (split.by, split.salt, split.missing_key, split.baseline) == (
        "user",
        "s",
        "baseline",
        "b",
    )
    rollout = policy("rollout", by="header:X-Org", missing_key="baseline")
    assert (rollout.by, rollout.missing_key) == ("header:x-org", "baseline")
    assert policy("mirror").missing_key == "request"
    assert policy("classifier").baseline == "b"


def test_labels_are_the_name_if_nothing_else_is_said() -> None:
    classifier = policy("classifier").classifier
    assert classifier is not None
    assert [arm.effective_labels for arm in classifier.arms] == [("0", "1"), ("b",)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "does nothing; a policy is one of route, split, rollout, classifier, mirror"),
        (
            {"route": {"model": "m"}, "mirror": BODIES["mirror"]},
            "has route and mirror; a policy is one of",
        ),
    ],
)
def test_a_policy_is_exactly_one_thing(body: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Policy.model_validate({"name": "p", **body})


@pytest.mark.parametrize(
    ("kind", "changes", "loc"),
    [
        ("split", {"baseline": "x"}, ("split", "baseline")),
        ("rollout", {"canary": {"cluster": "c"}}, ("rollout", "canary")),
        ("classifier", {"default": "{x}"}, ("classifier", "default")),
    ],
)
def test_flaws_stand_at_their_own_place(
    kind: str, changes: dict[str, Any], loc: tuple[str, ...]
) -> None:
    """Not at the policy as a whole, where nobody would look."""
    with pytest.raises(ValidationError) as caught:
        policy(kind, **changes)
    assert [error["loc"] for error in caught.value.errors()] == [loc]

"""Is what several policies contradict each other in found, and nothing else?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.config.policy import Policy
from gateway.config.policy_conflicts import Known, policy_conflicts, targets
from gateway.config.problems import key_path
from gateway.config.spec import Config

KNOWN = Known({"a": ("alias", "other"), "b": (), "c": ()}, ("one", "two"), discovers=False)


def policy(name: str, *, match: dict[str, Any] | None = None, **body: Any) -> Policy:
    """A policy that leads to model b unless something else is said."""
    steers = body.keys() & {"route", "split", "rollout", "mirror", "classifier"}
    default = {} if steers else {"route": {"model": "b"}}
    return Policy.model_validate({"name": name, "match": match or {}, **default, **body})


def split(*models: str) -> dict[str, Any]:
    return {"arms": [{"name": f"arm-{model}", "model": model} for model in models]}


def found(*policies: Policy, known: Known = KNOWN) -> list[str]:
    return [
        f"{policies[which].name}: {key_path(loc)} {message}"
        for which, loc, message in policy_conflicts(policies, known)
    ]


def test_what_a_configuration_defines() -> None:
    cluster = {"endpoints": [{"url": "http://x"}]}
    models = {"m": {"cluster": "one", "aliases": ["n"]}}
    config = Config.model_validate({"clusters": {"one": cluster}, "models": models})
    assert Known.of(config) == Known({"m": ("n",)}, ("one",), discovers=False)
    config = Config.model_validate({"clusters": {"one": cluster, "two": cluster}, "models": models})
    assert Known.of(config).discovers


def test_names_stand_for_aliases_and_belong_to_models() -> None:
    assert KNOWN.expand(["a", "b"]) == {"a", "alias", "other", "b"}
    assert KNOWN.expand(["alias"]) == {"alias"}
    assert (KNOWN.owner("alias"), KNOWN.owner("a"), KNOWN.owner("x")) == ("a", "a", "x")


def test_a_name_is_used_once() -> None:
    """Also by one that is switched off: its figures and state are kept under it."""
    one, two = policy("p", match={"models": ["a"]}), policy("p", match={"models": ["c"]})
    assert found(one, two) == ['p: name "p" is already the name of another policy']
    assert found(one, two.model_copy(update={"enabled": False})) != []


def test_unknown_names_are_found_wherever_they_stand() -> None:
    assert found(
        policy("r", match={"models": ["zz"]}, route={"model": "alia"}),
        policy("m", mirror={"to": {"cluster": "three"}}),
        policy(
            "o",
            match={"models": ["c"]},
            rollout={"baseline": {"cluster": "x"}, "canary": {"model": "y"}},
        ),
    ) == [
        'r: match.models[0] names the model "zz", which does not exist',
        'r: route.model names the model "alia", which does not exist (did you mean "alias"?)',
        'm: mirror.to.cluster names the cluster "three", which does not exist',
        'o: rollout.canary.model names the model "y", which does not exist',
        'o: rollout.baseline.cluster names the cluster "x", which does not exist',
    ]


def test_models_may_be_unknown_where_they_are_discovered() -> None:
    """Clusters are always configured."""
    known = Known({}, ("one",), discovers=True)
    assert found(policy("r", match={"models": ["new"]}), known=known) == []
    assert found(policy("r", route={"cluster": "two"}), known=known) != []


def test_a_policy_that_is_off_is_compared_with_nothing() -> None:
    off = policy("off", route={"model": "unknown"}, enabled=False)
    assert found(off, policy("on")) == []


BLUE = {"headers": [{"name": "x-team", "exact": "blue"}]}


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ({}, {}),
        ({}, {"models": ["a"], "routes": ["chat"], **BLUE, "percent": 5}),
        ({"models": ["a"]}, {"models": ["alias"]}),
        ({"models": ["a", "b"]}, {"models": ["b", "other"]}),
        ({"routes": ["chat", "score"]}, {"routes": ["chat"]}),
        ({"users": ["u", "v"]}, {"users": ["v"], "keys": ["k"]}),
        (BLUE, {**BLUE, "models": ["a"]}),
        ({"headers": [{"name": "x-team", "present": True}]}, BLUE),
        ({"headers": [{"name": "x-team", "prefix": "bl"}]}, BLUE),
        (
            {"headers": [{"name": "x-team", "prefix": "b"}]},
            {"headers": [{"name": "x-team", "prefix": "bl"}]},
        ),
        ({"headers": [{"name": "x-team", "regex": "b.*"}]}, BLUE),
        (
            {"headers": [{"name": "x-team", "present": True}]},
            {"headers": [{"name": "x-team", "regex": "b.*"}]},
        ),
    ],
)
def test_what_an_earlier_one_takes_whole_is_never_reached(
    wide: dict[str, Any], narrow: dict[str, Any]
) -> None:
    assert found(policy("wide", match=wide), policy("narrow", match=narrow)) == [
        'narrow: match is never reached: the policy "wide" comes first and matches all of it'
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"models": ["a"]}, {}),
        ({"models": ["alias"]}, {"models": ["a"]}),
        ({"percent": 50}, {}),
        ({"routes": ["chat"]}, {"routes": ["chat", "score"]}),
        ({"tenants": ["t"]}, {}),
        (BLUE, {}),
        (BLUE, {"headers": [{"name": "x-team", "exact": "red"}]}),
        (BLUE, {"headers": [{"name": "x-other", "exact": "blue"}]}),
        (BLUE, {"headers": [{"name": "x-team", "exact": "blue", "invert": True}]}),
        ({"headers": [{"name": "x-team", "present": False}]}, BLUE),
        (BLUE, {"headers": [{"name": "x-team", "present": False}]}),
        (
            {"headers": [{"name": "x-team", "prefix": "bl"}]},
            {"headers": [{"name": "x-team", "prefix": "b"}]},
        ),
        ({"headers": [{"name": "x-team", "regex": "r.*"}]}, BLUE),
        (
            {"headers": [{"name": "x-team", "prefix": "bl"}]},
            {"headers": [{"name": "x-team", "regex": "bl.*"}]},
        ),
        (
            {"headers": [{"name": "x-team", "regex": "bl.*"}]},
            {"headers": [{"name": "x-team", "prefix": "bl"}]},
        ),
    ],
)
def test_what_leaves_something_over_does_not_shadow(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    assert found(policy("first", match=first), policy("second", match=second)) == []


def test_mirrors_and_what_steers_do_not_shadow_each_other() -> None:
    mirror = policy("m", mirror={"to": {"model": "b"}})
    assert found(policy("r"), mirror, policy("s", enabled=False)) == []
    assert len(found(mirror, policy("n", mirror={"to": {"model": "c"}}))) == 1
    half = policy("h", mirror={"to": {"model": "b"}, "percent": 50})
    assert found(half, mirror) == []  # What is not in the first one's sample goes on to it.


ROLLOUT = {"baseline": {"cluster": "one"}, "canary": {"cluster": "two"}}


def test_a_rollout_and_a_split_need_requests_of_their_own() -> None:
    """Even if a percentage leaves some over."""
    part = {"models": ["a"], "percent": 50}
    rollout = policy("o", match={"models": ["a"]}, rollout=ROLLOUT)
    experiment = policy("s", match=part, split=split("a", "b"))
    words = "an experiment and a rollout at once would spoil each other's figures"
    assert found(experiment, rollout) == [
        f'o: match is about the same requests as the split "s"; {words}'
    ]
    narrow = policy("o", match={"models": ["a", "b"], "percent": 10}, rollout=ROLLOUT)
    assert found(narrow, experiment) == [
        f's: match is about the same requests as the rollout "o"; {words}'
    ]
    elsewhere = policy("s", match={"models": ["c"], "percent": 50}, split=split("a", "b"))
    assert found(elsewhere, rollout) == []
    assert found(policy("r", match=part), rollout) == []


def test_models_that_policies_send_to_each_other() -> None:
    one = policy("one", match={"models": ["a"]}, split=split("a", "b"))
    two = policy("two", match={"models": ["b"]}, split=split("b", "alias"))
    assert found(one, two) == [
        'two: split.arms[1].model leads to "alias", which the policy "one" sends back'
    ]
    assert found(policy("solo", match={"models": ["a", "b"]}, split=split("a", "b"))) == []


def test_longer_circles_are_found_too() -> None:
    one = policy("one", match={"models": ["a"]}, split=split("b", "c"))
    two = policy("two", match={"models": ["b"]}, route={"model": "c"})
    three = policy("three", match={"models": ["c"]}, route={"model": "a"})
    assert found(one, two, three) == [
        'three: route.model leads to "a", which the policy "one" sends back'
    ]
    by_two = policy("one", match={"models": ["a"]}, route={"model": "b"})
    assert found(by_two, two, three) == [
        'three: route.model leads to "a", which the policy "two" sends back'
    ]
    ends = policy("three", match={"models": ["c"]}, route={"cluster": "one"})
    assert found(one, two, ends) == []


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"routes": ["chat"]}, {"routes": ["score"]}),
        (BLUE, {"headers": [{"name": "x-team", "exact": "red"}]}),
    ],
)
def test_no_circle_where_no_request_meets_both(left: dict[str, Any], right: dict[str, Any]) -> None:
    one = policy("one", match={"models": ["a"], **left}, route={"model": "b"})
    two = policy("two", match={"models": ["b"], **right}, route={"model": "a"})
    assert found(one, two) == []
    two = policy("two", match={"models": ["b"], **left}, route={"model": "a"})
    assert len(found(one, two)) == 1


def test_no_circle_through_dead_ends() -> None:
    """A way that forks, meets itself again and never comes back."""
    known = Known(dict.fromkeys("abcd", ()), ("one",), discovers=False)
    one = policy("one", match={"models": ["b"]}, split=split("c", "d"))
    two = policy("two", match={"models": ["c"]}, split=split("d", "c"))
    three = policy("three", match={"models": ["a"]}, route={"model": "b"})
    assert found(one, two, three, known=known) == []


def test_where_each_way_stands() -> None:
    kinds = [
        policy("r"),
        policy("m", mirror={"to": {"model": "b"}}),
        policy("o", rollout=ROLLOUT),
        policy("s", split=split("a", "b")),
        policy(
            "c",
            classifier={"file": "f", "arms": [{"name": "x", "model": "a"}], "default": "x"},
        ),
    ]
    assert [[key_path(loc) for loc, _ in targets(each)] for each in kinds] == [
        ["route"],
        ["mirror.to"],
        ["rollout.baseline", "rollout.canary"],
        ["split.arms[0]", "split.arms[1]"],
        ["classifier.arms[0]"],
    ]


def test_a_policy_keeps_to_one_kind() -> None:
    """As far as the configuration says what its models and clusters serve."""
    kinds = {"cluster one": "llm", "cluster two": "vision", "model a": "llm", "model c": "vision"}
    known = replace(KNOWN, kinds=kinds)
    words = "leads to where vision models are; those it matches are others"
    assert found(
        policy("p", match={"models": ["alias"]}, route={"cluster": "two"}),
        policy("q", match={"models": ["a"], "routes": ["chat"]}, split=split("b", "c")),
        known=known,
    ) == [f"p: route.cluster {words}", f"q: split.arms[1].model {words}"]
    for models in (["c"], ["b"], []):
        fine = policy("p", match={"models": models}, route={"cluster": "two"})
        assert found(fine, known=known) == []


def test_policies_of_two_kinds_are_not_in_each_other_s_way() -> None:
    """One for every model is one for those of the kind that its arms lead to."""
    known = replace(KNOWN, kinds={"cluster one": "llm", "cluster two": "vision"})
    talk, see = (policy(name, route={"cluster": name}) for name in ("one", "two"))
    assert found(talk, see, known=known) == []
    assert "never reached" in found(talk, see, known=KNOWN)[0]

"""Does each request meet the policy that it should, and is nothing looked up needlessly?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from gateway.config.policy import Policy
from gateway.config.policy_conflicts import Known
from gateway.config.policy_fields import MAX_REGEX_CHARS
from gateway.plan.match import Rule, Rules, Subject, first, key_by
from gateway.wire.guard import Limits, read_head

KNOWN = Known({"m": ("alias",), "n": (), "o": ()}, ("c",), discovers=False)


def policy(name: str, *, match: Mapping[str, Any] | None = None, **body: Any) -> Policy:
    return Policy.model_validate(
        {"name": name, "match": match or {}, **(body or {"route": {"model": "n"}})}
    )


def mirror(name: str, **match: Any) -> Policy:
    return policy(name, match=match, mirror={"to": {"model": "n"}})


def subject(model: str = "m", headers: Mapping[str, str] | None = None, **values: Any) -> Subject:
    fields = [(b"host", b"h")]
    fields += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    head = read_head(fields, Limits())
    return Subject(model, values.pop("route", "chat"), head.field, b"request-1", **values)


def matches(match: Mapping[str, Any], asked: Subject) -> bool:
    rule = Rule(policy("p", match=match))
    assert (rule.why_not(asked) is None) == rule.matches(asked)
    return rule.matches(asked)


def test_a_model_without_policies_has_no_rules() -> None:
    rules = Rules([policy("p", match={"models": ["m"]})], KNOWN)
    assert rules.of("n") is None
    assert rules.of("anything") is None
    assert Rules([], KNOWN).of("m") is None


def test_a_models_name_stands_for_its_aliases_but_not_the_other_way_round() -> None:
    rules = Rules(
        [policy("alias", match={"models": ["alias"]}), policy("m", match={"models": ["m"]})],
        KNOWN,
    )

    def names(model: str) -> list[str]:
        lanes = rules.of(model)
        return [rule.policy.name for rule in lanes.steering] if lanes else []

    assert names("m") == ["m"]
    assert names("alias") == ["alias", "m"]


def test_the_first_that_matches_counts_in_each_lane() -> None:
    rules = Rules(
        [
            policy("blue", match={"headers": [{"name": "x-team", "exact": "blue"}]}),
            mirror("copies", models=["m"]),
            policy("named", match={"models": ["m"]}),
            mirror("never", models=["m"]),
            policy("rest"),
        ],
        KNOWN,
    )

    def asked(one: Subject) -> tuple[str | None, str | None]:
        lanes = rules.of(one.model)
        assert lanes is not None
        steering, copied = first(lanes.steering, one), first(lanes.mirrors, one)
        return (
            steering.policy.name if steering else None,
            copied.policy.name if copied else None,
        )

    assert asked(subject("m", {"x-team": "blue"})) == ("blue", "copies")
    assert asked(subject("m")) == ("named", "copies")
    assert asked(subject("unheard-of")) == ("rest", None)


def test_what_is_switched_off_is_not_there() -> None:
    off = policy("off", match={"models": ["m"]}).model_copy(update={"enabled": False})
    rules = Rules([off, policy("on", match={"models": ["m"]})], KNOWN)
    assert list(rules.rules) == ["on"]


@pytest.mark.parametrize(
    ("match", "right", "wrong"),
    [
        ({"routes": ["chat", "score"]}, subject(), subject(route="completions")),
        ({"users": ["u"]}, subject(user="u"), subject(user="v")),
        ({"tenants": ["t"]}, subject(tenant="t"), subject()),
        ({"keys": ["k"]}, subject(key="k"), subject()),
        (
            {"headers": [{"name": "x-team", "exact": "blue"}]},
            subject(headers={"x-team": "blue"}),
            subject(headers={"x-team": "Blue"}),
        ),
        (
            {"headers": [{"name": "X-Team", "prefix": "bl"}]},
            subject(headers={"x-team": "blue"}),
            subject(),
        ),
        (
            {"headers": [{"name": "x-team", "regex": "b.*e|green"}]},
            subject(headers={"x-team": "blue"}),
            subject(headers={"x-team": "bluer"}),
        ),
        (
            {"headers": [{"name": "x-team", "present": True}]},
            subject(headers={"x-team": "x"}),
            subject(),
        ),
        (
            {"headers": [{"name": "x-team", "present": False}]},
            subject(),
            subject(headers={"x-team": "x"}),
        ),
        (
            {"headers": [{"name": "x-team", "exact": "blue", "invert": True}]},
            subject(),
            subject(headers={"x-team": "blue"}),
        ),
        (
            {"headers": [{"name": "x-name", "exact": "Zoë"}]},
            subject(headers={"x-name": "Zoë"}),
            subject(headers={"x-name": "Zoe"}),
        ),
    ],
)
def test_each_condition(match: dict[str, Any], right: Subject, wrong: Subject) -> None:
    assert matches(match, right)
    assert not matches(match, wrong)


def test_conditions_must_all_hold() -> None:
    match = {
        "users": ["u"],
        "headers": [{"name": "x-a", "exact": "1"}, {"name": "x-b", "exact": "2"}],
    }
    assert matches(match, subject(user="u", headers={"x-a": "1", "x-b": "2"}))
    assert not matches(match, subject(user="u", headers={"x-a": "1"}))
    assert not matches(match, subject(headers={"x-a": "1", "x-b": "2"}))


def test_an_expression_sees_no_value_that_is_missing_or_too_long() -> None:
    match = {"headers": [{"name": "x-team", "regex": "a*"}]}
    assert matches(match, subject(headers={"x-team": "a" * MAX_REGEX_CHARS}))
    assert not matches(match, subject(headers={"x-team": "a" * (MAX_REGEX_CHARS + 1)}))
    assert not matches(match, subject())


def test_what_a_rule_does_not_ask_for_is_not_looked_up() -> None:
    def field(name: bytes) -> bytes:
        raise AssertionError(name)

    asked = Subject("m", "chat", field, b"r")
    assert matches({"routes": ["chat"]}, asked)
    headers = [{"name": "x-team", "present": True}]
    assert not matches({"routes": ["score"], "headers": headers}, asked)


def test_a_percentage_is_sampled_by_the_policys_key() -> None:
    """Somebody who is in an experiment stays in it, whatever they send."""
    split = {"by": "user", "arms": [{"name": "a", "model": "m"}, {"name": "b", "model": "n"}]}
    rule = Rule(policy("p", match={"percent": 20}, split=split))
    users = [f"user-{number}" for number in range(2000)]
    inside = [rule.matches(subject(user=user)) for user in users]
    assert 0.17 < sum(inside) / len(users) < 0.23
    later = [Subject("m", "chat", lambda _: b"", b"other", user) for user in users]
    assert [rule.matches(each) for each in later] == inside
    words = [rule.why_not(each) for each in later]
    assert {*words} == {None, "within the sample of 20 %"}


def test_a_percentage_goes_by_something_else_if_told_to() -> None:
    rule = Rule(policy("p", match={"percent": 50, "percent_by": "header:x-org"}))
    orgs = [subject(headers={"x-org": f"o{number}"}) for number in range(200)]
    inside = [rule.matches(each) for each in orgs]
    assert 60 < sum(inside) < 140
    without = [Subject("m", "chat", lambda _: b"", b"r%d" % number) for number in range(200)]
    assert 60 < sum(map(rule.matches, without)) < 140  # By the request's id.


def test_a_mirror_copies_its_share() -> None:
    rule = Rule(policy("p", mirror={"to": {"model": "n"}, "percent": 25}, match={"percent": 50}))
    asked = [Subject("m", "chat", lambda _: b"", b"r%d" % number) for number in range(4000)]
    assert 0.10 < sum(map(rule.matches, asked)) / 4000 < 0.15  # A quarter of a half.


@pytest.mark.parametrize(
    ("by", "headers", "key"),
    [
        ("user", {}, b"u"),
        ("session", {"x-session-id": "s", "x-user-id": "x"}, b"s"),
        ("session", {"x-user-id": "x"}, b"x"),
        ("session", {}, b"u"),
        ("api_key", {}, b"k"),
        ("request", {}, b"request-1"),
        ("header:x-org", {"x-org": "o"}, b"o"),
        ("header:x-org", {}, b""),
    ],
)
def test_keys_to_go_by(by: str, headers: dict[str, str], key: bytes) -> None:
    assert key_by(by)(subject(headers=headers, user="u", key="k")) == key


def test_a_user_that_is_no_text_for_utf8_is_a_key_as_well() -> None:
    assert key_by("user")(subject(user="\ud800"))


def test_without_a_key_it_is_the_request_or_the_baseline() -> None:
    arms = [{"name": "a", "model": "m"}, {"name": "b", "model": "n"}]
    split = {"by": "user", "arms": arms, "baseline": "b"}
    asked = Subject("m", "chat", lambda _: b"", b"request-1")
    assert Rule(policy("p", split=split)).sticky(asked) == b"request-1"
    rule = Rule(policy("p", split={**split, "missing_key": "baseline"}))
    assert rule.sticky(asked) == b""
    assert rule.splitter.names[rule.splitter.pick(b"")] == "b"


@pytest.mark.parametrize(
    ("match", "words"),
    [
        ({"routes": ["chat", "score"]}, "route in chat, score"),
        ({"tenants": ["t"]}, "tenant in t"),
        ({"headers": [{"name": "x-a", "exact": "1"}]}, "x-a is 1"),
        ({"headers": [{"name": "x-a", "prefix": "1"}]}, "x-a begins with 1"),
        ({"headers": [{"name": "x-a", "regex": "1+"}]}, "x-a matches 1+"),
        ({"headers": [{"name": "x-a", "present": True}]}, "x-a is there"),
        (
            {"headers": [{"name": "x-b", "present": True, "invert": True}]},
            "not x-b is there",
        ),
        ({"headers": [{"name": "x-b", "present": False}]}, "x-b is not there"),
        ({"percent": 0}, "within the sample of 0 %"),
    ],
)
def test_what_did_not_hold_is_said(match: dict[str, Any], words: str) -> None:
    asked = subject(route="tokenize", headers={"x-b": "2"})
    assert Rule(policy("p", match=match)).why_not(asked) == words


def test_what_a_rule_matches_is_divided_anew() -> None:
    """By weights that differ only: a controller says them every second."""
    arms = [{"name": "a", "model": "m"}, {"name": "b", "model": "n"}]
    rule = Rule(policy("p", split={"arms": arms}))
    before = rule.splitter
    rule.divide([1, 1])
    assert rule.splitter is before
    rule.divide([0, 1])
    assert (rule.splitter.weights, rule.splitter.pick(b"anybody")) == ((0, 1), 1)

"""A replay decides what the log tells as the gateway would, and says what it cannot know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.policy import Policy
from gateway.config.policy_conflicts import Known
from gateway.model import Outcome
from gateway.plan.logged import Line
from gateway.plan.match import Rules, Subject, first
from gateway.plan.replay import OWN_WAY, Replay

KNOWN = Known({"m": ("alias",), "n": (), "o": ()}, ("c",), discovers=False)


def rules(*policies: Mapping[str, Any]) -> Rules:
    return Rules([Policy.model_validate(policy) for policy in policies], KNOWN)


def route(name: str, **match: Any) -> dict[str, Any]:
    return {"name": name, "match": match, "route": {"model": "n"}}


def split(name: str, by: str, *weights: float, **match: Any) -> dict[str, Any]:
    arms = [
        {"name": arm, "model": model, "weight": weight}
        for arm, model, weight in zip("ab", "mn", weights, strict=True)
    ]
    return {"name": name, "match": match, "split": {"by": by, "arms": arms}}


def line(number: int, model: str = "m", route: str = "chat") -> Line:
    return Line(1.0, f"r-{number}", route, model, Outcome.SUCCESS, 5.0)


def replayed(known: Rules, *lines: Line) -> dict[tuple[str, str, str], tuple[float, float]]:
    replay = Replay(known)
    for each in lines:
        replay.take(each)
    assert replay.lines == len(lines)
    return {
        (each.policy, each.arm, each.model): (each.requests, each.perhaps)
        for each in replay.counts()
    }


MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "models": st.lists(st.sampled_from("mno"), max_size=2, unique=True),
        "routes": st.lists(st.sampled_from(["chat", "completions"]), max_size=1),
        "percent": st.sampled_from([0, 10, 50, 100]),
    },
)
LINES = st.lists(
    st.builds(
        line,
        st.integers(0, 1000),
        st.sampled_from(["m", "n", "alias", "gone"]),
        st.sampled_from(["chat", "completions", "embeddings"]),
    ),
    max_size=30,
)


@given(st.lists(MATCHES, max_size=3), LINES)
def test_what_the_log_tells_is_decided_as_on_a_requests_way(
    matches: list[dict[str, Any]], lines: list[Line]
) -> None:
    """Models, routes, samples and arms by request: every request where it would have gone."""
    known = rules(*(split(f"p{at}", "request", 3, 1, **match) for at, match in enumerate(matches)))
    wanted: Counter[tuple[str, str, str]] = Counter()
    for each in lines:
        asked = Subject(each.model, each.route, lambda _: b"", each.request_id.encode())
        lanes = known.of(each.model)
        rule = first(lanes.steering, asked) if lanes is not None else None
        if rule is None:
            wanted[OWN_WAY, "", each.model] += 1
        else:
            arm = rule.splitter.names[rule.splitter.pick(rule.sticky(asked))]
            wanted[rule.policy.name, arm, each.model] += 1
    assert replayed(known, *lines) == {key: (count, 0) for key, count in wanted.items()}


def test_arms_by_a_key_are_expected_by_their_shares() -> None:
    """And it is said why; one arm with everything is no guess."""
    replay = Replay(rules(split("ab", "session", 3, 1), split("z", "user", 1, 0, models=["o"])))
    for number in range(8):
        replay.take(line(number))
        replay.take(line(number, "o"))
    found = {(each.policy, each.arm, each.model): each.requests for each in replay.counts()}
    assert found == {("ab", "a", "m"): 6, ("ab", "b", "m"): 2, ("ab", "a", "o"): 6,
                     ("ab", "b", "o"): 2}  # fmt: skip
    assert replay.expected == {"ab": "by session, which is not logged"}
    one = Replay(rules(split("z", "user", 1, 0)))
    one.take(line(1))
    assert (one.expected, one.counts()[0].requests) == ({}, 1)


def test_a_sample_by_a_key_leaves_its_share_to_the_next() -> None:
    """Each part is counted where it goes."""
    known = rules(
        route("sample", percent=25, percent_by="user"),
        split("ab", "session", 1, 1, routes=["chat"]),
    )
    found = replayed(known, *(line(number) for number in range(8)))
    assert found == {
        ("sample", "route", "m"): (2, 0),
        ("ab", "a", "m"): (3, 0),
        ("ab", "b", "m"): (3, 0),
    }


def test_what_the_log_does_not_tell_is_perhaps() -> None:
    """The policy may have the request, and so may whoever is next."""
    blue = {"headers": [{"name": "x-team", "exact": "blue"}], "users": ["u"]}
    known = rules(route("one"), route("blue", **blue))
    assert replayed(known, line(1)) == {("one", "route", "m"): (1, 0)}
    known = rules(route("blue", **blue), route("chat", routes=["chat"]))
    assert replayed(known, line(1), line(2, route="score")) == {
        ("blue", "route", "m"): (0, 2),
        ("chat", "route", "m"): (0, 1),
        (OWN_WAY, "", "m"): (0, 1),
    }
    more = {"tenants": ["t"], "keys": ["k"]}
    unseen = Replay(rules(route("blue", **blue, **more), route("chat"))).unseen
    assert unseen == {"blue": ("tenant", "key", "user", "header x-team")}


def test_a_classifier_may_choose_any_arm() -> None:
    """Nothing of the request itself is logged."""
    arms = [{"name": "small", "model": "m"}, {"name": "large", "model": "n"}]
    spec = {"file": "x.onnx", "arms": arms, "default": "large"}
    known = rules({"name": "auto", "classifier": spec})
    assert replayed(known, line(1)) == {
        ("auto", "small", "m"): (0, 1),
        ("auto", "large", "m"): (0, 1),
    }


@pytest.mark.parametrize(("percent", "copies"), [(100, 40), (25, None)])
def test_copies_are_counted_apart(percent: int, copies: int | None) -> None:
    """The first mirror that matches has them; a sample by request is the one of the gateway."""
    mirror = {"to": {"model": "n"}, "percent": percent}
    known = rules({"name": "shadow", "mirror": mirror}, {**route("r"), "name": "r"})
    again = {"name": "later", "match": {"models": ["m"]}, "mirror": {"to": {"model": "o"}}}
    known = rules(
        *(rule.policy.model_dump(exclude_none=True) for rule in known.rules.values()), again
    )
    replay = Replay(known)
    lines = [line(number) for number in range(40)]
    for each in lines:
        replay.copies(each)
    replay.copies(line(0, "unknown"))
    found = {each.policy: each.requests for each in replay.counts() if each.model == "m"}
    shadow = known.rules["shadow"]
    wanted = sum(
        shadow.matches(Subject("m", "chat", lambda _: b"", each.request_id.encode()))
        for each in lines
    )
    assert found["shadow"] == wanted
    assert copies in (None, wanted)
    assert found.get("later", 0) == 40 - wanted


def test_a_policy_for_every_model_is_for_those_of_its_arms_kind() -> None:
    """As in the gateway: language models are no place for pictures."""
    kinds = {"cluster c": "llm", "cluster v": "vision"}
    known = Known({"m": (), "seen": ()}, ("c", "v"), discovers=False, kinds=kinds)
    policies = [
        {"name": "all", "route": {"cluster": "c"}},
        {"name": "eyes", "route": {"cluster": "v"}},
        {"name": "shadow", "mirror": {"to": {"cluster": "v"}}},
    ]
    made = Rules([Policy.model_validate(each) for each in policies], known)
    lines = [line(1), line(2, "seen", "predict")]
    assert set(replayed(made, *lines)) == {("all", "route", "m"), ("eyes", "route", "seen")}
    copied = Replay(made)
    for each in lines:
        copied.copies(each)
    assert [each.model for each in copied.counts()] == ["seen"]


def test_what_came_to_no_model_went_to_no_policy() -> None:
    """A request that could not be read is in the log, too."""
    made = rules(route("all"), {"name": "shadow", "mirror": {"to": {"model": "n"}}})
    assert set(replayed(made, line(1, ""))) == {(OWN_WAY, "", "")}
    copied = Replay(made)
    copied.copies(line(1, ""))
    assert copied.counts() == []


def test_without_policies_every_request_goes_its_own_way() -> None:
    """Copies there are none."""
    replay = Replay(rules())
    replay.copies(line(1))
    replay.take(line(1))
    (count,) = replay.counts()
    assert (count.policy, count.kind, count.model, count.requests) == (OWN_WAY, "", "m", 1)

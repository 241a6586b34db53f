"""Does an arm change what it says in every API family's bodies, and nothing else?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.policy_fields import Override as Spec
from gateway.plan.override import Override, merge

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def apply(body: Any, /, route: str = "chat", **spec: Any) -> Any:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return json.loads(Override(Spec.model_validate(spec)).apply(text, route))


def test_fields_are_set_and_all_else_stays_byte_for_byte() -> None:
    body = '{ "model":"m", "seed" : 12345678901234567890,"temperature": 1.0 ,"x":"\\u00e4ä"}\n'
    made = Override(Spec(temperature=0.2, top_p=0.5)).apply(body.encode(), "chat")
    assert made.decode() == (
        '{ "model":"m", "seed" : 12345678901234567890,"temperature": 0.2 ,"x":"\\u00e4ä"'
        ',"top_p":0.5}\n'
    )


def test_an_override_of_nothing_changes_nothing() -> None:
    body = b' {"model" : "m"} '
    assert Override(Spec()).apply(body, "chat") is body
    assert Override(Spec(system_prompt="x")).apply(body, "embeddings") is body


@pytest.mark.parametrize(
    ("route", "set_"),
    [("chat", True), ("completions", True), ("messages", True), ("responses", True),
     ("embeddings", False), ("count_tokens", False), ("rerank", False)],
)  # fmt: skip
def test_sampling_is_set_where_tokens_are_generated_only(route: str, set_: bool) -> None:
    made = apply({"model": "m"}, route, temperature=0.5, max_tokens=9)
    own = "max_output_tokens" if route == "responses" else "max_tokens"
    assert made == {"model": "m", **({"temperature": 0.5, own: 9} if set_ else {})}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens"])
def test_the_length_is_set_under_the_clients_own_name(name: str) -> None:
    """Engines refuse, or prefer, one of two."""
    assert apply({"model": "m", name: 5}, max_tokens=9) == {"model": "m", name: 9}
    both = {"max_tokens": 5, "max_completion_tokens": 6}
    assert apply(both, max_tokens=9) == {"max_tokens": 9, "max_completion_tokens": 9}


def test_a_patch_reaches_every_json_route() -> None:
    assert apply({"model": "m"}, "embeddings", body={"dimensions": 64}) == {
        "model": "m",
        "dimensions": 64,
    }


def merged(target: Any, patch: Any) -> Any:
    """The pseudocode of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        else:
            target[name] = merged(target.get(name), value)
    return target


@given(st.dictionaries(TEXT, VALUES, max_size=4), st.dictionaries(TEXT, VALUES, max_size=4))
def test_patches_are_merged_as_the_rfc_says(target: dict[str, Any], patch: dict[str, Any]) -> None:
    assert json.loads(merge(json.dumps(target).encode(), patch)) == merged(target, patch)


def test_a_nested_patch_keeps_its_neighbours_bytes() -> None:
    text = b'{"k": {"a":1e400,"b": [ 1 ]}, "z":0}'
    assert merge(text, {"k": {"c": {"d": None, "e": 2}, "b": None}}) == (
        b'{"k": {"a":1e400,"c":{"e":2}}, "z":0}'
    )


USER = {"role": "user", "content": "hi"}
OLD = {"role": "system", "content": 'old "one"'}
NEW = {"role": "system", "content": "new"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([USER], [NEW, USER]),
        ([], [NEW]),
        ([OLD, USER], [NEW, USER]),
        ([OLD, OLD, USER, OLD], [NEW, USER, OLD]),
        ([OLD], [NEW]),
        (
            [{"role": "developer", "content": "old"}, OLD, USER],
            [{"role": "developer", "content": "new"}, USER],
        ),
        ([7, USER], [NEW, 7, USER]),
        ([{"role": 3}], [NEW, {"role": 3}]),
    ],
)
def test_a_chats_system_prompt_is_replaced(before: list[Any], after: list[Any]) -> None:
    """All of it that stands at the beginning."""
    for separators in ((",", ":"), (" , ", " : ")):
        body = json.dumps({"messages": before, "model": "m"}, separators=separators).encode()
        assert apply(body, system_prompt="new") == {"messages": after, "model": "m"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([USER], [NEW, USER]),
        ([OLD, USER], [{"role": "system", "content": 'new\n\nold "one"'}, USER]),
        ([OLD, OLD], [{"role": "system", "content": 'new\n\nold "one"'}, OLD]),
        (
            [{"content": [{"type": "text", "text": "old"}], "role": "system", "name": "x"}],
            [
                {
                    "content": [{"type": "text", "text": "new"}, {"type": "text", "text": "old"}],
                    "role": "system",
                    "name": "x",
                }
            ],
        ),
        (
            [{"role": "system", "content": []}],
            [{"role": "system", "content": [{"type": "text", "text": "new"}]}],
        ),
        ([{"role": "system"}], [NEW]),
        ([{"role": "system", "content": None}], [NEW]),
    ],
)
def test_a_chats_system_prompt_is_begun_with_ours(before: list[Any], after: list[Any]) -> None:
    """In the first message, since many templates take but one."""
    made = apply({"messages": before}, system_prompt="new", system_prompt_mode="prepend")
    assert made == {"messages": after}


@pytest.mark.parametrize("body", [{"model": "m"}, {"messages": "hi"}, {"messages": None}])
def test_a_chat_that_the_engine_will_refuse_is_left_to_it(body: dict[str, Any]) -> None:
    assert apply(body, system_prompt="new") == body


@pytest.mark.parametrize(
    ("route", "field"),
    [("messages", "system"), ("count_tokens", "system"), ("responses", "instructions")],
)
def test_other_families_have_a_field_for_it(route: str, field: str) -> None:
    def begun(old: Any) -> Any:
        return apply({field: old}, route, system_prompt="ü", system_prompt_mode="prepend")[field]

    assert apply({"model": "m"}, route, system_prompt="ü")[field] == "ü"
    assert apply({field: "old"}, route, system_prompt="ü")[field] == "ü"
    assert begun("old") == "ü\n\nold"
    assert begun(None) == "ü"
    block = {"type": "text", "text": "old", "cache_control": {"type": "ephemeral"}}
    assert begun([block]) == [{"type": "text", "text": "ü"}, block]


@pytest.mark.parametrize("route", ["completions", "embeddings", "rerank"])
def test_families_without_a_system_prompt_get_none(route: str) -> None:
    body = {"model": "m", "prompt": "p", "messages": [USER]}
    assert apply(body, route, system_prompt="new") == body

"""Are members and elements found wherever they stand, and everything else kept byte for byte?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.plan.members import elements, members, rewrite

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LEAF = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SPACES = st.sampled_from(["", " ", "\n  ", "\t"])


@st.composite
def objects(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, Any]]]:
    """An object's text with spaces anywhere and names perhaps repeated, and its members."""
    found = draw(st.lists(st.tuples(TEXT, VALUES), max_size=6))
    ascii_only = draw(st.booleans())

    def dump(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only)

    parts = [
        f"{draw(SPACES)}{dump(name)}{draw(SPACES)}:{draw(SPACES)}{dump(value)}{draw(SPACES)}"
        for name, value in found
    ]
    inside = ",".join(parts) if parts else draw(SPACES)
    return f"{draw(SPACES)}{{{inside}}}{draw(SPACES)}".encode(), found


@given(objects())
@example((b'{"a":1,"a":12}', [("a", 1), ("a", 12)]))
@example((b'{"a":12,"a":1}', [("a", 12), ("a", 1)]))
@example((b'{"a":"x","a":"x\\",", "\\u0061":[]}', [("a", "x"), ("a", 'x",'), ("a", [])]))
def test_every_member_is_found_where_it_stands(made: tuple[bytes, list[tuple[str, Any]]]) -> None:
    text, expected = made
    found = members(text)
    assert [(each.name, json.loads(text[each.start : each.stop])) for each in found] == expected
    pieces = [text[each.begin : each.end] for each in found]
    if pieces:
        assert b",".join(pieces) == text[found[0].begin : found[-1].end]


@given(objects())
def test_nothing_changes_if_nothing_is_to_change(made: tuple[bytes, object]) -> None:
    text, _ = made
    assert rewrite(text, members(text), {}) == text


@given(objects(), TEXT, VALUES)
def test_a_set_member_is_set_and_the_others_are_as_they_were(
    made: tuple[bytes, list[tuple[str, Any]]], name: str, value: Any
) -> None:
    text, _ = made

    def pairs(data: bytes) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = json.loads(data, object_pairs_hook=list)
        return [pair for pair in found if pair[0] != name]

    new = rewrite(text, members(text), {name: lambda _: json.dumps(value).encode()})
    assert pairs(new) == pairs(text)
    assert json.loads(new)[name] == value


@given(objects(), st.data())
def test_a_removed_member_is_gone_and_so_are_its_repetitions(
    made: tuple[bytes, list[tuple[str, Any]]], data: st.DataObject
) -> None:
    text, before = made
    name = data.draw(st.sampled_from([name for name, _ in before] or ["none"]))
    new = rewrite(text, members(text), {name: lambda _: None})
    rest = {key: value for key, value in json.loads(text).items() if key != name}
    assert json.loads(new) == rest


def test_a_change_sees_the_old_value_or_none() -> None:
    seen: list[bytes | None] = []
    text = b'{"a": [1, 2] , "b":3}'

    def change(old: bytes | None) -> bytes | None:
        seen.append(old)
        return old

    assert rewrite(text, members(text), {"a": change, "c": change}) == text
    assert seen == [b"[1, 2]", None]


@pytest.mark.parametrize(
    ("text", "new"),
    [
        (b'{ "a" : 1 , "b" : 2 }', b'{ "a" : 0 , "b" : 2 ,"c":0}'),
        (b"{}", b'{"a":0,"c":0}'),
        (b" { } ", b' { "a":0,"c":0} '),
        (b'{"b":12345678901234567890}', b'{"b":12345678901234567890,"a":0,"c":0}'),
    ],
)
def test_new_members_come_last(text: bytes, new: bytes) -> None:
    changes = dict.fromkeys(("a", "c"), lambda _: b"0")
    assert rewrite(text, members(text), changes) == new


@given(st.lists(VALUES, max_size=6), SPACES, st.booleans())
def test_every_element_is_found_where_it_stands(
    values: list[Any], space: str, ascii_only: bool
) -> None:
    parts = [f"{space}{json.dumps(value, ensure_ascii=ascii_only)}{space}" for value in values]
    text = f"{space}[{','.join(parts) or space}]".encode()
    assert [json.loads(text[start:stop]) for start, stop in elements(text)] == values


def test_numbers_of_any_length_are_text() -> None:
    """int() would refuse them; they reach the engine as they are."""
    digits = b"9" * 5000
    text = b'{"a":%b,"a":1,"b":[%b]}' % (digits, digits)
    found = members(text)
    assert [text[each.start : each.stop] for each in found] == [digits, b"1", b"[%b]" % digits]
    assert elements(b"[%b, 1]" % digits) == [(1, 5001), (5003, 5004)]

"""Request bodies are objects that every parser reads alike, or 400."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.strict import add_members, read_object
from gateway.errors import GatewayError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=6), VALUES, max_size=4)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"text"',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1,}',
        b"{'a':1}",
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b"[" * 100_000,
        b'{"model":"a","model":"a"}',
        b'{"model":"a","\\u006dodel":"b"}',
    ],
)
def test_what_is_not_strict_is_refused(body: bytes) -> None:
    """No body that two parsers could read differently gets past."""
    with pytest.raises(GatewayError) as caught:
        read_object(body)
    assert caught.value.status == 400


def test_a_nested_model_is_not_a_second_one() -> None:
    """Only the top level counts."""
    assert read_object(b'{"model":"a","tools":[{"model":"b"}]}')["model"] == "a"


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """Nothing but a 400 comes out of bytes that are no object."""
    try:
        value = read_object(body)
    except GatewayError as error:
        status = error.status
    else:
        status = 200
        assert value == json.loads(body)
    assert status in {200, 400}


@given(OBJECTS, st.booleans())
def test_added_members_stand_beside_the_old(value: dict[str, object], indent: bool) -> None:
    """The result is the object with the members, whatever the layout of its text."""
    value = {key: item for key, item in value.items() if key != "model"}
    body = json.dumps(value, indent=2 if indent else None, ensure_ascii=False).encode()
    added = add_members(b" " + body, {"model": 'a"b', "stream": True})
    assert read_object(added) == {"model": 'a"b', "stream": True, **value}

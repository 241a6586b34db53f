"""The text of events in one frame is what a JSON parser reads from each of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.alike import Frame, frame_of
from tests.support.engine import event, finish, token

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def frame() -> Frame:
    found = frame_of(token("seen"), "seen")
    assert found is not None
    return found


@given(st.lists(TEXTS, min_size=1, max_size=20), st.booleans())
def test_texts_of_alike_events_are_joined(texts: list[str], ascii_only: bool) -> None:
    """Any text, in either spelling of JSON."""
    reads = []
    for text in texts:
        literal = json.dumps(text, ensure_ascii=ascii_only).encode()
        reads.append(token("seen").replace(b'"seen"', literal))
    assert frame().text_of(reads) == "".join(texts)


@pytest.mark.parametrize(
    "odd",
    [
        finish(),
        token("a") + token("b"),
        b": ping\n\n" + token("a"),
        token("a").replace(b'"a"', b'"\\ud800"'),
        token("a").replace(b'"a"', b'"\xff"'),
        token("a").replace(b'"m"', b'"n"'),
        b"",
    ],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_one_event_that_differs_is_noticed(odd: bytes, at: int) -> None:
    """Then none is taken: whoever asked decodes each of them."""
    reads = [token("a"), token("b")]
    reads.insert(at, odd)
    assert frame().text_of(reads) is None


@pytest.mark.parametrize("key", ["content", "text", "reasoning", "reasoning_content"])
def test_each_member_that_holds_text_is_found(key: str) -> None:
    """The frame is what stands before and after the text between its quotes."""
    found = frame_of(b'data: {"x":{"%b":"a\\"b"}}\n\n' % key.encode(), 'a"b')
    assert found == Frame(b'data: {"x":{"%b":"' % key.encode(), b'"}}\n\n')


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (event({"content": "a", "reasoning": "a"}), "a"),
        (event({"delta": 1}), "a"),
        (event({"content": "b"}), "a"),
        (b'data: {"content": "a"}\n\n', "a"),
    ],
)
def test_no_frame_where_the_text_is_not_plain_to_see(data: bytes, text: str) -> None:
    """Two texts, none, another than was read, or another spelling of JSON."""
    assert frame_of(data, text) is None

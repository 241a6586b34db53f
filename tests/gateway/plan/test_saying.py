"""What answers say is put together from pieces; requests say whether it must be JSON."""

from __future__ import annotations

import pytest

from gateway.plan.saying import Call, Draft, Saying, wants_json


def test_a_draft_puts_pieces_in_the_order_of_their_choices() -> None:
    """However they are interleaved."""
    draft = Draft()
    draft.say(1, "b")
    draft.say(0, "a")
    draft.say(1, "d")
    draft.say(2, None)
    draft.finishes[1] = "stop"
    draft.call((1, 0), "late", "{}")
    draft.call((0, 1), "g", '{"x"')
    draft.call((0, 0), "f", None)
    draft.call((0, 1), None, ":1}")
    assert draft.saying() == Saying(
        ("a", "bd", ""),
        ("", "stop", ""),
        (Call("f", ""), Call("g", '{"x":1}'), Call("late", "{}")),
    )


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"response_format":{"type":"json_object"}}', True),
        (b'{"response_format":{"type":"json_schema","json_schema":{}}}', True),
        (b'{"response_format":{"type":"text"}}', False),
        (b'{"response_format":{"type":"text","x":"json_"}}', False),
        (b'{"response_format":"json_object"}', False),
        (b'{"text":{"format":{"type":"json_schema"}}}', True),
        (b'{"text":{"format":null},"x":"json_"}', False),
        (b'{"text":"json_object"}', False),
        (b'{"messages":[{"content":"json_object"}]}', False),
        (b"{}", False),
        (b"json_ is no JSON", False),
    ],
)
def test_wants_json(body: bytes, wanted: bool) -> None:
    """By chat's `response_format` or the `text.format` of responses."""
    assert wants_json(body) is wanted

"""Is a streamed answer understood, whatever the chunking, and are its failures seen?"""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.stream import Delta, Done, Failure, Finish, Usage, error_message, read_events

STREAM = (
    b": ping\n\n"
    b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"delta":{"reasoning":"hm"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"a\xe2\x80\xa8\xc2\x85b"}}]}\r\n\r\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\n'
    b'data: {"choices":[],"usage":{"completion_tokens":7}}\n\n'
    b"data: [DONE]\n\n"
    b'data: {"choices":[{"delta":{"content":"too late"}}]}\n\n'
)
EVENTS = [
    Delta("hm", is_reasoning=True),
    Delta("a\u2028\x85b"),
    Finish("length"),
    Usage(7),
    Done(),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8).map(sorted))
def test_any_chunking_gives_the_same_events(cuts: list[int]) -> None:
    """Comments are skipped, line ends inside the text stay text, nothing counts after the end."""
    edges = [0, *cuts, len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(edges)]
    assert list(read_events(pieces)) == EVENTS


def test_an_early_end_is_not_done() -> None:
    """A stream that just ends yields no `Done`, and an event without its empty line is nothing."""
    assert list(read_events([STREAM[: STREAM.index(b"data: [DONE]") + 13]])) == EVENTS[:-1]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"error":{"message":"out of memory","code":500}}', "out of memory"),
        (b'{"error":"Unauthorized"}', "Unauthorized"),
        (b'{"choices":[{"delta":{},"finish_reason":"abort"}]}', "aborted"),
        (b'{"choices":[', "not a chunk"),
        (b"[]", "not a chunk"),
        (b"\xff", "not a chunk"),
        (b"[" * 100_000, "not a chunk"),
    ],
)
def test_a_failure_ends_the_stream(data: bytes, said: str) -> None:
    """Errors in the stream, aborts and nonsense are failures, and nothing after them is read."""
    (only,) = read_events([b"data: " + data + b"\n\ndata: [DONE]\n\n"])
    assert isinstance(only, Failure)
    assert said in only.message


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_no_shape_of_chunk_is_a_surprise(value: object) -> None:
    """Odd values in the known places are passed over."""
    for chunk in (
        {"choices": value, "usage": value},
        {"choices": [value]},
        {"choices": [{"delta": value, "finish_reason": value}]},
        {"choices": [{"delta": {"content": value, "reasoning": value}}]},
        {"usage": {"completion_tokens": value}},
        {"error": value},
    ):
        list(read_events([b"data: " + json.dumps(chunk).encode() + b"\n\n"]))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"error":{"message":"no such model"}}', "no such model"),
        ('{"error":"Unauthorized"}', "Unauthorized"),
        ('{"detail":"Not Found"}', "Not Found"),
        ("<html>\n Bad   gateway", "<html> Bad gateway"),
        ("[1]", "[1]"),
        ('{"error":{}}', '{"error":{}}'),
        ("x" * 300, "x" * 200 + "…"),
    ],
)
def test_error_bodies_of_every_server_are_read(body: str, said: str) -> None:
    """OpenAI's, vLLM's and FastAPI's shapes give their message, anything else its start."""
    assert error_message(body) == said

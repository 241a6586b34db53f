"""Answers are read for their text and count, and a stream's end is told from its cut."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.answer import AnswerError, StreamReader, as_error, read_whole
from gateway.errors import GatewayError
from gateway.relay.sse import MAX_EVENT_BYTES
from tests.support.control import sse


def delta(text: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


STREAM = sse(
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    delta("häl"),
    delta("lo"),
    {"choices": [{"index": 0, "text": "!", "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}},
    "[DONE]",
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_any_chunking_reads_the_same(cuts: list[int]) -> None:
    """Text, count and end do not depend on how the bytes arrive."""
    reader = StreamReader()
    text, tokens = "", None
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(edges):
        for _, chunk in reader.feed(STREAM[start:end]):
            text += chunk.text
            tokens = chunk.tokens if chunk.tokens is not None else tokens
    reader.end()
    assert (text, tokens) == ("hällo!", 3)


@pytest.mark.parametrize("stream", [b"", sse(delta("a")), STREAM[:-3], b": ping\n\n"])
def test_a_stream_without_its_end_is_cut(stream: bytes) -> None:
    """Only [DONE] ends an answer; the bytes' end does not."""
    reader = StreamReader()
    list(reader.feed(stream))
    with pytest.raises(AnswerError) as caught:
        reader.end()
    assert json.loads(caught.value.body)["error"]["code"] == "upstream_error"


def test_an_error_event_comes_after_the_chunks_before_it() -> None:
    """What was said until then is still read; the error keeps its own words."""
    reader = StreamReader()
    chunks = reader.feed(sse(delta("a"), '{"error":{"message":"gone"}}'))
    assert next(chunks)[1].text == "a"
    with pytest.raises(AnswerError) as caught:
        next(chunks)
    assert caught.value.body == b'{"error":{"message":"gone"}}'


@pytest.mark.parametrize("event", ["{", "7", '{"choices":3}', "[" * 5000])
def test_an_event_that_is_no_chunk_is_an_error(event: str) -> None:
    """A malformed chunk is never passed over in silence."""
    with pytest.raises(AnswerError):
        list(StreamReader().feed(sse(event)))


def test_an_endless_event_is_an_error() -> None:
    """Memory stays bounded when an event never ends."""
    with pytest.raises(AnswerError):
        list(StreamReader().feed(b"data: " + b"x" * MAX_EVENT_BYTES))


def test_whole_answers() -> None:
    """Completions and chat both have their text in the first choice."""
    assert read_whole(b'{"choices":[{"text":"a"},{"text":"b"}]}').text == "a"
    assert read_whole(b'{"choices":[{"message":{"content":"a"}}]}').text == "a"
    assert read_whole(b'{"choices":[{"message":{"content":null}}]}').text == ""
    assert read_whole(b'{"choices":[]}').tokens is None
    with pytest.raises(GatewayError) as caught:
        read_whole(b"<html>")
    assert caught.value.status == 502


def test_errors_get_the_one_shape() -> None:
    """An error object stays as it is; a string, a detail or no JSON is put into one."""
    assert json.loads(as_error(404, b'{"error":{"code":404}}')) == {"error": {"code": 404}}
    for body in (b'{"error":"Unauthorized"}', b'{"detail":"Not Found"}', b"\xff", b"[]"):
        error = json.loads(as_error(401, body))["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "authentication_error"

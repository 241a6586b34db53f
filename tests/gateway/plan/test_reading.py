"""An answer of each family is read, whole and as a stream, into the same value."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.plan.reading import read
from gateway.plan.saying import Call, Prediction, Saying
from tests.support.engine import DONE, event, finish, token, usage


def whole(route: str, value: Any) -> Saying | None:
    return read(route, json.dumps(value).encode(), streams=False)


def streamed(route: str, *events: bytes) -> Saying | None:
    return read(route, b"".join(events), streams=True)


def typed(**values: Any) -> bytes:
    return b"event: %b\n" % values["type"].encode() + event(values)


_KEYS = [
    *("choices", "message", "delta", "content", "tool_calls", "function", "arguments", "index"),
    *("type", "content_block", "response", "output", "data", "embedding", "predictions", "class"),
]
HI = Saying(("hi you",), ("stop",))
CALL = Saying(("",), ("tool_calls",), (Call("f", '{"x":1}'),))


def test_chat() -> None:
    """A message, or the pieces of one."""
    answer = {"choices": [{"message": {"content": "hi you"}, "finish_reason": "stop"}]}
    assert whole("chat", answer) == HI
    assert streamed("chat", token("hi"), token(" you"), finish(), usage(), DONE) == HI


def test_completions() -> None:
    """A text, or the pieces of one."""
    choices = [{"index": 0, "text": "hi", "finish_reason": None}]
    assert whole("completions", {"choices": [{"text": "hi you", "finish_reason": "stop"}]}) == HI
    end = {"index": 0, "text": " you", "finish_reason": "stop"}
    found = streamed("completions", event({"choices": choices}), event({"choices": [end]}), DONE)
    assert found == HI


def test_several_choices_are_told_apart() -> None:
    """By their index."""
    pieces = [(1, "b"), (0, "a"), (1, "d")]
    events = [
        event({"choices": [{"index": index, "delta": {"content": text}}]}) for index, text in pieces
    ]
    assert streamed("chat", *events, DONE) == Saying(("a", "bd"), ("", ""))


def test_tool_calls() -> None:
    """Whole, and in pieces of which the first has the name."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    message = {"content": None, "tool_calls": [call]}
    choice = {"message": message, "finish_reason": "tool_calls"}
    assert whole("chat", {"choices": [choice]}) == CALL
    pieces: list[dict[str, Any]] = [
        {"name": "f", "arguments": ""},
        {"arguments": '{"x"'},
        {"arguments": ":1}"},
    ]
    events = [
        event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": one}]}}]})
        for one in pieces
    ]
    assert streamed("chat", *events, finish("tool_calls"), DONE) == CALL
    bare = {"choices": [{"message": {"tool_calls": [{}]}}]}
    assert whole("chat", bare) == Saying(("",), ("",), (Call("", ""),))


TEXTS = st.lists(st.text(max_size=8), min_size=1, max_size=6)


@given(TEXTS)
def test_the_short_way_reads_what_the_long_way_reads(texts: list[str]) -> None:
    """Comments, other line ends and a missing end mark only take it longer."""
    events = b"".join(map(token, texts)) + finish()
    found = read("chat", events + DONE, streams=True)
    assert found == Saying(("".join(texts),), ("stop",))
    assert read("chat", b": ping\n\n" + events + DONE, streams=True) == found
    assert read("chat", events + b": ping\n\n" + DONE, streams=True) == found
    assert read("chat", (events + DONE).replace(b"\n", b"\r\n"), streams=True) == found
    assert read("chat", events, streams=True) == found


def test_messages() -> None:
    """Blocks of text and of tool use."""
    blocks = [
        {"type": "text", "text": "hi"},
        {"type": "tool_use", "name": "f", "input": {"x": 1}},
        {"type": "text", "text": " you"},
        {"type": "thinking", "thinking": "…"},
    ]
    wanted = Saying(("hi you",), ("tool_use",), (Call("f", '{"x":1}'),))
    assert whole("messages", {"content": blocks, "stop_reason": "tool_use"}) == wanted
    assert whole("messages", {"content": []}) == Saying(("",), ("",))
    found = streamed(
        "messages",
        typed(type="message_start", message={}),
        typed(type="content_block_start", index=0, content_block={"type": "text", "text": ""}),
        typed(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "hi"}),
        typed(type="content_block_start", index=1, content_block={"type": "tool_use", "name": "f"}),
        typed(type="content_block_delta", index=1, delta={"partial_json": '{"x"'}),
        typed(type="content_block_delta", index=1, delta={"partial_json": ":1}"}),
        typed(type="content_block_delta", index=2, delta={"text": " you"}),
        typed(type="message_delta", delta={"stop_reason": "tool_use"}),
        typed(type="message_stop"),
    )
    assert found == wanted


def test_responses() -> None:
    """The stream's last event holds the whole of it."""
    output = [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "hi"}, {"text": " you"}]},
        {"type": "message", "content": None},
        {"type": "function_call", "name": "f", "arguments": '{"x":1}'},
    ]
    response = {"output": output, "status": "completed"}
    wanted = Saying(("hi you",), ("completed",), (Call("f", '{"x":1}'),))
    assert whole("responses", response) == wanted
    assert whole("responses", {}) == Saying(("",), ("",))
    found = streamed(
        "responses",
        typed(type="response.created", response={"output": [], "status": "in_progress"}),
        typed(type="response.output_text.delta", delta="hi"),
        typed(type="response.completed", response=response),
        typed(type="late"),
    )
    assert found == wanted
    assert streamed("responses", typed(type="x", response=None)) is None
    assert streamed("responses", typed(type="x")) is None


def test_embeddings() -> None:
    """As numbers, or packed."""
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()
    found = whole("embeddings", {"data": [{"embedding": [0.5, -1]}, {"embedding": packed}]})
    assert found == Saying(vectors=((0.5, -1.0), (0.5, -1.0)))
    odd = base64.b64encode(b"abcdefg").decode()
    cut = whole("embeddings", {"data": [{"embedding": odd}]})
    assert cut is not None
    assert len(cut.vectors[0]) == 1


def test_predictions() -> None:
    """Of one item, or of several, of which one may have failed."""
    cat, dog = {"class": "cat", "confidence": 0.9}, {"class": 7, "confidence": 0.1}
    wanted = Prediction("cat", 0.9), Prediction("7", 0.1)
    assert whole("predict", {"predictions": [cat, dog]}) == Saying(predictions=(wanted,))
    failed = {"error": {"message": "no image"}}
    results = [{"predictions": [cat, dog]}, failed, {"predictions": [dog]}]
    several = whole("predict", {"results": results})
    assert several == Saying(predictions=(wanted, (), wanted[1:]))
    assert whole("predict", {"predictions": []}) == Saying(predictions=((),))
    vector = {"predictions": [{"embedding": [0.5, -1]}]}
    assert whole("predict", vector) == Saying(vectors=((0.5, -1.0),))
    assert whole("predict", {"results": [vector, vector]}) == Saying(vectors=((0.5, -1.0),) * 2)


@pytest.mark.parametrize(
    ("route", "body", "streams"),
    [
        ("chat", b"", False),
        ("chat", b'{"choices":7}', False),
        ("chat", b'data: {"choices":[{"index":"x"}]}\n\n', True),
        ("chat", b"data: {what\n\ndata: [DONE]\n\n", True),
        ("chat", b'{"choices":[{"text":"\xff"}]}', False),
        ("chat", b'{"x":' + b"[" * 100_000, False),
        ("messages", b"[]", False),
        ("embeddings", b'{"data":[{"embedding":"%%%"}]}', False),
        ("embeddings", b'{"data":[{"embedding":"a"}]}', False),
        ("embeddings", '{"data":[{"embedding":"é"}]}'.encode(), False),
        ("predict", b'{"predictions":[7]}', False),
        ("predict", b'{"predictions":[[1],2]}', False),
        ("predict", b"{}", False),
        ("rerank", b"{}", False),
        ("embeddings", b"data: {}\n\n", True),
    ],
)
def test_what_cannot_be_read(route: str, body: bytes, streams: bool) -> None:
    """None, whatever is wrong with it."""
    assert read(route, body, streams=streams) is None


@given(
    st.sampled_from(["chat", "messages", "responses", "embeddings", "predict"]),
    st.booleans(),
    st.one_of(
        st.binary(max_size=40),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4)
            ),
            max_leaves=12,
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_nothing_raises(route: str, streams: bool, body: bytes) -> None:
    """An engine may say anything."""
    read(route, b"data: %b\n\n" % body if streams else body, streams=streams)

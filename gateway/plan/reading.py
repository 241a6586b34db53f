"""How is an answer read, of each API family, whole or as a stream of events?

Pure. Both forms become the same value, so that a stream can be compared with another one however
the engines cut it into tokens: 0.3 µs an event.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from gateway.plan.saying import Draft, Prediction, Saying
from gateway.relay.sse import payload, split


def read(route: str, body: bytes, *, streams: bool) -> Saying | None:
    """Return what a good answer (2xx) says; None if it cannot be read, or its family is not known.

    `route` is the route's name, `body` the whole body; `streams` says that it is events.
    """
    reader = (_STREAMS if streams else _WHOLE).get(route)
    if reader is None:
        return None
    try:
        return reader(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


# Chat and completions.


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int | None = None
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None


_COMPLETION = msgspec.json.Decoder(_Completion)


def _completion(body: bytes) -> Saying:
    draft = Draft()
    _add(draft, _COMPLETION.decode(body))
    return draft.saying()


def _completion_stream(body: bytes) -> Saying:
    draft = Draft()
    for chunk in _chunks(body):
        _add(draft, chunk)
    return draft.saying()


def _chunks(events: bytes) -> Iterator[_Completion]:
    end = b"\n\ndata: [DONE]\n\n"
    if events.startswith(b"data: ") and events.endswith(end) and b"\r" not in events:
        # As engines write them: one line each. No JSON string has a line feed in it.
        lines = events[6 : -len(end)].split(b"\n\ndata: ")
        if len(lines) * 2 == events.count(b"\n") - 2:
            yield from map(_COMPLETION.decode, lines)
            return
    for data in _payloads(events):
        yield _COMPLETION.decode(data)


def _payloads(events: bytes) -> Iterator[bytes]:
    for event in split(events):
        data = payload(event)
        if data is not None and data != b"[DONE]":
            yield data


def _add(draft: Draft, chunk: _Completion) -> None:
    for choice in chunk.choices or ():
        message = choice.delta or choice.message
        draft.say(choice.index, choice.text if message is None else message.content)
        if choice.finish_reason is not None:
            draft.finishes[choice.index] = choice.finish_reason
        if message is not None and message.tool_calls:
            for number, call in enumerate(message.tool_calls):
                place = choice.index, number if call.index is None else call.index
                function = call.function or _Function()
                draft.call(place, function.name, function.arguments)


# Anthropic's messages.


class _Block(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    name: str | None = None
    input: Any = None
    partial_json: str | None = None
    stop_reason: str | None = None


class _Answer(msgspec.Struct, gc=False):
    type: str = ""
    content: list[_Block] = []
    stop_reason: str | None = None
    index: int = 0
    content_block: _Block | None = None
    delta: _Block | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


def _message(body: bytes) -> Saying:
    answer, draft = _ANSWER.decode(body), Draft()
    draft.say(0, None)
    draft.finishes[0] = answer.stop_reason or ""
    for number, block in enumerate(answer.content):
        if block.type == "tool_use":
            draft.call((0, number), block.name, msgspec.json.encode(block.input).decode())
        else:
            draft.say(0, block.text)
    return draft.saying()


def _message_stream(body: bytes) -> Saying:
    draft = Draft()
    draft.say(0, None)
    for data in _payloads(body):
        event = _ANSWER.decode(data)
        begun, delta = event.content_block, event.delta
        if begun is not None and begun.type == "tool_use":
            draft.call((0, event.index), begun.name, None)
        if delta is None:
            continue
        draft.say(0, delta.text)
        if delta.partial_json is not None:
            draft.call((0, event.index), None, delta.partial_json)
        if delta.stop_reason is not None:
            draft.finishes[0] = delta.stop_reason
    return draft.saying()


# Responses.


class _Part(msgspec.Struct, gc=False):
    text: str | None = None


class _Item(msgspec.Struct, gc=False):
    type: str = ""
    content: list[_Part] | None = None
    name: str | None = None
    arguments: str | None = None


class _Response(msgspec.Struct, gc=False):
    output: list[_Item] = []
    status: str | None = None


class _ResponseEvent(msgspec.Struct, gc=False):
    response: _Response | None = None


_RESPONSE = msgspec.json.Decoder(_Response)
_RESPONSE_EVENT = msgspec.json.Decoder(_ResponseEvent)


def _response(body: bytes) -> Saying:
    return _said(_RESPONSE.decode(body))


def _response_stream(body: bytes) -> Saying | None:
    """Read the last event that holds the response: it is the whole of it."""
    for event in reversed(list(_payloads(body))):
        if b'"response"' in event:
            response = _RESPONSE_EVENT.decode(event).response
            return None if response is None else _said(response)
    return None


def _said(response: _Response) -> Saying:
    draft = Draft()
    draft.say(0, None)
    draft.finishes[0] = response.status or ""
    for number, item in enumerate(response.output):
        if item.type == "function_call":
            draft.call((0, number), item.name, item.arguments)
        elif item.type == "message":
            for part in item.content or ():
                draft.say(0, part.text)
    return draft.saying()


# Embeddings and predictions.


class _Embedding(msgspec.Struct, gc=False):
    embedding: list[float] | str = []


class _Embeddings(msgspec.Struct, gc=False):
    data: list[_Embedding] = []


class _Prediction(msgspec.Struct, gc=False):
    label: str | int = msgspec.field(name="class", default="")
    confidence: float = 0.0
    embedding: list[float] | None = None


class _Predictions(msgspec.Struct, gc=False):
    predictions: list[_Prediction] | None = None
    results: list[_Predictions] | None = None
    """Of a request with several items; one that failed has no predictions."""


_EMBEDDINGS = msgspec.json.Decoder(_Embeddings)
_PREDICTIONS = msgspec.json.Decoder(_Predictions)


def _embeddings(body: bytes) -> Saying:
    found = _EMBEDDINGS.decode(body).data
    return Saying(vectors=tuple(_vector(one.embedding) for one in found))


def _vector(value: list[float] | str) -> tuple[float, ...]:
    if isinstance(value, list):
        return tuple(value)
    # `encoding_format: base64`: 32-bit floats, little-endian, as OpenAI's clients ask by default.
    packed = base64.b64decode(value, validate=True)
    return tuple(array("f", packed[: len(packed) // 4 * 4]))


def _predictions(body: bytes) -> Saying | None:
    whole = _PREDICTIONS.decode(body)
    items = [whole] if whole.results is None else whole.results
    if whole.predictions is None and whole.results is None:
        return None
    found = [item.predictions or [] for item in items]
    vectors = tuple(tuple(one.embedding) for item in found for one in item if one.embedding)
    if vectors:
        return Saying(vectors=vectors)
    return Saying(
        predictions=tuple(
            tuple(Prediction(str(one.label), one.confidence) for one in item) for item in found
        )
    )


_WHOLE: Mapping[str, Callable[[bytes], Saying | None]] = {
    "chat": _completion,
    "completions": _completion,
    "messages": _message,
    "responses": _response,
    "embeddings": _embeddings,
    "predict": _predictions,
}
_STREAMS: Mapping[str, Callable[[bytes], Saying | None]] = {
    "chat": _completion_stream,
    "completions": _completion_stream,
    "messages": _message_stream,
    "responses": _response_stream,
}

"""What does a streamed chat answer say?

Pure: bytes → events, as OpenAI's chat completions stream them. An answer is whole only if `Done`
was seen: a clean end of the connection proves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.relay.sse import EventSplitter, EventTooLargeError, payload, split


@dataclass(frozen=True, slots=True)
class Delta:
    """More of the answer."""

    text: str
    is_reasoning: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """Why the model stopped: `stop`, `length`, …."""

    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """How long the answer was, as the engine counted it."""

    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The server reported an error, or sent what cannot be understood."""

    message: str


@dataclass(frozen=True, slots=True)
class Done:
    """`[DONE]`: the answer is whole."""


Event = Delta | Finish | Usage | Failure | Done

_EXCERPT_CHARS = 200


def read_events(chunks: Iterable[bytes]) -> Iterator[Event]:
    """Yield what the bytes say, in any chunking, up to the first `Done` or `Failure`."""
    splitter = EventSplitter()
    try:
        for chunk in chunks:
            for frame in split(splitter.feed(chunk)):
                for event in _events(payload(frame)):
                    yield event
                    if isinstance(event, (Done, Failure)):
                        return
    except EventTooLargeError:
        yield Failure("the server sent an event that does not end")


def error_message(body: str) -> str:
    """Return the message in an error body of any of the shapes that servers use, or its start."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return _excerpt(body)
    if not isinstance(value, dict):
        return _excerpt(body)
    # OpenAI nests it; vLLM's key check has a text under "error"; FastAPI says "detail".
    error = value.get("error", value.get("detail"))
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) and message else _excerpt(body)


def _events(data: bytes | None) -> Iterator[Event]:
    if data is None:
        return
    if data.strip() == b"[DONE]":
        yield Done()
        return
    text = data.decode(errors="replace")
    try:
        chunk = json.loads(text)
    except (ValueError, RecursionError):
        chunk = None
    if not isinstance(chunk, dict):
        yield Failure(f"the server sent something that is not a chunk: {_excerpt(text)}")
        return
    if chunk.get("error"):
        yield Failure(error_message(text))
        return
    choices = chunk.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        yield from _choice(choices[0])
    usage = chunk.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if isinstance(tokens, int):
        yield Usage(tokens)


def _choice(choice: dict[str, object]) -> Iterator[Event]:
    delta = choice.get("delta")
    if isinstance(delta, dict):
        # vLLM ≥ 0.11 says `reasoning`; earlier ones and DeepSeek's API `reasoning_content`.
        for key in ("reasoning", "reasoning_content"):
            if isinstance(delta.get(key), str) and delta[key]:
                yield Delta(delta[key], is_reasoning=True)
                break
        if isinstance(delta.get("content"), str) and delta["content"]:
            yield Delta(delta["content"])
    reason = choice.get("finish_reason")
    if reason == "abort":
        yield Failure("the engine aborted the answer")
    elif isinstance(reason, str):
        yield Finish(reason)


def _excerpt(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _EXCERPT_CHARS else f"{text[:_EXCERPT_CHARS]}…"

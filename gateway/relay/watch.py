"""What do the events passing by say: is the stream healthy, is it complete, what did it cost?

Pure. One watcher sees one stream. A read whose events are all plain token chunks is recognised by
counting two byte patterns and passed on untouched; only the few other events of a stream (the
finish, the usage, an error) are decoded. A pattern with unescaped quotes cannot occur inside a
JSON string, so content never fools it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from gateway.model import Usage
from gateway.relay.sse import payload, split

DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises: for what is no JSON, or is nested deeper than can be read."""

MAX_COUNT = 10**12 - 1
"""The most tokens of one answer that are believed; twelve digits, as in `usage_of`."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an answer is not one: the engine said so, or broke off."""

    message: str
    overloaded: bool = False
    timeout: bool = False
    cut: bool = False
    """It broke off, or went silent, without a word."""


class Watcher(Protocol):
    """Sees the whole events of one stream, in order."""

    usage: Usage
    failure: Failure | None
    """Set once an event says that the answer failed; nothing after that event is passed on."""
    started: bool
    """Whether an event has passed that is part of an answer: the commit point."""
    ended: bool
    """Whether the protocol's own end mark has passed."""
    plain_mark: bytes | None
    """A byte pattern that stands once in each plain token event and in no other, if there is one.

    Whoever sees as many marks as events may pass them on unseen, and `count` them.
    """

    def see(self, events: bytes) -> bytes:
        """Return the bytes to pass on for a run of whole events."""

    def count(self, tokens: int) -> None:
        """Note plain events that were passed on unseen, one token each."""

    def closing(self) -> bytes | None:
        """Return what completes the stream after a clean end of bytes; None if it was cut short."""


class _Choice(msgspec.Struct, gc=False):
    finish_reason: Any = None


class _Usage(msgspec.Struct, gc=False):
    # vLLM's own schema lets counts be null; one that is says nothing.
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    input_tokens: int | None = 0  # The names of /v1/responses and /v1/messages.
    output_tokens: int | None = 0


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_CHUNK = msgspec.json.Decoder(_Chunk)
_PLAIN = b'"finish_reason":null'


class ChatWatcher:
    """Streams of `/v1/chat/completions` and `/v1/completions`: `data:` chunks, then `[DONE]`."""

    __slots__ = (
        "_choices",
        "_finished",
        "_strip_usage",
        "ended",
        "failure",
        "plain_mark",
        "started",
        "usage",
    )

    def __init__(self, choices: int, *, strip_usage: bool) -> None:
        self._choices = choices
        self._strip_usage = strip_usage
        self._finished = 0
        # One choice only: with more, two in one event could make up for one of another kind.
        self.plain_mark = _PLAIN if choices == 1 else None
        self.usage = Usage()
        self.failure: Failure | None = None
        self.started = False
        self.ended = False

    def count(self, tokens: int) -> None:
        """Count chunks without a finish reason: one token each, until usage says better."""
        if not self.usage.exact:
            self.usage.completion_tokens += tokens

    def see(self, events: bytes) -> bytes:
        """Pass on plain chunks; look into the rest."""
        count = events.count(b"\n\n")
        over = self.ended or self.failure is not None
        if self.plain_mark and 0 < count == events.count(self.plain_mark) and not over:
            self.count(count)
            self.started = True
            return events
        return b"".join([event for event in split(events) if self._keep(event)])

    def _keep(self, event: bytes) -> bool:
        if self.failure or self.ended:
            return False  # Whatever follows an error or the end mark belongs to no answer.
        data = payload(event)
        if data is None:
            return self.started  # A comment before the first token does not commit the answer.
        if data == b"[DONE]":
            # Nothing but an end mark is no answer; the caller sees `started` False.
            self.ended = True
            return self.started
        try:
            chunk = _CHUNK.decode(data)
        except DECODE_ERRORS:
            self.failure = Failure("The engine sent an event that is not JSON.")
            return False
        if chunk.error is not None:
            self.failure = read_error(chunk.error)
            return False
        return self._count(chunk)

    def _count(self, chunk: _Chunk) -> bool:
        usage = chunk.usage
        if usage is not None:
            if usage.completion_tokens is not None:
                self.usage = exact(usage.prompt_tokens or 0, usage.completion_tokens)
            if not chunk.choices and self._strip_usage:
                return False
        for choice in chunk.choices or ():
            if choice.finish_reason == "abort":
                self.failure = Failure("The engine aborted the answer.")
                return False
            self._finished += choice.finish_reason is not None
        if usage is None:
            self.count(1)
        self.started = True
        return True

    def closing(self) -> bytes | None:
        """Add the `[DONE]` that an engine forgot, if every choice had its finish reason."""
        if self.ended:
            return b""
        return b"data: [DONE]\n\n" if self._finished >= self._choices else None


class _Event(msgspec.Struct, gc=False):
    type: str = ""
    response: _Chunk | None = None
    message: Any = None
    usage: _Usage | None = None
    error: Any = None


_EVENT = msgspec.json.Decoder(_Event)
_DELTA = re.compile(rb'"type":\s?"(?:content_block_delta|response\.output_text\.delta)"')
_DELTAS = frozenset({"content_block_delta", "response.output_text.delta"})
_ENDS = frozenset({"message_stop", "response.completed", "response.incomplete"})


class TypedWatcher:
    """Streams of `/v1/responses` and `/v1/messages`: typed events up to an end event."""

    __slots__ = ("ended", "failure", "started", "usage")
    plain_mark: bytes | None = None  # Two kinds of delta: one pattern does not tell them.

    def __init__(self) -> None:
        self.usage = Usage()
        self.failure: Failure | None = None
        self.started = False
        self.ended = False

    def count(self, tokens: int) -> None:
        """Count text deltas: one token each, until usage says better."""
        if not self.usage.exact:
            self.usage.completion_tokens += tokens

    def see(self, events: bytes) -> bytes:
        """Pass on deltas; look into the rest."""
        count = events.count(b"\n\n")
        over = self.ended or self.failure is not None
        if 0 < count == len(_DELTA.findall(events)) and not over:
            self.count(count)
            self.started = True
            return events
        return b"".join([event for event in split(events) if self._keep(event)])

    def _keep(self, event: bytes) -> bool:
        if self.failure:
            return False
        data = payload(event)
        if data is None or data == b"[DONE]":
            return self.started
        try:
            seen = _EVENT.decode(data)
        except DECODE_ERRORS:
            self.failure = Failure("The engine sent an event that is not JSON.")
            return False
        if seen.type in {"error", "response.failed"} or seen.error is not None:
            self.failure = read_error(seen.error or seen.message)
            return False
        usage = seen.usage or (seen.response.usage if seen.response else None)
        if usage is not None and usage.output_tokens is not None:
            self.usage = exact(usage.input_tokens or self.usage.prompt_tokens, usage.output_tokens)
        elif seen.type in _DELTAS:
            self.count(1)
        self.started = True
        self.ended = self.ended or seen.type in _ENDS
        return True

    def closing(self) -> bytes | None:
        """Add nothing: without its end event the stream was cut."""
        return b"" if self.ended else None


def read_error(error: object) -> Failure:
    """Read an in-band `error` value, an object as OpenAI's or a bare string."""
    if isinstance(error, dict):
        message, code = error.get("message"), error.get("code")
        return Failure(f"The engine failed: {message or 'no reason given'}", code in (429, 503))
    return Failure(f"The engine failed: {error or 'no reason given'}")


def exact(prompt: int, completion: int) -> Usage:
    """Return what an engine has counted, within what a counter can take."""
    return Usage(min(max(prompt, 0), MAX_COUNT), min(max(completion, 0), MAX_COUNT), exact=True)


# As vLLM writes it; the other two find the numbers in any order and under either API's names.
_VLLM_USAGE = re.compile(
    rb'"usage":\{"prompt_tokens":(\d{1,12}),"total_tokens":\d+(?:,"completion_tokens":(\d{1,12}))?'
)
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens": ?(\d{1,12})')
_COMPLETION = re.compile(rb'"(?:completion|output)_tokens": ?(\d{1,12})')


def usage_of(body: bytes) -> Usage:
    """Read the token counts of a whole JSON answer; zeros where it has none.

    Engines write `usage` near the end, so the search begins there and a long answer or a large
    embedding is not scanned.
    """
    at = body.rfind(b'"usage":')
    if at < 0:
        return Usage()
    match = _VLLM_USAGE.match(body, at)
    if match is not None:
        return Usage(int(match[1]), int(match[2] or 0), True)
    prompt, completion = _PROMPT.search(body, at), _COMPLETION.search(body, at)
    return Usage(
        int(prompt[1]) if prompt else 0, int(completion[1]) if completion else 0, exact=True
    )


_ERROR = re.compile(rb'\s*\{\s*"error"\s*:\s*[^n\s]')  # Not null.


def failure_of(body: bytes) -> Failure | None:
    """Say whether a whole JSON answer with status 200 is an error in disguise."""
    if _ERROR.match(body):
        try:
            error = msgspec.json.decode(body).get("error")
        except DECODE_ERRORS:
            return Failure("The engine sent an answer that is not JSON.")
        return read_error(error) if error is not None else None
    # rfind() with a long pattern takes a third of the time of `in`.
    if body.rfind(b'"finish_reason":"abort"') >= 0 or body.rfind(b'"finish_reason": "abort"') >= 0:
        return Failure("The engine aborted the answer.")
    return None

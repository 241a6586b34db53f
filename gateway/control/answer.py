"""What does an answer of the data path say: its text, its token count, whether it is whole?

Pure. Only routes outside the hot path look into answers; they decode every chunk.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gateway.errors import GatewayError, upstream_error
from gateway.relay.sse import EventSplitter, EventTooLargeError, payload, split


class AnswerError(Exception):
    """An answer that began well ends as an error; `body` is the error as a JSON object's bytes."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body.decode(errors="replace"))
        self.body = body


class Part(msgspec.Struct, frozen=True):
    """A chat message, or the piece of one."""

    content: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """One of the answers: `text` in completions, `message` or `delta` in chat."""

    text: str | None = None
    message: Part | None = None
    delta: Part | None = None


class Count(msgspec.Struct, frozen=True):
    """The engine's own count."""

    completion_tokens: int | None = None


class Chunk(msgspec.Struct, frozen=True):
    """A whole answer or one event of a stream; both have the same outline."""

    choices: tuple[Choice, ...] = ()
    usage: Count | None = None
    error: object = None

    @property
    def text(self) -> str:
        """The text of the first choice, which is the only one that these routes ask for."""
        if not self.choices:
            return ""
        choice = self.choices[0]
        part = choice.message or choice.delta
        return (part.content if part is not None else choice.text) or ""

    @property
    def tokens(self) -> int | None:
        """Tokens generated so far, where this chunk says it."""
        return self.usage.completion_tokens if self.usage is not None else None


_DECODER = msgspec.json.Decoder(Chunk)


def read_whole(body: bytes) -> Chunk:
    """Decode a plain answer. Raises `GatewayError` 502 when the engine sent something else."""
    try:
        return _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _unreadable() from None


class StreamReader:
    """Bytes of an SSE answer, in any pieces → its chunks; knows whether it came to its end."""

    __slots__ = ("_done", "_splitter")

    def __init__(self) -> None:
        self._splitter = EventSplitter()
        self._done = False

    def feed(self, data: bytes) -> Iterator[tuple[bytes, Chunk]]:
        """Yield each chunk that `data` completes, as its JSON text and decoded.

        Raises `AnswerError` at an error event, and at an event that is no chunk.
        """
        try:
            events = self._splitter.feed(data)
        except EventTooLargeError:
            raise AnswerError(_unreadable().body()) from None
        for event in split(events):
            text = payload(event)
            if text is None or self._done:
                continue
            if text.strip() == b"[DONE]":
                self._done = True
                continue
            yield text, _read_chunk(text)

    def end(self) -> None:
        """Note the end of the bytes. Raises `AnswerError` unless the stream had said its own."""
        if not self._done:
            raise AnswerError(cut_short().body())


def _read_chunk(text: bytes) -> Chunk:
    try:
        chunk = _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise AnswerError(_unreadable().body()) from None
    if chunk.error is not None:
        raise AnswerError(text)
    return chunk


def as_error(status: int, body: bytes) -> bytes:
    """Return the body of an error answer as `{"error": {…}}`, for those who see no status.

    Some engine errors have another shape: vLLM says `{"error":"Unauthorized"}` and `{"detail":…}`.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    if isinstance(value, dict) and isinstance(value.get("error"), dict):
        return msgspec.json.encode(value)
    shown = body[:500].decode(errors="replace")
    return GatewayError(status, "upstream_error", f"The engine answered {status}: {shown}").body()


def cut_short() -> GatewayError:
    """The answer stopped, and not because it was complete."""
    return upstream_error("The engine's answer ended before its end.")


def _unreadable() -> GatewayError:
    return upstream_error("The engine's answer could not be read.")

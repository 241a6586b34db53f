"""What has the client of one stream been given, should another endpoint have to go on with it?

Pure. While a stream runs, its events are only kept, by reference. They are decoded when a resume
asks for `state`, or when `FOLD_READS` have come together, so that a long stream keeps its text and
not its events: 0.4 µs for an event then, and nothing for the streams that end sooner.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from gateway.relay.alike import Frame, frame_of
from gateway.relay.delivered import TEXT_CHARACTERS, Delivered, Obstacle
from gateway.relay.sse import payload, split
from gateway.relay.watch import DECODE_ERRORS

FOLD_READS = 256
"""Reads kept before they are decoded: 64 KiB at the 250 bytes of a token's event.

`Flow` takes none over 4 KiB, so that 1 MiB is the worst.
"""
_FIRST_READS = 4  # Enough to see how the engine writes a token.
FOLD_BYTES = 64 * 1024
"""Bytes of `plain` events kept before they are decoded; they may be large."""


class _OtherContentError(Exception):
    """A delta carries something that is neither text nor a tool call."""


class _Delta(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None  # vLLM since 0.12; the next is its older name, and others'.
    reasoning_content: str | None = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: Any = None
    logprobs: Any = None


class _Usage(msgspec.Struct, gc=False):
    completion_tokens: Any = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None


class _Head(msgspec.Struct, gc=False):
    id: str | None = None
    created: int | None = None
    model: str | None = None


_CHUNK = msgspec.json.Decoder(_Chunk)
_HEAD = msgspec.json.Decoder(_Head)
_DELTA_KEYS = frozenset(_Delta.__struct_fields__)


class Transcript:
    """Keeps the events of one stream, as they were shown to its client.

    The shortest way in is for the one who passes reads on to do `reads.append(read)` for a read in
    chunked coding, and `fold()` when there are `FOLD_READS`: 45 ns. `chunked` does the same in
    100 ns.
    """

    __slots__ = (
        "_count",
        "_finished",
        "_frame",
        "_head",
        "_in_reasoning",
        "_logprobs",
        "_obstacle",
        "_plain_bytes",
        "_reasoning",
        "_role",
        "_size",
        "_text",
        "reads",
    )

    def __init__(self) -> None:
        self.reads: list[bytes | tuple[bytes]] = []
        """Reads not decoded yet: bytes in chunked coding, and tuples around plain events."""
        self._plain_bytes = 0
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._size = 0
        self._head = _Head()
        self._frame: Frame | None = None
        self._in_reasoning = False
        self._count = 0
        self._role = self._finished = self._logprobs = False
        self._obstacle: Obstacle | None = None

    def chunked(self, read: bytes) -> None:
        """Keep a read that is exactly one chunk of whole events, in its chunked coding."""
        reads = self.reads
        reads.append(read)
        if len(reads) >= FOLD_READS:
            self.fold()

    def plain(self, events: bytes) -> None:
        """Keep a run of whole events."""
        if not events:
            return
        # The tuple tells it from a chunk: no bytes could, an event may begin like a size line.
        self.reads.append((events,))
        self._plain_bytes += len(events)
        if len(self.reads) >= FOLD_READS or self._plain_bytes >= FOLD_BYTES:
            self.fold()

    def state(self) -> Delivered:
        """Decode what is kept and return what the client has by now."""
        self.fold()
        return Delivered(
            "".join(self._text),
            "".join(self._reasoning),
            self._head.id or "",
            self._head.created or 0,
            self._head.model or "",
            role=self._role,
            finished=self._finished,
            tokens=self._count,
            logprobs=self._logprobs,
            obstacle=self._obstacle,
        )

    def fold(self) -> None:
        """Decode the reads that are kept into text, and let go of them."""
        # A chunk has its events between its size line and its own CRLF.
        runs = [
            read[read.find(b"\n") + 1 : -2] if isinstance(read, bytes) else read[0]
            for read in self.reads
        ]
        self.reads.clear()  # In place: others append to this very list.
        self._plain_bytes = 0
        if self._obstacle is not None:
            return
        kept = len(self._text), len(self._reasoning)
        try:
            if self._frame is None and len(runs) > _FIRST_READS:
                self._take(runs[:_FIRST_READS])
                del runs[:_FIRST_READS]
            if self._obstacle is None and not self._take_alike(runs):
                self._take(runs)
        except _OtherContentError:
            self._obstacle = Obstacle.OTHER
        except DECODE_ERRORS:
            self._obstacle = Obstacle.UNREADABLE
        # One string for many: a token's string costs ten times its characters.
        self._size += _merge(self._text, kept[0]) + _merge(self._reasoning, kept[1])
        if self._size > TEXT_CHARACTERS and self._obstacle is None:
            self._obstacle = Obstacle.TOO_LONG
        if self._obstacle is not None:
            self._text.clear()
            self._reasoning.clear()

    def _take_alike(self, runs: list[bytes]) -> bool:
        """Take runs that are all one token in the known frame; say whether they are."""
        text = None if self._frame is None else self._frame.text_of(runs)
        if text is not None:
            (self._reasoning if self._in_reasoning else self._text).append(text)
            self._count += len(runs)
        return text is not None

    def _take(self, runs: list[bytes]) -> None:
        """Decode each event. Raises one of `DECODE_ERRORS`, or `_OtherContentError`."""
        events = b"".join(runs)
        if not self._head.id:
            self._head = _first_head(events)
        chunks = _decode(events)
        for chunk in chunks:
            self._add(chunk)
        if chunks:
            self._learn(chunks[-1], runs[-1])

    def _learn(self, chunk: _Chunk, run: bytes) -> None:
        """Note how the engine writes a token, from the last event."""
        self._frame = None
        if run.count(b"\n\n") != 1:
            return
        if chunk.usage is not None or not chunk.choices or len(chunk.choices) != 1:
            return
        choice = chunk.choices[0]
        delta = choice.delta or _Delta(content=choice.text)
        if choice.logprobs or choice.finish_reason is not None or delta.role is not None:
            return
        reasoning = delta.reasoning or delta.reasoning_content
        text = delta.content or reasoning
        if text:
            self._in_reasoning = not delta.content
            self._frame = frame_of(run, text)

    def _add(self, chunk: _Chunk) -> None:
        for choice in chunk.choices or ():
            delta, text = choice.delta, choice.text
            if choice.index:
                self._obstacle = Obstacle.CHOICES
            if choice.logprobs:
                self._logprobs = True
            if choice.finish_reason is not None:
                self._finished = True
            if delta is not None:
                text = delta.content
                if delta.role is not None:
                    self._role = True
                    # The chunk that only names the role is no token.
                    self._count -= not (text or delta.reasoning or delta.reasoning_content)
                self._add_rare(delta)
            if text:
                self._text.append(text)
            self._count += 1
        if chunk.usage is not None and isinstance(chunk.usage.completion_tokens, int):
            self._count = chunk.usage.completion_tokens

    def _add_rare(self, delta: _Delta) -> None:
        # Some versions of engines write both names, with the same text.
        reasoning = delta.reasoning or delta.reasoning_content
        if reasoning:
            self._reasoning.append(reasoning)
        if delta.tool_calls or delta.function_call:
            self._obstacle = Obstacle.CALL
        elif delta.refusal:
            self._obstacle = Obstacle.REFUSAL


def _merge(pieces: list[str], start: int) -> int:
    """Join the pieces from `start` on into one; return its length."""
    joined = "".join(pieces[start:])
    pieces[start:] = [joined] if joined else []
    return len(joined)


def _first_head(events: bytes) -> _Head:
    """Return id, time and model of the first chunk that names them."""
    for event in split(events):
        data = payload(event)
        if data is None:
            continue
        try:
            head = _HEAD.decode(data)
        except DECODE_ERRORS:
            continue  # The end mark; what else cannot be read is found by the next who looks.
        if head.id:
            return head
    return _Head()


def _decode(events: bytes) -> list[_Chunk]:
    """Return the chunks in a run of whole events. Raises one of `DECODE_ERRORS`."""
    if events.startswith(b"data: "):
        # As engines write them: one line each. No JSON string has a line feed in it.
        lines = events[6:].replace(b"\n\ndata: ", b"\n")
        try:
            chunks = _CHUNK.decode_lines(lines)
        except DECODE_ERRORS:
            chunks = []
        if events.count(b"\n") == 2 * len(chunks) and lines.count(b"\n") == len(chunks) + 1:
            return chunks
    return list(_decode_each(events))


def _decode_each(events: bytes) -> Iterator[_Chunk]:
    for event in split(events):
        data = payload(event)
        if data is not None and data != b"[DONE]":
            try:
                yield _CHUNK.decode(data)
            except msgspec.ValidationError:
                yield _decode_odd(data)


def _decode_odd(data: bytes) -> _Chunk:
    """Return a chunk whose delta has fields of its own; those that say nothing do not matter."""
    value = msgspec.json.decode(data)
    choices = value.get("choices") if isinstance(value, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        delta = choice.get("delta") if isinstance(choice, dict) else None
        if isinstance(delta, dict):
            for key in delta.keys() - _DELTA_KEYS:
                if delta.pop(key):
                    raise _OtherContentError
    return msgspec.convert(value, _Chunk)

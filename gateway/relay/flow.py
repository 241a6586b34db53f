"""How does a token get from socket to socket with the least work?

The way of nearly every read of a stream: exactly one chunk of chunked coding, exactly whole plain
events in it. Such a read goes out as it came: no copy, no parse, no object made.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.relay.transcript import FOLD_READS, Transcript

_LARGEST = 4096
"""Chunks of more bytes take the parser's way; a token's event has about 250."""


def _chunk_heads() -> list[bytes | None]:
    """Return, by the length of a whole chunk in its coding, the size line that it begins with."""
    heads: list[bytes | None] = [None] * (_LARGEST + 1)
    for size in range(1, _LARGEST):
        line = b"%x\r\n" % size
        length = len(line) + size + 2
        if length <= _LARGEST:
            heads[length] = line
    return heads


_HEADS = tuple(_chunk_heads())


class Gaps(Protocol):
    """A histogram of seconds between two reads of a stream."""

    bounds: Sequence[float]
    counts: list[int]
    sum: float

    def observe(self, value: float) -> None:
        """Count one gap."""


class Flow:
    """One stream's shortcut past parser, splitter and watcher."""

    __slots__ = ("_gaps", "_kept", "_mark", "_monotonic", "_reads", "_write", "last_at", "tokens")

    def __init__(
        self,
        write: Callable[[bytes], None],
        mark: bytes,
        gaps: Gaps,
        monotonic: Callable[[], float],
        kept: Transcript | None = None,
    ) -> None:
        """`mark` stands once in every plain event and in no other (`Watcher.plain_mark`).

        `kept` keeps each read that is passed on.
        """
        self._write = write
        self._mark = mark
        self._gaps = gaps
        self._monotonic = monotonic
        self._kept = kept
        self._reads = None if kept is None else kept.reads
        self.last_at = 0.0
        """When the last read came, in monotonic seconds."""
        self.tokens = 0
        """Plain events passed on, one token each."""

    def take(self, data: bytes) -> bool:
        """Pass one read on if it may be; say whether it was. About 0.7 µs.

        Size line and length must agree (RFC 9112 §7.1); a size written otherwise than `%x`, with
        an extension, say, is as valid, and left to the parser.
        """
        length = len(data)
        if length > _LARGEST or not data.endswith(b"\n\n\r\n"):
            return False
        head = _HEADS[length]
        if head is None or not data.startswith(head):
            return False
        count = data.count(self._mark)
        if count == 0 or data.count(b"\n\n") != count:
            return False
        now = self._monotonic()
        gap = now - self.last_at
        self.last_at = now
        gaps = self._gaps
        gaps.counts[bisect_left(gaps.bounds, gap)] += 1
        gaps.sum += gap
        self.tokens += count
        reads = self._reads
        if reads is not None:  # `Transcript.chunked`, but for the call.
            reads.append(data)
            if len(reads) >= FOLD_READS and self._kept is not None:
                self._kept.fold()
        self._write(data)
        return True

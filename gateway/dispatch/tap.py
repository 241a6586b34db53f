"""What did a client get, for somebody who compares answers later?

A `Tap` stands between the proxy core and the client's exchange. All goes on unchanged and at once;
what goes is kept by reference, so that a chunk costs an append and no copy. A `Sink` keeps in the
same way what nobody gets.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.telemetry.record import Record
from gateway.wire.types import Downstream, Source

MOST_BYTES = 1024 * 1024
"""A longer answer is not compared. It is 4,000 tokens at the 250 bytes of a token's event, and
with as many copies under way as `max_concurrency` allows it bounds the memory that mirrors take."""

_FOLD_READS = 256
"""Reads kept between two looks at their size. One that skips the parser has 4 KiB at the most."""


class Kept:
    """The body of one answer as it passed by, unless it is too long."""

    __slots__ = ("_most_bytes", "_on_full", "_seen", "full", "reads", "size")

    def __init__(
        self, most_bytes: int = MOST_BYTES, on_full: Callable[[], None] | None = None
    ) -> None:
        """`on_full` hears once that the answer is too long."""
        self.reads: list[bytes | tuple[bytes]] = []
        """Reads in chunked coding, and tuples around what is in none. Emptied in place only."""
        self.full = False
        """Whether the answer is longer than what is kept, or not wanted: then nothing is."""
        self._most_bytes = most_bytes
        self._on_full = on_full
        self.size = 0
        """Bytes that were kept or dropped, as of the last `fold`; coded as they came."""
        self._seen = 0  # How many of the reads are counted.

    def plain(self, data: bytes) -> None:
        """Keep a piece of the body that is in no coding."""
        if data:
            self.reads.append((data,))
            self.size += len(data) - 1  # A tuple has a length of 1 of its own.
            self.fold()

    def fold(self) -> None:
        """Count what has come since the last time, and let go of it all if it is too much."""
        reads = self.reads
        self.size += sum(map(len, reads[self._seen :]))  # 20 ns a read.
        self._seen = len(reads)
        if self.full:
            self.drop()
        elif self.size > self._most_bytes:
            self.drop()
            if self._on_full is not None:
                self._on_full()

    def drop(self) -> None:
        """Let go of what is kept, and of what will come."""
        self.full = True
        self.reads.clear()
        self._seen = 0

    def body(self) -> bytes:
        """Return the body so far without its chunked coding; b"" if it is too long."""
        self.fold()
        # A chunk has its data between its size line and its own CRLF.
        return b"".join(
            [
                read[read.find(b"\n") + 1 : -2] if isinstance(read, bytes) else read[0]
                for read in self.reads
            ]
        )


class Tap:
    """A client's exchange (`gateway.wire.types.Downstream`) whose answer is kept, too."""

    __slots__ = ("_down", "_told", "kept", "started")

    def __init__(
        self,
        down: Downstream,
        told: Callable[[Record], None] | None = None,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """`told` hears of the request's end."""
        self._down = down
        self._told = told
        self.kept = Kept(most_bytes)
        self.started = down.started

    def end(self, record: Record) -> None:
        """The request has ended and is recorded: nothing more is owed to it."""
        told, self._told = self._told, None
        if told is not None:
            told(record)

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Answer with a whole response."""
        self.started = True
        self._down.respond(status, headers, body)
        self.kept.plain(body)

    def start(self, status: int, headers: bytes, length: int | None) -> None:
        """Begin a response whose body follows."""
        self.started = True
        self._down.start(status, headers, length)

    def attach(self, source: Source) -> None:
        """Name what the body comes from."""
        self._down.attach(source)

    def detach(self) -> None:
        """Let go of the source."""
        self._down.detach()

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        self._down.write(data)
        self.kept.plain(data)

    def raw_writer(self) -> Callable[[bytes], None] | None:
        """Return what writes bytes that are in chunked coding, one whole chunk at a time."""
        write = self._down.raw_writer()
        return None if write is None else _tapped(write, self.kept)

    def finish(self, data: bytes = b"") -> None:
        """Send the last piece and end the response."""
        self._down.finish(data)
        self.kept.plain(data)

    def abort(self) -> None:
        """Cut the connection."""
        self._down.abort()


class Sink:
    """Where an answer goes that is for nobody (a `Downstream`): it is kept, and no more."""

    __slots__ = ("kept", "started")

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.started = False

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Keep a whole response's body."""
        self.start(status, headers, len(body))
        self.kept.plain(body)

    def start(self, status: int, headers: bytes, length: int | None) -> None:
        """Begin: the reply itself tells its status, and the rest is for nobody."""
        self.started = True

    def attach(self, source: Source) -> None:
        """Do nothing: who keeps is never too slow."""

    def detach(self) -> None:
        """Do nothing, as `attach`."""

    def write(self, data: bytes) -> None:
        """Keep a piece of the body."""
        self.kept.plain(data)

    def raw_writer(self) -> Callable[[bytes], None]:
        """Return what keeps bytes that are in chunked coding."""
        return _tapped(_ignore, self.kept)

    def finish(self, data: bytes = b"") -> None:
        """Keep the last piece."""
        self.kept.plain(data)

    def abort(self) -> None:
        """Do nothing: the reply says that it failed."""


def _tapped(write: Callable[[bytes], None], kept: Kept) -> Callable[[bytes], None]:
    """Return what writes and keeps: 0.1 µs more than writing."""
    append, fold = kept.reads.append, kept.fold
    left = _FOLD_READS

    def tapped(data: bytes) -> None:
        nonlocal left
        write(data)
        append(data)
        left -= 1
        if not left:
            left = _FOLD_READS
            fold()

    return tapped


def _ignore(data: bytes) -> None:
    del data

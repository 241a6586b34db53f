"""What a client gets passes on unchanged, and is kept up to a bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.tap import Kept, Sink, Tap
from gateway.telemetry.record import Record
from gateway.wire.types import Downstream, Source
from tests.support.engine import chunk

SOURCE: Any = object()


class Client:
    """Remembers what it is told, in order."""

    def __init__(self, *, chunked: bool = True, started: bool = False) -> None:
        self.heard: list[Any] = []
        self.started = started
        self._chunked = chunked

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self.heard.append(("respond", status, headers, body))

    def start(self, status: int, headers: bytes, length: int | None) -> None:
        self.heard.append(("start", status, headers, length))

    def attach(self, source: Source) -> None:
        self.heard.append(("attach", source))

    def detach(self) -> None:
        self.heard.append(("detach",))

    def write(self, data: bytes) -> None:
        self.heard.append(("write", data))

    def raw_writer(self) -> Callable[[bytes], None] | None:
        return (lambda data: self.heard.append(("raw", data))) if self._chunked else None

    def finish(self, data: bytes = b"") -> None:
        self.heard.append(("finish", data))

    def abort(self) -> None:
        self.heard.append(("abort",))


def raw(down: Downstream) -> Callable[[bytes], None]:
    write = down.raw_writer()
    assert write is not None
    return write


def test_a_stream_passes_on_and_is_kept() -> None:
    """Through both ways that it may take, in its order; what is kept is in no coding."""
    client = Client()
    tap = Tap(client)
    assert not tap.started
    tap.start(200, b"a: b\r\n", None)
    assert tap.started
    tap.attach(SOURCE)
    tap.write(b"one ")
    write = raw(tap)
    write(chunk(b"two "))
    tap.write(b"three ")
    write(chunk(b"x" * 300))
    tap.detach()
    tap.finish(b" four")
    assert client.heard == [
        ("start", 200, b"a: b\r\n", None),
        ("attach", SOURCE),
        ("write", b"one "),
        ("raw", chunk(b"two ")),
        ("write", b"three "),
        ("raw", chunk(b"x" * 300)),
        ("detach",),
        ("finish", b" four"),
    ]
    assert tap.kept.body() == b"one two three " + b"x" * 300 + b" four"
    assert not tap.kept.full


def test_a_whole_answer_passes_on_and_is_kept() -> None:
    """By reference: the very bytes."""
    client = Client()
    tap = Tap(client)
    body = b"y" * 1000
    tap.respond(404, b"", body)
    assert client.heard == [("respond", 404, b"", body)]
    assert tap.started
    assert tap.kept.body() == body
    assert tap.kept.reads[0][0] is body


def test_what_ends_without_a_word_ends_so() -> None:
    """An aborted exchange is aborted; an empty last piece is none."""
    client = Client()
    tap = Tap(client)
    tap.start(200, b"", 9)
    tap.abort()
    tap.finish()
    assert client.heard[1:] == [("abort",), ("finish", b"")]
    assert tap.kept.reads == []


def test_a_client_without_chunks_has_no_raw_writer() -> None:
    """HTTP/1.0, for one. And who has begun already stays so."""
    tap = Tap(Client(chunked=False, started=True))
    assert tap.raw_writer() is None
    assert tap.started


def test_the_end_is_told_once() -> None:
    """With the record."""
    told: list[Record] = []
    tap = Tap(Client(), told.append)
    record = Record("chat", b"r", "", 0.0)
    tap.end(record)
    tap.end(record)
    assert told == [record]
    Tap(Client()).end(record)


def test_what_is_too_long_is_let_go_of_and_passes_on() -> None:
    """The bound holds for pieces and for raw reads, to the reads of one fold."""
    client = Client()
    tap = Tap(client, most_bytes=1000)
    tap.write(b"a" * 1000)
    assert not tap.kept.full
    tap.write(b"b")
    assert tap.kept.full
    assert tap.kept.reads == []
    assert tap.kept.body() == b""
    tap.write(b"c")
    assert client.heard[-1] == ("write", b"c")
    write = raw(tap)
    for _ in range(1000):
        write(chunk(b"d"))
    assert len(tap.kept.reads) <= 256
    assert len(client.heard) == 1003


def test_raw_reads_are_counted_now_and_then() -> None:
    """Each 256: until then they are kept."""
    tap = Tap(Client(), most_bytes=1000)
    write = raw(tap)
    for _ in range(255):
        write(chunk(b"d" * 10))
    assert not tap.kept.full
    write(chunk(b"d" * 10))
    assert tap.kept.full
    assert tap.kept.reads == []


def test_who_asks_for_the_body_counts_what_is_left() -> None:
    """A read too much shows even where no fold came after it."""
    kept = Kept(most_bytes=10)
    kept.reads.append(chunk(b"e" * 20))
    assert kept.body() == b""
    assert kept.full


def test_somebody_hears_of_too_much_once() -> None:
    """And nobody of what was dropped because nobody wants it."""
    heard: list[int] = []
    kept = Kept(10, lambda: heard.append(1))
    kept.plain(b"f" * 10)
    assert not heard
    kept.plain(b"g")
    kept.plain(b"g" * 20)
    assert heard == [1]
    dropped = Kept(10, lambda: heard.append(2))
    dropped.drop()
    dropped.plain(b"h" * 20)
    assert heard == [1]
    assert dropped.reads == []


def test_a_sink_keeps_in_the_same_way() -> None:
    """Whole answers and streams; nobody gets anything."""
    sink = Sink(Kept())
    sink.respond(200, b"", b"whole")
    assert sink.started
    assert sink.kept.body() == b"whole"
    sink = Sink(Kept())
    assert not sink.started
    sink.start(200, b"", None)
    assert sink.started
    sink.attach(SOURCE)
    sink.write(b"a")
    sink.raw_writer()(chunk(b"b"))
    sink.detach()
    sink.finish(b"c")
    sink.abort()
    assert sink.kept.body() == b"abc"


@given(
    pieces=st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=40)), max_size=600),
    most=st.integers(0, 4000),
)
def test_any_pieces(pieces: list[tuple[bool, bytes]], most: int) -> None:
    """All of it is kept, or nothing where its coded bytes are more than the bound."""
    tap = Tap(Client(), most_bytes=most)
    write = raw(tap)
    size = 0
    for is_raw, piece in pieces:
        data = chunk(piece) if is_raw else piece
        size += len(data)
        (write if is_raw else tap.write)(data)
    body = tap.kept.body()
    assert tap.kept.full is (size > most)
    assert body == (b"" if size > most else b"".join(piece for _, piece in pieces))


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_size_counts_all_bytes(size: int) -> None:
    """As they came, coded or not."""
    kept = Kept()
    kept.plain(b"z" * size)
    kept.reads.append(chunk(b"abc"))
    kept.fold()
    assert kept.size == size + len(chunk(b"abc"))

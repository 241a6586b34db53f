"""However an engine's bytes are cut into reads, the client gets the same answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.model import Usage
from gateway.relay.reply import Reply
from gateway.relay.watch import ChatWatcher
from gateway.telemetry.metrics import Histogram
from gateway.wire.connection import Connection
from gateway.wire.types import Source
from gateway.wire.upstream import Address, Client
from tests.support.control import ManualClock
from tests.support.engine import (
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    chunk,
    event,
    finish,
    response,
    token,
    usage,
)


class FakeTransport(asyncio.Transport):
    """A socket to an engine whose bytes the test hands over itself."""

    closed = False

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return True

    def abort(self) -> None:
        self.closed = True


class ChunkedClient:
    """The client's side as our protocol writes it: what goes out in chunked coding."""

    def __init__(self, *, shortcut: bool) -> None:
        self.started = False
        self.shortcut = shortcut
        self.sent = b""
        self.end = ""

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        self.sent, self.end = body, "whole"

    def start(self, status: int, headers: bytes, length: int | None) -> None:
        self.started = True

    def attach(self, source: Source) -> None:
        """Nobody is slow here."""

    def detach(self) -> None:
        """Nobody is slow here."""

    def write(self, data: bytes) -> None:
        self.sent += data

    def raw_writer(self) -> Callable[[bytes], None] | None:
        return self._raw if self.shortcut else None

    def _raw(self, data: bytes) -> None:
        line, _, rest = data.partition(b"\r\n")
        assert len(rest) == int(line, 16) + 2
        self.sent += rest[:-2]

    def finish(self, data: bytes = b"") -> None:
        self.sent += data
        self.end = "whole"

    def abort(self) -> None:
        raise AssertionError("only the core cuts a client off")


Result = tuple[bytes, str, bytes, Usage | None, bool]


async def relay(
    client: Client, connection: Connection, reads: list[bytes], *, eof: bool, shortcut: bool
) -> Result:
    """Carry one exchange; say what the client has at its end, and whether the socket is kept."""
    clock = ManualClock()
    gaps = Histogram((1.0,))
    reply = Reply(lambda: ChatWatcher(1, strip_usage=True), None, gaps, clock.monotonic)
    down = ChunkedClient(shortcut=shortcut)
    committed = False
    connection.send(b"request", reply, 0.0, math.inf)
    for read in reads:
        connection.data_received(read)
        if reply.ready and not committed and reply.failure is None:
            committed = True
            reply.splice(down, b"")
    if eof:
        connection.connection_lost(None)
        if reply.ready and not committed and reply.failure is None:
            committed = True
            reply.splice(down, b"")
    held = b"" if committed else reply.body  # A failure in the first read is not committed.
    failure = "" if reply.failure is None else reply.failure.message
    kept = client.take(0.0) is connection
    return down.sent, down.end or failure, held, reply.usage(), kept


async def exchange(
    responses: list[list[bytes]], *, eof: bool = False, shortcut: bool = True
) -> list[Result]:
    """Carry exchanges over one connection, each response in the given reads."""
    client = Client(Address("127.0.0.1", 1), lambda: 0.0)
    connection = Connection(client)
    connection.connection_made(FakeTransport())
    results: list[Result] = []
    for reads in responses:
        results.append(await relay(client, connection, reads, eof=eof, shortcut=shortcut))
        if not results[-1][-1]:
            break
    return results


def talk(responses: list[list[bytes]], *, eof: bool = False, shortcut: bool = True) -> Any:
    with asyncio.Runner() as runner:
        return runner.run(exchange(responses, eof=eof, shortcut=shortcut))


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if end > start]


PLAIN = [token("a"), token("b"), token("c" * 20)]
OTHERS = [finish(), usage(7, 3), DONE, b": ping\n\n", event({"error": "no"})]
TAILS = st.sampled_from([b"", token("x")[:40]])
EVENTS = st.lists(st.sampled_from(PLAIN * 3 + OTHERS), min_size=1, max_size=10)
CUTS = st.lists(st.integers(0, 4000), max_size=14)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Write the parts of a chunked stream: one event a chunk, several, or split between chunks."""
    events = [token("first"), *draw(EVENTS), draw(TAILS)]
    payloads = events if draw(st.booleans()) else cut(b"".join(events), draw(CUTS))
    style = draw(st.sampled_from([b"%x\r\n%b\r\n", b"%X\r\n%b\r\n", b"0%x;e=1\r\n%b\r\n"]))
    parts = [STREAM_HEAD, *[style % (len(data), data) for data in payloads if data]]
    if draw(st.booleans()):
        parts.append(draw(st.sampled_from([LAST_CHUNK, b"0\r\nx-trailer: 1\r\n\r\n"])))
    return parts


@settings(deadline=None)
@given(streams(), CUTS)
@example([STREAM_HEAD, *map(chunk, [*PLAIN, finish(), usage(7, 3), DONE]), LAST_CHUNK], [])
@example([STREAM_HEAD, chunk(token("a")), chunk(token("b")), chunk(event({"error": "no"}))], [])
def test_any_split_of_a_stream_is_the_same_answer(parts: list[bytes], cuts: list[int]) -> None:
    """In one read, a read for each chunk, or cut anywhere; with and without the shortcut."""
    data = b"".join(parts)
    # Byte by byte no shortcut can ever be taken: the parser's way is the reference.
    ((answer, end, _, count, kept),) = talk(
        [[data[at : at + 1] for at in range(len(data))]], eof=True
    )
    for shortcut in (True, False):
        for reads in (parts, cut(data, cuts)):
            ((sent, *found),) = talk([reads], eof=True, shortcut=shortcut)
            assert (sent + found[1], found[0], *found[2:]) == (answer, end, count, kept)
            assert found[1] == b"" or end != "whole"


@settings(deadline=None)
@given(
    st.sampled_from([b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"]),
    st.lists(
        st.sampled_from([b"{}", b"", b"x" * 40, b"HTTP/1.1 200 OK\r\n\r\n"]), min_size=1, max_size=4
    ),
    CUTS,
    st.sampled_from([b"200 OK", b"404 Not Found", b"429 Too Many Requests"]),
)
def test_any_split_of_answers_on_one_connection_is_the_same(
    interim: bytes, bodies: list[bytes], cuts: list[int], status: bytes
) -> None:
    """Declared lengths, familiar heads or not: each body is whole, the connection is kept."""
    data = [interim + response(body, status) for body in bodies]
    for way in (
        [[one] for one in data],
        [cut(one, cuts) for one in data],
        [[one[at : at + 1] for at in range(len(one))] for one in data],
    ):
        found = talk(way)
        assert [(sent, end, kept) for sent, end, _, _, kept in found] == [
            (body, "whole", True) for body in bodies
        ]


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


@settings(deadline=None)
@given(CUTS, st.sampled_from([b"", b"{}", b"x" * 90]))
def test_a_body_that_ends_with_the_connection_is_whole(cuts: list[int], body: bytes) -> None:
    """HTTP/1.0's framing; and the connection is of course not kept."""
    ((sent, end, _, _, kept),) = talk([cut(HEAD + b"\r\n" + body, cuts)], eof=True)
    assert (sent, end, kept) == (body, "whole", False)


@settings(deadline=None)
@given(CUTS, st.integers(1, 40), st.booleans())
def test_a_body_cut_short_is_never_whole(cuts: list[int], missing: int, chunked: bool) -> None:
    """Wherever a declared or chunked body breaks off, the answer is a failure."""
    framed = HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(b"y" * 60) + LAST_CHUNK
    data = framed if chunked else response(b"y" * 60)
    ((sent, end, *_),) = talk([cut(data[: len(data) - missing], cuts)], eof=True)
    assert sent == b""
    assert end.startswith("The engine closed the connection")


@pytest.mark.parametrize(
    "extra", [b"x", b"\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", response(b"evil")]
)
def test_bytes_behind_an_answer_end_the_connection(extra: bytes) -> None:
    """A second response to one request must not become the next request's answer."""
    for first in (response(b"ok"), HEAD + b"content-length: 2\r\nx-b: c\r\n\r\nok"):
        for before in ([], [[first]]):
            found = talk([*before, [first + extra]])
            assert found[-1][-1] is False
            assert found[-1][0] in {b"ok", b""}

"""However a client's bytes are cut into reads, the same requests come of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.api.routes import ROUTES
from gateway.errors import GatewayError
from gateway.model import Route
from gateway.wire.downstream import DataPlaneProtocol, Plane
from gateway.wire.familiar import FamiliarHead
from gateway.wire.guard import Head, Limits
from gateway.wire.types import Downstream, Request
from tests.support.engine import LAST_CHUNK, chunk
from tests.support.raw import post

CHAT = "/v1/chat/completions"


class FakeTransport(asyncio.Transport):
    """A socket's transport that keeps what is written and says whether reads are wanted."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 5), "sockname": ("192.0.2.2", 80)})
        self.written = bytearray()
        self.reading = True
        self.ended = False
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True


class NeverFamiliar(FamiliarHead[Any]):
    """The shortcut taken out."""

    def match(self, data: bytes) -> None:
        return None


@dataclass
class Seen:
    """What the proxy core and the app got, in order, and what the client was sent."""

    requests: list[tuple[Any, ...]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    async def serve(self, request: Request, down: Downstream) -> None:
        body = request.body
        if request.rest is not None:
            async for piece in request.rest:
                body += piece
        head = request.head
        about = (head.forward, head.content_type, head.credentials, head.request_id)
        self.requests.append((request.route.name, about, body))
        await asyncio.sleep(0)  # An engine takes its time.
        down.respond(200, b"", b"core:" + body)

    def refuse(self, route: Route, head: Head, error: GatewayError, client: str) -> bytes:
        self.refused.append(error.status)
        return b""

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.requests.append((scope["method"], scope["raw_path"], scope["query_string"], body))
        headers = [(b"content-length", b"3")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"app"})


def talk(reads: list[bytes], *, shortcut: bool = True) -> tuple[Seen, bytes]:
    """Hand a connection these reads, one for each turn of the loop; say what came of them."""
    with asyncio.Runner() as runner:
        return runner.run(_talk(reads, shortcut=shortcut))


def quiet(protocol: DataPlaneProtocol) -> bool:
    """Whether every request has been answered."""
    cycle: Any = protocol.cycle
    return protocol.active is None and (cycle is None or cycle.response_complete)


async def turns(true: Callable[[], bool]) -> None:
    """Let the loop turn until a condition holds; fail where it never will."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0)
    raise AssertionError("the connection is stuck")


async def _talk(reads: list[bytes], *, shortcut: bool) -> tuple[Seen, bytes]:
    seen, transport = Seen(), FakeTransport()
    config = Config(seen.app, http="httptools", interface="asgi3", log_config=None, lifespan="off")
    config.load()
    config.server_header = config.date_header = False
    state = ServerState()
    plane = Plane(ROUTES, seen.serve, seen.refuse, Limits())
    protocol = DataPlaneProtocol(config, state, {}, asyncio.get_running_loop(), plane=plane)
    if not shortcut:
        protocol._familiar = NeverFamiliar()
    protocol.connection_made(cast(asyncio.Transport, transport))
    for read in reads:
        await turns(lambda: transport.reading or transport.closed)
        if transport.closed:
            break
        protocol.data_received(read)
        await asyncio.sleep(0)
    await turns(lambda: transport.closed or transport.ended or quiet(protocol))
    protocol.connection_lost(None)
    await turns(lambda: not state.tasks)
    await asyncio.sleep(0)
    return seen, bytes(transport.written)


def chunked(*parts: bytes, path: str = CHAT, kind: str = "application/json") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: {kind}\r\n"
    coded = b"".join(map(chunk, parts)) + LAST_CHUNK
    return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + coded


BODIES = st.sampled_from(
    [b"", b"{}", b"x" * 9, b"POST / HTTP/1.1\r\n\r\n", b"\r\n\r\n", b"y" * 300]
)
MESSAGES = st.one_of(
    BODIES.map(post),
    BODIES.map(post),  # Twice: equal heads in a row are what the shortcut is for.
    BODIES.map(lambda body: post(body, fields={"X-Request-Id": "id-1"})),
    BODIES.map(lambda body: post(body, CHAT + "?a=b", {"Authorization": "Bearer k"})),
    BODIES.map(lambda body: post(body, "http://h" + CHAT)),
    BODIES.map(lambda body: post(body, "/v1/completions", {"X-A": "1", "Connection": "x-a"})),
    BODIES.map(lambda body: post(body, "/other")),
    BODIES.map(lambda body: post(body, fields={"Expect": "100-continue"})),
    BODIES.filter(bool).map(lambda body: chunked(body, body)),
    BODIES.filter(bool).map(
        lambda body: chunked(body, path="/v1/audio/transcriptions", kind="multipart/form-data")
    ),
    st.just(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=5), st.lists(st.integers(0, 3000), max_size=12))
@example([post(b"{}"), post(b"{}"), post(b"x" * 9)], [])
@example([post(b"{}"), post(b"x" * 300), post(b"{}")], [130, 131, 250, 400, 433])
def test_any_split_makes_the_same_requests(messages: list[bytes], cuts: list[int]) -> None:
    """Against one read a message with the shortcut taken out: same requests, same answers."""
    expected, answers = talk(messages, shortcut=False)
    assert len(expected.requests) == len(messages)
    data = b"".join(messages)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    reads = [data[start:end] for start, end in pairwise(edges) if end > start]
    for shortcut in (True, False):
        for way in (reads, messages):
            seen, sent = talk(way, shortcut=shortcut)
            assert seen == expected
            assert final(sent) == final(answers)


def final(sent: bytes) -> bytes:
    """Leave out what depends on how much of a body had come: the word to go on."""
    return sent.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")


def test_byte_by_byte() -> None:
    """The finest split there is, over each kind of framing."""
    messages = [post(b"{}"), post(b"x" * 9), chunked(b"abc", b"de"), post(b"{}"), post(b"")]
    data = b"".join(messages)
    seen, sent = talk([data[at : at + 1] for at in range(len(data))])
    expected, answers = talk(messages, shortcut=False)
    assert (seen, sent) == (expected, answers)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(BODIES, min_size=1, max_size=3),
    st.lists(st.integers(0, 900), max_size=8),
    st.sampled_from(
        [
            (b"POST /x HTTP/1.1\r\n\r\n", 400),
            (b"POST /x HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
            (b"NOT HTTP\r\n\r\n", 400),
            (post(b"", fields={"Content-Length": "-5"}), 400),
            (post(b"", fields={"Content-Length": "999999999"}), 413),
            (post(b"", fields={"Content-Encoding": "gzip"}), 415),
        ]
    ),
)
def test_a_bad_request_is_refused_in_its_turn(
    bodies: list[bytes], cuts: list[int], bad: tuple[bytes, int]
) -> None:
    """Those before it are answered first, nothing behind it is read, and the connection ends."""
    data = b"".join(map(post, bodies)) + bad[0] + post(b"smuggled")
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    seen, sent = talk([data[start:end] for start, end in pairwise(edges) if end > start])
    assert [request[2] for request in seen.requests] == bodies
    assert seen.refused == [bad[1]]
    assert sent.count(b"HTTP/1.1 200 OK") == len(bodies)
    assert sent.count(b"connection: close") == 1

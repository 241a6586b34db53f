"""What is too large: heads, bodies and trailers, however they are sent."""

from __future__ import annotations

import pytest

from tests.gateway.wire.test_malformed import check_refusal
from tests.support.engine import Turn, response
from tests.support.raw import post
from tests.support.rig import CHAT, eventually
from tests.support.wire import wire

LINE = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n"
CHUNKED = LINE + b"Transfer-Encoding: chunked\r\n\r\n"
SMALL = {"max_body_bytes": 100, "max_header_bytes": 4096, "max_headers": 10}
CHAT_BYTES = post(CHAT)
PIECE = b"40\r\n" + b" " * 64 + b"\r\n"

TOO_LARGE = [
    pytest.param(LINE + b"Content-Length: 101\r\n\r\n", 413, id="declared"),
    pytest.param(
        LINE + b"Expect: 100-continue\r\nContent-Length: 101\r\n\r\n", 413, id="declared-expecting"
    ),
    pytest.param(LINE + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n", 413, id="declared-huge"),
    pytest.param(CHUNKED + PIECE + PIECE, 413, id="grown"),
    pytest.param(CHUNKED + PIECE * 2 + b"0\r\n\r\n" + CHAT_BYTES, 413, id="grown-whole"),
    pytest.param(LINE + b"X-A: 1\r\n" * 10 + b"\r\n", 431, id="fields"),
    pytest.param(LINE + b"X-A: " + b"a" * 4096 + b"\r\n\r\n", 431, id="bytes"),
    pytest.param(LINE + b"X-A: " + b"a" * 4096, 431, id="unfinished-line"),
    pytest.param(LINE + b"a" * 5000, 431, id="unfinished-name"),
    pytest.param(b"POST /" + b"a" * 5000, 431, id="unfinished-path"),
    pytest.param(CHUNKED + b"0\r\n" + b"X-A: 1\r\n" * 10, 431, id="trailer-fields"),
    pytest.param(CHUNKED + b"1;" + b"a" * 5000, 431, id="unfinished-extension"),
]


@pytest.mark.parametrize(("data", "status"), TOO_LARGE)
async def test_it_is_refused_alone(data: bytes, status: int) -> None:
    """One error without an interim answer, then the end; nothing reaches the engine."""
    async with wire(server=SMALL) as rig, rig.client() as client:
        client.send(data)
        await check_refusal(client, status)
        assert rig.engine.raw == b""
        assert rig.outcomes() == {"rejected": 1}


@pytest.mark.parametrize(("data", "status"), TOO_LARGE)
async def test_it_is_refused_behind_others(data: bytes, status: int) -> None:
    """Behind a known head and a request under way, whose answer comes whole before."""
    turn = Turn()
    scripts = ([response(b"{}")], [turn, response(b"[]")])
    async with wire(*scripts, server=SMALL) as rig, rig.client() as client:
        assert (await client.ask(CHAT_BYTES)).body == b"{}"
        client.send(CHAT_BYTES + data)
        await rig.engine.wait_requests(2)
        turn.go.set()
        assert (await client.answer()).body == b"[]"
        await check_refusal(client, status)
        assert len(rig.engine.requests) == 2


@pytest.mark.parametrize("size", [99, 100])
async def test_up_to_the_limit_a_body_passes(size: int) -> None:
    """A body of exactly the limit is served, with a declared length and in chunks."""
    body = b'{"model":"m"}'.ljust(size)
    async with wire(server=SMALL) as rig, rig.client() as client:
        for _ in range(2):
            assert (await client.ask(post(body))).status == 200
        whole = CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
        assert (await client.ask(whole)).status == 200
        assert [request.body for request in rig.engine.requests] == [body] * 3


async def test_a_known_head_does_not_hide_a_large_body() -> None:
    """The limit holds for a request whose head was seen before with a smaller length."""
    async with wire(server=SMALL) as rig, rig.client() as client:
        assert (await client.ask(CHAT_BYTES)).status == 200
        client.send(post(b" " * 101))
        await check_refusal(client, 413)
        assert len(rig.engine.requests) == 1


async def test_a_head_behind_a_request_under_way_is_bounded() -> None:
    """A header line without end is not kept while an earlier answer takes its time."""
    turn = Turn()
    async with wire([turn, response(b"[]")], server=SMALL) as rig, rig.client() as client:
        client.send(CHAT_BYTES)
        await rig.engine.wait_requests(1)
        client.send(LINE + b"X-A: " + b"a" * 4096)
        await eventually(lambda: rig.protocols[0]._deaf)
        turn.go.set()
        assert (await client.answer()).body == b"[]"
        await check_refusal(client, 431)


async def test_a_trailer_is_bounded() -> None:
    """A trailer field without end is refused like a header field."""
    async with wire(server=SMALL) as rig, rig.client() as client:
        client.send(CHUNKED + b"d\r\n" + b'{"model":"m"}' + b"\r\n0\r\n")
        await eventually(lambda: rig.protocols and rig.protocols[0].active is not None)
        client.send(b"X-A: ")
        for _ in range(3):
            client.send(b"a" * 2048)
        await check_refusal(client, 431)
        assert rig.engine.raw == b""


async def test_a_refused_client_may_go_on_sending() -> None:
    """What it still sends is read and dropped: a reset could overtake the answer."""
    body = b" " * (4 << 20)
    limit = {"max_body_bytes": 1 << 20}
    async with wire(server=limit) as rig, rig.client() as client:
        client.send(post(body))
        await eventually(lambda: client.writer.transport.get_write_buffer_size() == 0)
        await check_refusal(client, 413)
        assert rig.engine.raw == b""


async def test_nothing_is_served_behind_a_body_refused_in_its_turn() -> None:
    """A request in the read that ends a body over the limit is not answered."""
    async with wire(server=SMALL) as rig, rig.client() as client:
        client.send(CHUNKED + PIECE)
        await eventually(lambda: rig.protocols and rig.protocols[0].active is not None)
        client.send(PIECE + b"0\r\n\r\n" + CHAT_BYTES + CHAT_BYTES)
        await check_refusal(client, 413)
        assert rig.engine.raw == b""


async def test_a_control_route_has_the_same_limits() -> None:
    """The routes off the data path refuse what is too large as well."""
    async with wire(server=SMALL) as rig, rig.client() as client:
        client.send(post(b" " * 101, "/v1/generate"))
        await check_refusal(client, 413)
        assert rig.engine.raw == b""

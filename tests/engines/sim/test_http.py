"""Does the connection keep HTTP's rules: keep-alive, pipelines, 1.0 clients, bad input?"""

import asyncio
from typing import Any

import pytest

from engines.sim.http import MAX_BODY_BYTES
from engines.sim.server import RunningServer

_BODY = b'{"messages":[{"role":"user","content":"Hi"}],"max_tokens":2,"stream":true}'
_HEAD = b"host: x\r\ncontent-type: application/json\r\n"


@pytest.fixture
async def server(start_server: Any) -> RunningServer:
    """An engine without latencies that closes idle connections soon, but not between two bytes."""
    started: RunningServer = await start_server(keep_alive_s=0.4)
    return started


async def _talk(server: RunningServer, client_of: Any, data: bytes) -> bytes:
    """Send bytes and read until the server closes."""
    reader, writer = await client_of(server).connect()
    writer.write(data)
    try:
        async with asyncio.timeout(30):
            received: bytes = await reader.read()
            return received
    finally:
        writer.close()


def _post(version: bytes = b"1.1", extra: bytes = b"") -> bytes:
    line = b"POST /v1/chat/completions HTTP/%b\r\n" % version
    return line + _HEAD + extra + b"content-length: %d\r\n\r\n" % len(_BODY) + _BODY


async def test_idle_connections_are_closed(server: RunningServer, client_of: Any) -> None:
    """Before the first request and after the last."""
    assert await _talk(server, client_of, b"") == b""
    assert (await _talk(server, client_of, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")).startswith(
        b"HTTP/1.1 200 OK\r\ndate: "
    )


async def test_pipelined_requests_are_answered_in_order(
    server: RunningServer, client_of: Any
) -> None:
    """Streams and plain answers do not overtake each other, however many wait."""
    get = b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n"
    received = await _talk(server, client_of, (_post() + get) * 40)
    assert received.count(b"data: [DONE]") == received.count(b'{"version":"0.32.0"}') == 40
    first_done, first_version = received.index(b"[DONE]"), received.index(b'{"version"')
    assert first_done < first_version < received.index(b"[DONE]", first_version)


async def test_bytes_may_come_one_at_a_time(server: RunningServer, client_of: Any) -> None:
    """Any chunking of the same request gives the same answer."""
    reader, writer = await client_of(server).connect()
    for at in range(len(data := _post(extra=b"connection: close\r\n"))):
        writer.write(data[at : at + 1])
        await writer.drain()
    received = await reader.read()
    writer.close()
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_chunked_request_bodies_are_understood(server: RunningServer, client_of: Any) -> None:
    """A body without a length is put together."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + _HEAD + b"transfer-encoding: chunked\r\n\r\n"
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (_BODY[:20], _BODY[20:]))
    assert b"[DONE]" in await _talk(server, client_of, head + pieces + b"0\r\n\r\n")


async def test_http_1_0_streams_end_with_the_connection(
    server: RunningServer, client_of: Any
) -> None:
    """Such clients know no chunks: the events come bare."""
    received = await _talk(server, client_of, _post(b"1.0"))
    assert b"transfer-encoding" not in received
    assert received.endswith(b"data: [DONE]\n\n")


async def test_expect_continue_is_answered(server: RunningServer, client_of: Any) -> None:
    """Clients that ask first are told to go on."""
    received = await _talk(server, client_of, _post(extra=b"expect: 100-continue\r\n"))
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


async def test_connection_close_is_honoured(server: RunningServer, client_of: Any) -> None:
    """The answer says so too."""
    received = await _talk(server, client_of, _post(extra=b"connection: close\r\n"))
    assert b"connection: close\r\ntransfer-encoding: chunked\r\n" in received


async def test_an_upgrade_is_not_made(server: RunningServer, client_of: Any) -> None:
    """The request is answered as plain HTTP."""
    upgrade = b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    assert b'{"version":"0.32.0"}' in await _talk(server, client_of, upgrade)


@pytest.mark.parametrize(
    "data", [b"nonsense\r\n\r\n", b"\x16\x03\x01\x00", b"GET / HTTP/9.9\r\n\r\n"]
)
async def test_bytes_that_are_not_http(server: RunningServer, client_of: Any, data: bytes) -> None:
    """400 and the connection closed, as from uvicorn."""
    received = await _talk(server, client_of, data)
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert received.endswith(b"Invalid HTTP request received.")


async def test_a_giant_body_is_refused(server: RunningServer, client_of: Any) -> None:
    """413 without keeping it in memory."""
    size = MAX_BODY_BYTES + 1
    head = b"POST /tokenize HTTP/1.1\r\n" + _HEAD + b"content-length: %d\r\n\r\n" % size
    received = await _talk(server, client_of, head + b"x" * size)
    assert received.startswith(b"HTTP/1.1 413 ")

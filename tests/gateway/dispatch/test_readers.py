"""Attempts, comments and resumes are the same for every kind of client and host."""

from __future__ import annotations

import asyncio

import pytest

from gateway.dispatch.pulse import PING
from tests.support.engine import DONE, Script, Then, Turn, finish, response, stream, token
from tests.support.failover import failover
from tests.support.raw import post
from tests.support.rig import STREAM, Host, rig

WHOLE = stream(token("a"), token("b"), finish(), DONE)
TEXT = token("a") + token("b") + finish() + DONE
BROKEN: Script = [*stream(token("a"), whole=False), Then.YIELD, Then.RESET]
GREEDY = {**STREAM, "temperature": 0}
OLD = post(GREEDY).replace(b"HTTP/1.1", b"HTTP/1.0", 1)


async def test_http_1_0_has_comments_retries_and_resumes_without_chunks() -> None:
    """The end of the connection is the end of the stream."""
    turn = Turn()
    async with failover([[turn, Then.RESET]], [BROKEN], [WHOLE]) as several:
        async with several.client() as client:
            client.send(OLD)
            await several.engines[0].wait_requests(1)
            several.pass_time(10)
            head = await client.head()
            assert head.header(b"transfer-encoding") == []
            turn.go.set()
            assert await client.rest() == PING + TEXT
        assert several.asked == [1, 1, 1]


async def test_http_1_0_hears_of_a_failure_by_an_event() -> None:
    """No connection that merely ends, as an answer does."""
    async with failover([BROKEN], cluster={"resume": "off"}) as one, one.client() as client:
        client.send(OLD)
        await client.head()
        body = await client.rest()
        assert body.startswith(token("a") + b'data: {"error":{')
        assert b"[DONE]" not in body


@pytest.mark.parametrize("host", Host)
async def test_a_stream_that_broke_goes_on(host: Host) -> None:
    """Also where what is sent waits in a queue for whoever pulls it."""
    cluster = {"resume": "replay", "retries": {"attempts": 2}}
    async with rig(host, BROKEN, WHOLE, cluster=cluster) as one:
        assert (await one.post(GREEDY)).body == TEXT


@pytest.mark.parametrize("host", Host)
@pytest.mark.parametrize(
    ("script", "end"),
    [
        (WHOLE, TEXT),
        ([Then.RESET], None),
        ([response(b'{"error":{"message":"bad field"}}', b"400 Bad Request")], None),
    ],
    ids=["an answer", "a break", "a refusal"],
)
async def test_whoever_waits_hears_a_comment(host: Host, script: Script, end: bytes | None) -> None:
    """After it, whatever comes is part of the stream."""
    turn = Turn()
    async with rig(host, [turn, *script]) as one, one.client() as client:
        client.send(post(STREAM))
        await one.engine.wait_requests(1)
        one.gateway.proxy.pulse.sweep(one.clock.now + 10)
        head = await client.head()
        assert head.status == 200
        turn.go.set()
        async with asyncio.timeout(10):
            body = b"".join([piece async for piece in client.pieces(head)])
        if end is not None:
            assert body == PING + end
        else:
            assert body.startswith(PING + b'data: {"error":{')
            assert b"[DONE]" not in body

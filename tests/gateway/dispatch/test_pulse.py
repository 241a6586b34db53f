"""A streaming client that waits hears a comment now and then, and the same answer after it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.dispatch.pulse import PING
from tests.support.engine import (
    DONE,
    Engine,
    Script,
    Then,
    Turn,
    chunk,
    finish,
    response,
    stream,
    token,
)
from tests.support.failover import Failover, failover
from tests.support.raw import Answer, RawClient, post
from tests.support.rig import CHAT, STREAM, eventually, read_event

WHOLE = token("a") + finish() + DONE


async def begin(rig: Failover, client: RawClient, engine: Engine, seconds: float = 10) -> Answer:
    """Send a stream's request and let the client wait for so long."""
    client.send(post(STREAM))
    await engine.wait_requests(1)
    rig.pass_time(seconds)
    return await client.head()


async def rest(client: RawClient) -> bytes:
    body = b""
    while piece := await client.piece():
        body += piece
    return body


async def test_a_long_prefill_is_bridged_by_comments() -> None:
    """The head goes out with the first of them; the answer follows as if nothing had been."""
    turn = Turn()
    async with (
        failover([[turn, *stream(token("a"), finish(), DONE)]]) as rig,
        rig.client() as client,
    ):
        head = await begin(rig, client, rig.engines[0])
        assert head.status == 200
        assert head.header(b"content-type") == [b"text/event-stream; charset=utf-8"]
        assert len(head.header(b"x-request-id")) == 1
        assert await client.piece() == PING
        rig.pass_time(9)
        rig.pass_time(1)
        assert await client.piece() == PING
        turn.go.set()
        assert await rest(client) == WHOLE


async def test_a_failure_after_the_first_comment_leads_elsewhere_as_well() -> None:
    """The client has been promised a stream, not this endpoint's."""
    turn = Turn()
    async with (
        failover([[turn, Then.RESET]], [stream(token("a"), finish(), DONE)]) as rig,
        rig.client() as client,
    ):
        await begin(rig, client, rig.engines[0])
        turn.go.set()
        assert await rest(client) == PING + WHOLE


async def test_a_wait_after_a_refusal_is_bridged_as_any_other() -> None:
    """The engine wants to be left alone for a while: its answer has ended, the request has not."""
    busy = [response(b"{}", b"503 Busy", [(b"retry-after", b"9")])]
    async with failover([busy]) as rig, rig.client() as client:
        client.send(post(STREAM))
        await rig.engines[0].wait_requests(1)
        endpoint = rig.gateway.clusters["pool"].endpoints[0]
        await eventually(lambda: endpoint.inflight == 0)
        rig.pass_time(10)
        assert (await client.head()).status == 200
        assert await client.piece() == PING


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ([response(b'{"error":{"message":"bad field"}}', b"400 Bad Request")], b"bad field"),
        ([response(b'{"choices":[]}')], b"without a stream"),
        ([response(b"oops", b"500 Oops")], b"The engine answered 500"),
    ],
)
async def test_a_refusal_after_the_first_comment_is_an_error_in_the_stream(
    script: Script, said: bytes
) -> None:
    """There is no status left to say it with; and no end mark, for it is no answer."""
    turn = Turn()
    one_try = {"retries": {"attempts": 1}}
    async with failover([[turn, *script]], cluster=one_try) as rig, rig.client() as client:
        await begin(rig, client, rig.engines[0])
        turn.go.set()
        body = await rest(client)
        assert body.startswith(PING + b'data: {"error":{')
        assert said in body
        assert b"[DONE]" not in body


async def test_silence_in_the_middle_is_bridged_between_two_events() -> None:
    """Whatever of an event has come waits for its end."""
    turn, half = Turn(), token("b")
    script = [*stream(token("a"), whole=False), chunk(half[:20]), turn]
    script += [chunk(half[20:]), *stream(finish(), DONE)[1:]]
    async with failover([script]) as rig, rig.client() as client:
        client.send(post(STREAM))
        await client.head()
        assert await read_event(client) == token("a")
        async with asyncio.timeout(10):
            await turn.reached.wait()
        await asyncio.sleep(0.01)
        rig.pass_time(11)
        assert await client.piece() == PING
        turn.go.set()
        assert await rest(client) == half + finish() + DONE


@pytest.mark.parametrize(
    ("request_body", "cluster"),
    [(CHAT, {}), (STREAM, {"timeouts": {"keepalive_s": 0}})],
    ids=["no stream", "switched off"],
)
async def test_who_gets_no_comments(request_body: dict[str, Any], cluster: dict[str, Any]) -> None:
    """A plain answer has no place for one."""
    turn = Turn()
    script = [turn, response(b"{}", b"404 Not Found")]
    async with failover([script], cluster=cluster) as rig, rig.client() as client:
        client.send(post(request_body))
        await rig.engines[0].wait_requests(1)
        rig.pass_time(30)
        turn.go.set()
        assert (await client.answer()).status == 404


async def test_who_has_no_streams_is_promised_none() -> None:
    """The engine passes the field over, and its answer must not meet the head of a stream."""
    turn = Turn()
    async with failover([[turn, response(b'{"data":[]}')]]) as rig, rig.client() as client:
        client.send(post({"model": "m", "input": "hi", "stream": True}, "/v1/embeddings"))
        await rig.engines[0].wait_requests(1)
        rig.pass_time(30)
        turn.go.set()
        assert (await client.answer()).body == b'{"data":[]}'


async def test_a_tokens_arrival_puts_the_comment_off() -> None:
    """Nothing is added to a stream that flows."""
    turn = Turn()
    script = [*stream(token("a"), whole=False), turn, *stream(finish(), DONE)[1:]]
    async with failover([script]) as rig, rig.client() as client:
        client.send(post(STREAM))
        await rig.engines[0].wait_requests(1)
        rig.clock.now += 9
        await client.head()
        assert await read_event(client) == token("a")
        rig.pass_time(5)
        turn.go.set()
        assert await rest(client) == finish() + DONE

"""Clients that leave, engines that close or go silent, through both hosts of the proxy core."""

from __future__ import annotations

import pytest

from tests.gateway.wire.conftest import MakeRig
from tests.support.engine import (
    STREAM_HEAD,
    Script,
    Then,
    Turn,
    chunk,
    event,
    finish,
    response,
    stream,
    token,
)
from tests.support.raw import CutError, post
from tests.support.rig import CHAT, STREAM, eventually

BEFORE: list[Script] = [
    [Then.HANG],
    [b"HTTP/1.1 200 OK\r\n", Then.HANG],
    [b"HTTP/1.1 100 Continue\r\n\r\n", Then.HANG],
    [response(b"half", length=100), Then.HANG],
    [STREAM_HEAD, Then.HANG],
    [STREAM_HEAD, chunk(b": ping\n\n"), Then.HANG],
    [STREAM_HEAD, chunk(token("half")[:-1]), Then.HANG],
]
"""Engines that have said nothing yet that the client may see."""


@pytest.mark.parametrize("script", BEFORE)
async def test_a_client_that_leaves_before_its_answer(serve: MakeRig, script: Script) -> None:
    """The engine sees its connection close within a second, and is idle again for us."""
    async with serve(script) as rig:
        async with rig.client() as client:
            client.send(post(STREAM))
            request = await rig.engine.wait_requests(1)
            assert rig.inflight == 1
        await request.abandoned(within_s=1)
        await eventually(lambda: rig.inflight == 0, patience_s=1)
        assert rig.outcomes() == {"cancelled": 1}


async def test_a_client_that_leaves_in_the_middle_of_a_stream(serve: MakeRig) -> None:
    """A stream without a reader does not go on generating."""
    script = [*stream(token("a"), whole=False), Then.HANG]
    async with serve(script) as rig:
        async with rig.client() as client:
            client.send(post(STREAM))
            await client.head()
            assert await client.piece() == token("a")
        request = await rig.engine.wait_requests(1)
        await request.abandoned(within_s=1)
        await eventually(lambda: rig.inflight == 0, patience_s=1)
        assert rig.outcomes() == {"cancelled": 1}


async def test_a_client_that_leaves_a_stream_that_it_does_not_read(serve: MakeRig) -> None:
    """The same when the engine is paused because the client was slow."""
    flood = [chunk(token("x" * 60_000))] * 400
    async with serve([*stream(token("a"), whole=False), *flood, Then.HANG]) as rig:
        async with rig.client() as client:
            client.send(post(STREAM))
            await client.head()
            (upstream,) = rig.gateway.clusters["pool"].clients.values()
            (connection,) = upstream._all
            transport = connection._transport
            assert transport is not None
            await eventually(lambda: not transport.is_reading())
        await eventually(lambda: rig.inflight == 0, patience_s=1)
        await eventually(lambda: rig.open_upstream == 0, patience_s=1)


async def test_a_client_that_leaves_with_half_a_request(serve: MakeRig) -> None:
    """Nothing has begun, so nothing is left over, and the engine hears nothing."""
    async with serve() as rig:
        for length in (10, 60, len(post(CHAT)) - 1):
            async with rig.client() as client:
                client.send(post(CHAT)[:length])
                await client.writer.drain()
        assert (await rig.post()).status == 200
        assert len(rig.engine.requests) == 1


async def test_many_clients_that_leave(serve: MakeRig) -> None:
    """Connections and counts come back to what they were."""
    async with serve([Then.HANG]) as rig:
        clients = [rig.client() for _ in range(20)]
        for client in clients:
            await client.__aenter__()
            client.send(post(CHAT))
        await rig.engine.wait_requests(20)
        assert (rig.inflight, rig.open_upstream) == (20, 20)
        for client in clients:
            client.leave()
        await eventually(lambda: (rig.inflight, rig.open_upstream) == (0, 0), patience_s=1)
        assert rig.outcomes() == {"cancelled": 20}


async def test_a_stale_connection_is_replaced_once(serve: MakeRig) -> None:
    """A kept-alive connection that closed before a byte of answer: the request goes again."""
    async with serve([response()], [Then.CLOSE], [response(b'{"n":3}')]) as rig:
        assert (await rig.post()).status == 200
        assert (await rig.post()).json == {"n": 3}
        assert [one.connection for one in rig.engine.requests] == [0, 0, 1]
        assert rig.engine.requests[1].body == rig.engine.requests[2].body


async def test_a_reset_connection_is_replaced_once(serve: MakeRig) -> None:
    """The same for a reset, which is what a restarted engine answers with."""
    async with serve([response()], [Then.RESET], [Then.RESET]) as rig:
        assert (await rig.post()).status == 200
        assert (await rig.post()).status == 502
        assert [one.connection for one in rig.engine.requests] == [0, 0, 1]


async def test_a_new_connection_is_not_replaced(serve: MakeRig) -> None:
    """An engine that closes without an answer has failed; asking twice could act twice."""
    async with serve([Then.CLOSE]) as rig:
        assert (await rig.post()).status == 502
        assert len(rig.engine.requests) == 1


@pytest.mark.parametrize("first", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", STREAM_HEAD])
async def test_nothing_is_sent_again_once_a_byte_has_come(serve: MakeRig, first: bytes) -> None:
    """The engine was at work on it already."""
    async with serve([response()], [first, Then.CLOSE]) as rig:
        await rig.post()
        assert (await rig.post()).status == 502
        assert len(rig.engine.requests) == 2


async def test_an_idle_connection_that_the_engine_closes_is_forgotten(serve: MakeRig) -> None:
    """It is not tried again, and takes no socket."""
    async with serve([response(), Then.CLOSE], [response()]) as rig:
        assert (await rig.post()).status == 200
        await eventually(lambda: rig.open_upstream == 0)
        assert (await rig.post()).status == 200
        assert len(rig.engine.requests) == 2


async def test_idle_connections_age_out_before_the_engine_closes_them(serve: MakeRig) -> None:
    """vLLM closes after five seconds; a connection of four is not used any more."""
    async with serve([response()]) as rig:
        await rig.post()
        rig.clock.now += 3.9
        await rig.post()
        rig.clock.now += 4.0
        await rig.post()
        assert [one.connection for one in rig.engine.requests] == [0, 0, 1]
        rig.pass_time(3.9)
        assert rig.open_upstream == 1
        rig.pass_time(0.2)
        await eventually(lambda: rig.open_upstream == 0)


async def test_an_engine_that_does_not_begin_in_time(serve: MakeRig) -> None:
    """504 at the first-token time-out, and the engine is let go."""
    async with serve([Then.HANG]) as rig, rig.client() as client:
        client.send(post(CHAT))
        request = await rig.engine.wait_requests(1)
        rig.pass_time(59.9)
        assert rig.inflight == 1
        rig.pass_time(0.2)
        answer = await client.answer()
        assert (answer.status, answer.code) == (504, "upstream_timeout")
        assert answer.header(b"x-should-retry") == [b"false"]
        await request.abandoned()
        assert rig.outcomes() == {"retryable": 1}


async def test_an_engine_that_goes_silent_in_an_answer(serve: MakeRig) -> None:
    """The idle time-out becomes a frame in a stream; bytes in between start it anew."""
    turn = Turn()
    script = [*stream(token("a"), whole=False), turn, chunk(token("b")), Then.HANG]
    async with serve(script) as rig, rig.client() as client:
        client.send(post(STREAM))
        await client.head()
        assert await client.piece() == token("a")
        rig.pass_time(0.1)
        rig.pass_time(29.0)
        turn.go.set()
        assert await client.piece() == token("b")
        rig.pass_time(1.1)
        rig.pass_time(29.0)
        assert rig.inflight == 1
        rig.pass_time(1.1)
        assert b"upstream_timeout" in await client.piece()
        assert await client.piece() == b""
        await rig.engine.requests[0].abandoned()
        assert rig.outcomes() == {"failure": 1}


async def test_an_engine_that_goes_silent_in_a_plain_body(serve: MakeRig) -> None:
    """Nothing was shown yet: 504."""
    async with serve([response(b"half", length=100), Then.HANG]) as rig, rig.client() as client:
        client.send(post(CHAT))
        await rig.engine.wait_requests(1)
        (upstream,) = rig.gateway.clusters["pool"].clients.values()
        (connection,) = upstream._all
        await eventually(lambda: connection._head_done)
        rig.pass_time(0.1)
        rig.pass_time(30.1)
        assert (await client.answer()).status == 504


async def test_an_answer_that_never_ends(serve: MakeRig) -> None:
    """The total time-out ends even an engine that keeps talking."""
    turns = [Turn() for _ in range(30)]
    script: list[bytes | Turn | Then] = [STREAM_HEAD]
    for turn in turns:
        script += [chunk(token("a")), turn]
    async with serve([*script, Then.HANG]) as rig, rig.client() as client:
        client.send(post(STREAM))
        await client.head()
        for turn in turns:
            assert await client.piece() == token("a")
            rig.pass_time(19.9)
            turn.go.set()
        rig.pass_time(3.1)
        assert b"upstream_timeout" in await client.piece()
        assert await client.piece() == b""


async def test_a_huge_plain_answer_that_stalls_is_cut(serve: MakeRig) -> None:
    """Past the commit point without events, only a broken connection is honest."""
    script = [response(b"x" * 2_000_000, length=3_000_000), Then.HANG]
    async with serve(script) as rig, rig.client() as client:
        client.send(post(CHAT))
        answer = await client.head()
        assert answer.status == 200
        await eventually(lambda: len(client.reader._buffer) > 0)
        rig.pass_time(0.1)
        rig.pass_time(601)
        with pytest.raises((CutError, ConnectionError, EOFError)):
            async for _ in client.pieces(answer):
                pass


async def test_a_paused_engine_is_not_silent(serve: MakeRig) -> None:
    """While the client is slow, the engine's idle timer stands still."""
    flood = [chunk(token("x" * 60_000))] * 400
    ending = [chunk(finish()), chunk(event(b"[DONE]")), b"0\r\n\r\n"]
    script = [*stream(token("a"), whole=False), *flood, *ending]
    async with serve(script) as rig, rig.client() as client:
        client.send(post(STREAM))
        head = await client.head()
        (upstream,) = rig.gateway.clusters["pool"].clients.values()
        (connection,) = upstream._all
        transport = connection._transport
        assert transport is not None
        paused = 0

        def stays_paused() -> bool:
            """The first pauses are short: the buffers on the way still grow."""
            nonlocal paused
            paused = 0 if transport.is_reading() else paused + 1
            return paused > 30

        await eventually(stays_paused)
        for _ in range(3):
            rig.pass_time(100)
        body = b"".join([piece async for piece in client.pieces(head)])
        assert body.endswith(b"[DONE]\n\n")
        assert body.count(b"\n\n") == 403

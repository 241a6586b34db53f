"""Answers that are not streams, through both hosts of the proxy core."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.gateway.wire.conftest import MakeRig
from tests.support.engine import STREAM_HEAD, Then, Turn, chunk, response
from tests.support.raw import CutError, post
from tests.support.rig import CHAT, STREAM, eventually

BIG = 3 * 1024 * 1024


async def test_an_answer_passes_byte_for_byte(serve: MakeRig) -> None:
    """Body, content type and the engine's own fields reach the client; so does its request."""
    body = b'{ "model":"m", "odd" : 1e3 ,"t":"\xc3\xa9"}'
    async with serve([response(body, fields=[(b"x-engine", b"yes")])]) as rig:
        sent = b'{"model":"m" , "big":12345678901234567890123, "messages":[]}'
        answer = await rig.post(sent)
        assert (answer.status, answer.body) == (200, body)
        assert answer.header(b"content-type") == [b"application/json"]
        assert answer.header(b"content-length") == [b"%d" % len(body)]
        assert answer.header(b"x-engine") == [b"yes"]
        assert rig.engine.requests[0].line == b"POST /v1/chat/completions HTTP/1.1"
        assert rig.engine.requests[0].body == sent
        assert rig.outcomes() == {"success": 1}


async def test_connections_are_kept_on_both_sides(serve: MakeRig) -> None:
    """Many requests of one client make one connection to the engine."""
    async with serve([response()]) as rig, rig.client() as client:
        for _ in range(5):
            assert (await client.ask(post(CHAT))).status == 200
        assert [one.connection for one in rig.engine.requests] == [0] * 5


async def test_a_chunked_answer_gets_a_length_or_chunks(serve: MakeRig) -> None:
    """The engine's framing ends at the gateway; the bytes do not change."""
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    script = [head, chunk(b'{"a":'), chunk(b"1}"), b"0\r\nx-trailer: 1\r\n\r\n"]
    async with serve(script) as rig:
        assert (await rig.post()).body == b'{"a":1}'
        assert (await rig.post()).json == {"a": 1}


async def test_an_answer_that_ends_with_its_connection(serve: MakeRig) -> None:
    """HTTP/1.0 style: whole when the engine closes in good order."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    async with serve([head, b'{"a":1}', Then.CLOSE]) as rig:
        for _ in range(2):
            assert (await rig.post()).json == {"a": 1}
        assert rig.engine.connections == 2


async def test_the_model_is_renamed_both_ways(serve: MakeRig) -> None:
    """The engine sees its own name, the client the one that it used: a model's or an alias."""
    async with serve(
        [response(b'{"model":"engine/m","text":"\\"model\\":\\"engine/m\\""}')]
    ) as rig:
        for name in ("renamed", "alias"):
            answer = await rig.post({"messages": [{"model": "inner"}], "model": name})
            assert answer.json == {"model": name, "text": '"model":"engine/m"'}
            assert answer.header(b"content-length") == [b"%d" % len(answer.body)]
            sent = rig.engine.requests[-1].json
            assert sent == {"messages": [{"model": "inner"}], "model": "engine/m"}


async def test_a_huge_answer_streams_through(serve: MakeRig) -> None:
    """A body over the hold limit is on its way before its end has come, and stays whole."""
    turn = Turn()
    body = b"[" + b"1," * (BIG // 2) + b"1]"
    whole = response(body)
    async with serve([whole[:-1000], turn, whole[-1000:]]) as rig, rig.client() as client:
        client.send(post(CHAT))
        answer = await client.head()
        assert answer.header(b"content-length") == [b"%d" % len(body)]
        assert not turn.go.is_set()
        turn.go.set()
        assert b"".join([piece async for piece in client.pieces(answer)]) == body


async def test_a_huge_answer_of_a_renamed_model(serve: MakeRig) -> None:
    """The length that the client is told counts the new name."""
    body = b'{"model":"engine/m","data":[' + b"1," * (BIG // 2) + b"1]}"
    async with serve([response(body)]) as rig:
        answer = await rig.post({**CHAT, "model": "renamed"})
        assert answer.body == body.replace(b"engine/m", b"renamed")


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
@pytest.mark.parametrize("got", [0, 5])
async def test_a_cut_answer_is_an_error(serve: MakeRig, then: Then, got: int) -> None:
    """A body shorter than declared never reaches the client, whatever it looks like."""
    async with serve([response(b'{"ok":true}'[:got], length=40), then]) as rig:
        answer = await rig.post()
        assert (answer.status, answer.code) == (502, "upstream_error")
        assert answer.header(b"x-should-retry") == [b"false"]
        assert rig.outcomes() == {"retryable": 1}


async def test_a_cut_chunked_answer_is_an_error(serve: MakeRig) -> None:
    """No last chunk, no answer."""
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    async with serve([head, chunk(b'{"ok":true}'), Then.CLOSE]) as rig:
        assert (await rig.post()).status == 502


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_huge_answer_that_is_cut_cuts_the_client(serve: MakeRig, chunked: bool) -> None:
    """Past the commit point the only honest end is a broken connection."""
    body = b"1" * BIG
    script = [response(body, length=2 * BIG), Then.CLOSE]
    if chunked:
        script = [STREAM_HEAD.replace(b"event-stream", b"plain"), chunk(body), Then.CLOSE]
    async with serve(script) as rig:
        with pytest.raises(CutError):
            await rig.post()
        assert rig.outcomes() == {"failure": 1}


async def test_a_slow_reader_of_a_huge_answer_slows_the_engine(serve: MakeRig) -> None:
    """Bytes that the client does not read stay with the engine."""
    body = b"1" * (64 * 1024 * 1024)
    async with serve([response(body)]) as rig, rig.client() as client:
        client.send(post(CHAT))
        answer = await client.head()
        (upstream,) = rig.gateway.clusters["pool"].clients.values()
        (connection,) = upstream._all
        transport = connection._transport
        await eventually(lambda: not transport.is_reading())
        total = 0
        async for piece in client.pieces(answer):
            total += len(piece)
        assert total == len(body)
        assert rig.outcomes() == {"success": 1}


async def test_interim_responses_are_swallowed(serve: MakeRig) -> None:
    """100 and 103 are between the engine and the gateway."""
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    for script in ([interim + response()], [interim[:30], interim[30:], response()]):
        async with serve(script) as rig, rig.client() as client:
            for _ in range(2):
                answer = await client.ask(post(CHAT))
                assert (answer.status, answer.json) == (200, {"ok": True})
                assert not answer.header(b"link")


async def test_an_event_stream_request_may_get_a_plain_answer(serve: MakeRig) -> None:
    """A 200 that is not a stream is passed on as what it is."""
    async with serve([response(b'{"object":"chat.completion"}')]) as rig:
        answer = await rig.post(STREAM)
        assert answer.json == {"object": "chat.completion"}


async def test_requests_side_by_side_get_their_own_answers(serve: MakeRig) -> None:
    """Answers never change places between clients."""
    scripts = [[Turn(), response(json.dumps({"n": n}).encode())] for n in range(8)]
    async with serve(*scripts) as rig, asyncio.TaskGroup() as group:
        tasks = []
        for n in range(8):
            tasks.append(group.create_task(rig.post()))
            await rig.engine.wait_requests(n + 1)
        assert rig.inflight == 8
        for script in reversed(scripts):
            assert isinstance(script[0], Turn)
            script[0].go.set()
        assert [(await task).json["n"] for task in tasks] == list(range(8))

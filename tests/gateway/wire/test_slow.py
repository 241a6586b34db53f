"""Clients and engines that are slow: timers, back-pressure, and forms passed on as they come."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gateway.wire.downstream import UNREAD_S, DataPlaneProtocol
from tests.gateway.wire.test_malformed import check_refusal
from tests.support.engine import STREAM_HEAD, Then, chunk, response, token
from tests.support.raw import RawClient, post
from tests.support.rig import CHAT, STREAM, eventually
from tests.support.wire import Wire, wire

LINE = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n"
CHAT_BYTES = post(CHAT)
BODY_HEAD = LINE + b"Content-Length: 100\r\n\r\n"
FORMS = "/v1/audio/transcriptions"
TYPE = {"Content-Type": "multipart/form-data; boundary=b"}
FORM_LINE = f"POST {FORMS} HTTP/1.1\r\nHost: gateway\r\nContent-Type: {TYPE['Content-Type']}\r\n"
MIB = 1 << 20


def form(model: str = "m", audio: bytes = b"RIFF\r\n--\x00", *, model_last: bool = False) -> bytes:
    named = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n' % model.encode()
    file = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="model"\r\n'
        b"Content-Type: audio/wav\r\n\r\n%b\r\n" % audio
    )
    return b"".join([file, named] if model_last else [named, file]) + b"--b--\r\n"


async def reading(rig: Wire) -> None:
    """Wait until the gateway has begun to read the one client's message."""
    await eventually(lambda: rig.protocols and rig.protocols[0]._mid_message)


@pytest.mark.parametrize("sent", [b"P", LINE, LINE + b"X-A: "])
async def test_a_slow_head_is_refused(sent: bytes) -> None:
    """408 after the head's time, however much of it has come, and not before."""
    async with wire() as rig, rig.client() as client:
        client.send(sent)
        await reading(rig)
        rig.sweep_clients(14.0)
        assert not rig.protocols[0]._deaf
        rig.sweep_clients(16.0)
        await check_refusal(client, 408)


@pytest.mark.parametrize("learnt", [False, True], ids=["first", "familiar"])
async def test_a_slow_body_is_refused(learnt: bool) -> None:
    """408 after the body's time; what comes late is dropped and the connection still ends."""
    async with wire() as rig, rig.client() as client:
        if learnt:
            await client.ask(CHAT_BYTES)
        client.send(CHAT_BYTES[:-5])
        await eventually(lambda: rig.protocols and rig.protocols[0].active is not None)
        rig.sweep_clients(14.0)
        assert not rig.protocols[0]._deaf
        rig.sweep_clients(16.0)
        await check_refusal(client, 408)
        client.send(CHAT_BYTES[-5:] + CHAT_BYTES)
        await eventually(lambda: client.writer.transport.get_write_buffer_size() == 0)
        rig.sweep_clients(30.0)
        await eventually(lambda: not rig.protocols)
        assert len(rig.engine.requests) == int(learnt)


async def test_a_slow_body_of_a_control_route_is_refused() -> None:
    """The other plane's routes keep the same time."""
    async with wire() as rig, rig.client() as client:
        client.send(post({"model": "m"}, "/v1/generate")[:-3])
        await eventually(lambda: rig.state.tasks)
        rig.sweep_clients(16.0)
        await check_refusal(client, 408)


async def test_idle_connections_are_closed_without_a_word() -> None:
    """A new connection has the head's time, one that was served the keep-alive time."""
    async with wire() as rig, rig.client() as served, rig.client() as fresh:
        assert (await served.ask(CHAT_BYTES)).status == 200
        await eventually(lambda: len(rig.protocols) == 2)
        rig.sweep_clients(20.0)
        assert await fresh.ended()
        assert len(rig.protocols) == 1
        rig.sweep_clients(80.0)
        assert await served.ended()


async def stop_reading(rig: Wire, client: RawClient) -> DataPlaneProtocol:
    """Let the client read no further, and the kernel keep little for it."""
    await eventually(lambda: rig.protocols)
    for end in (rig.protocols[0].transport, client.writer.transport):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, option, 65536)
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a whole Transport
    return rig.protocols[0]


def read_on(client: RawClient) -> None:
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above


@pytest.mark.parametrize("at_once", [True, False])
async def test_who_asks_and_does_not_read_is_not_answered_on(at_once: bool) -> None:
    """What waits for it stays bounded, however much it asks for; it gets all once it reads."""
    body, count = b"x" * (MIB // 2), 20
    async with wire([response(body)]) as rig, rig.client() as client:
        protocol = await stop_reading(rig, client)
        client.send(CHAT_BYTES * (count if at_once else 1))
        for number in range(1, 1 if at_once else count):
            await eventually(lambda number=number: protocol._full or protocol._served >= number)
            client.send(CHAT_BYTES)
        await eventually(lambda: protocol._full)
        assert len(rig.engine.requests) < count
        assert protocol.transport.get_write_buffer_size() < 3 * len(body)
        read_on(client)
        assert {(await client.answer()).body for _ in range(count)} == {body}
        assert len(rig.engine.requests) == count


@pytest.mark.parametrize("fields", [{}, {"Connection": "close"}])
async def test_an_answer_that_nobody_reads_is_not_kept_for_ever(fields: dict[str, str]) -> None:
    """As long as something of it goes out, it may take its time."""
    async with wire([response(b"x" * MIB)]) as rig, rig.client() as client:
        protocol = await stop_reading(rig, client)
        client.send(post(CHAT, fields=fields))
        await eventually(lambda: protocol._served)
        rig.sweep_clients(0)
        protocol._unsent += 1  # As if a byte of it had gone out since.
        rig.sweep_clients(UNREAD_S)
        rig.sweep_clients(2 * UNREAD_S - 1)
        await asyncio.sleep(0.01)  # Else the end would be heard of by now.
        assert protocol in rig.protocols
        rig.sweep_clients(2 * UNREAD_S + 1)
        await eventually(lambda: not rig.protocols)


async def test_a_drain_ends_a_connection_whose_client_does_not_read() -> None:
    """With what it has been answered, once it reads; nothing else is under way on it."""
    body = b"x" * MIB
    async with wire([response(body)]) as rig, rig.client() as client:
        protocol = await stop_reading(rig, client)
        client.send(CHAT_BYTES)
        await eventually(lambda: protocol._full)
        protocol.shutdown()
        read_on(client)
        assert (await client.answer()).body == body
        assert await client.ended()


async def test_a_slow_reader_pauses_the_engine() -> None:
    """Of an endless answer no more is held than the socket's high water and a read."""
    flood = [STREAM_HEAD, *[chunk(token("x" * 1000) * 60)] * 400]
    async with wire([*flood, Then.HANG]) as rig, rig.client() as client:
        client.writer.transport.pause_reading()
        client.send(post(STREAM))
        await eventually(lambda: rig.protocols and rig.protocols[0].write_paused)
        transport = rig.protocols[0].transport
        assert transport.get_write_buffer_size() < MIB
        connection = next(iter(rig.gateway.clusters["pool"].clients.values()))
        (upstream,) = connection._all
        assert upstream._transport is not None
        assert not upstream._transport.is_reading()
        rig.pass_time(500)  # The engine was not silent: it was told to wait.
        assert rig.inflight == 1
        client.writer.transport.resume_reading()
        answer = await client.head()
        assert answer.status == 200
        for _ in range(100):
            assert await client.piece()
        client.leave()
        await rig.settled()


@pytest.mark.parametrize("model_last", [False, True])
@pytest.mark.parametrize("name", ["m", "renamed"])
@pytest.mark.parametrize("coded", [False, True], ids=["length", "chunked"])
async def test_forms_reach_the_engine(model_last: bool, name: str, coded: bool) -> None:
    """Whole or in pieces; only the model's name changes, and the length with it."""
    sent = form(name, model_last=model_last)
    request = post(sent, FORMS, TYPE)
    if coded:
        pieces = [sent[n : n + 50] for n in range(0, len(sent), 50)]
        body = b"".join(chunk(piece) for piece in pieces) + b"0\r\n\r\n"
        request = FORM_LINE.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + body
    want = form("engine/m" if name == "renamed" else "m", model_last=model_last)
    async with wire() as rig:
        for cut in (len(request), len(request) // 2, len(request) - 3):
            async with rig.client() as client:
                client.send(request[:cut])
                if cut < len(request):
                    await reading(rig)
                client.send(request[cut:])
                assert (await client.answer()).status == 200
                assert (await client.ask(CHAT_BYTES)).status == 200
            await eventually(lambda: not rig.protocols)
        assert [one.body for one in rig.engine.requests[::2]] == [want] * 3


async def test_a_form_with_a_broken_chunk_is_refused() -> None:
    """The upload under way is given up: the engine sees it cut, the client gets its 400."""
    async with wire([Then.DEAF, Then.HANG]) as rig, rig.client() as client:
        client.send(FORM_LINE.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(form()[:-5]))
        received = await rig.engine.wait_requests(1)
        client.send(b"zz\r\n" + CHAT_BYTES)
        await check_refusal(client, 400)
        await received.left.wait()
        assert len(rig.engine.requests) == 1


async def test_an_early_answer_to_a_form_ends_both_connections() -> None:
    """An engine that refuses before the end is heard; neither socket carries another request."""
    sent = form(audio=b"a" * MIB)
    request = post(sent, FORMS, TYPE)
    early = response(b"{}", b"413 Content Too Large")
    async with wire([Then.DEAF, early, Then.HANG], [response()]) as rig:
        async with rig.client() as client:
            client.send(request[:1000])
            await rig.engine.wait_requests(1)
            client.send(request[1000:2000])
            answer = await client.answer()
            assert (answer.status, answer.header(b"connection")) == (413, [b"close"])
            assert await client.ended()
        assert (await rig.post()).status == 200
        assert [one.connection for one in rig.engine.requests] == [0, 1]


async def test_a_slow_engine_makes_a_form_wait() -> None:
    """The client is paused, not refused for the wait, and no more is held than a few reads."""
    held: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    listener = await asyncio.start_server(lambda *pair: held.append(pair), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    sent = form(audio=b"a" * (24 * MIB))
    async with wire(cluster={"endpoints": [{"url": url}]}) as rig, rig.client() as client:
        client.send(post(sent, FORMS, TYPE))
        await eventually(lambda: rig.protocols and rig.protocols[0].flow.read_paused)
        active = rig.protocols[0].active
        assert active is not None
        assert active._rest is not None
        assert active._rest._queued_bytes < MIB
        rig.sweep_clients(100_000.0)
        assert not rig.protocols[0]._deaf
        ((reader, writer),) = held
        assert b"\r\ncontent-length: %d\r\n" % len(sent) in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(sent)) == sent
        writer.write(response())
        assert (await client.answer()).status == 200
        writer.close()
    listener.close()

"""A gateway that is ended by force tells each client so at once, wherever its request is."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.errors import shutting_down
from gateway.wire.upstream import Address, Client
from tests.support.engine import Script, Then, Turn, response, stream, token
from tests.support.failover import Failover, failover
from tests.support.raw import Answer, RawClient, post
from tests.support.rig import CHAT, STREAM, eventually

SOON_S = 0.9
"""Before every connection is cut (`gateway.host.FORCE_S`)."""


async def told(client: RawClient) -> Answer:
    """Read the answer that says that the gateway ends; it comes soon."""
    async with asyncio.timeout(SOON_S):
        answer = await client.answer()
    assert (answer.status, answer.code) == (503, "overloaded")
    assert answer.json["error"]["message"] == shutting_down().message
    assert answer.header(b"x-should-retry") == [b"true"]
    return answer


async def test_in_the_queue() -> None:
    """Its place comes free at that moment, but it is not given to it."""
    one = {"max_inflight": 1}
    async with (
        failover([[Then.HANG]], cluster=one) as rig,
        rig.client() as first,
        rig.client() as second,
    ):
        first.send(post(CHAT))
        await rig.engines[0].wait_requests(1)
        second.send(post(CHAT))
        gate = rig.gateway.clusters["pool"].gate
        await eventually(lambda: gate.waiting(1) == 1)
        rig.gateway.force()
        await told(first)
        await told(second)
        assert rig.asked == [1]
        assert not any(gate.refused.values())  # The gateway was not too busy.


async def test_in_the_pause_before_another_attempt() -> None:
    """However long the engine wants to be left alone."""
    busy: Script = [response(b"{}", b"429 Slow", [(b"retry-after", b"5")])]
    async with failover([busy]) as rig, rig.client() as client:
        client.send(post(CHAT))
        await rig.engines[0].wait_requests(1)
        (endpoint,) = rig.gateway.clusters["pool"].endpoints
        await eventually(lambda: endpoint.inflight == 0)
        await asyncio.sleep(0.05)
        rig.gateway.force()
        async with asyncio.timeout(SOON_S):
            answer = await client.answer()
        assert answer.status == 429  # The engine's own answer is as good.
        assert rig.asked == [1]


@asynccontextmanager
async def deaf() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Listen and say nothing; who speaks TLS waits for the other's hello."""
    called = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        await reader.read(-1)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", called
    finally:
        server.close()


async def test_while_the_engine_is_dialled() -> None:
    """It need not be there."""
    async with deaf() as (url, called), failover([[response()]]) as rig, rig.client() as client:
        at = int(url.rpartition(":")[2])
        cluster = rig.gateway.clusters["pool"]
        address = Address("127.0.0.1", at, tls=ssl.create_default_context(), connect_s=60)
        (name,) = cluster.clients
        cluster.clients[name] = Client(address, rig.clock.monotonic)
        client.send(post(CHAT))
        async with asyncio.timeout(10):
            await called.wait()
        rig.gateway.force()
        await told(client)


async def test_a_request_that_comes_too_late() -> None:
    """Its connection was open; it is ended with the next sweep."""
    async with failover([[Then.HANG]]) as rig, rig.client() as client:
        rig.gateway.force()
        client.send(post(CHAT))
        await told(client)


async def test_a_stream_that_is_being_resumed() -> None:
    """One error, no end mark."""
    broken = [*stream(token("a"), whole=False), Then.YIELD, Then.RESET]
    async with failover([broken], [[Turn()]]) as rig, rig.client() as client:
        client.send(post({**STREAM, "temperature": 0}))
        await rig.engines[1].wait_requests(1)
        await cut_short(rig, client)


async def test_a_stream_that_waits_for_a_place_to_go_on() -> None:
    """The other endpoint is full."""
    broken = [*stream(token("a"), whole=False), Then.YIELD, Then.RESET]
    async with (
        failover([broken], [[Then.HANG]], cluster={"max_inflight": 2}) as rig,
        rig.client() as other,
        rig.client() as client,
    ):
        pool = rig.gateway.clusters["pool"]
        first, second = pool.endpoints
        second.max_inflight = 1
        first.drain()
        other.send(post(CHAT))
        await rig.engines[1].wait_requests(1)
        first.undrain(rig.clock.now)
        client.send(post({**STREAM, "temperature": 0}))
        await eventually(lambda: first.inflight == 0 and rig.asked == [1, 1])
        first.drain()
        await cut_short(rig, client)
        await told(other)


async def cut_short(rig: Failover, client: RawClient) -> None:
    """End the gateway; the stream says so."""
    rig.gateway.force()
    async with asyncio.timeout(SOON_S):
        body = (await client.answer()).body
    assert body == token("a") + shutting_down().event()

"""A request reaches the engine once, on a connection that nothing is left over on."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import ANY

import pytest

from gateway.dispatch.attempt import send, send_streaming
from gateway.errors import GatewayError
from gateway.relay.reply import Reply
from gateway.relay.watch import ChatWatcher
from gateway.telemetry.metrics import Histogram
from gateway.wire.guard import ResponseHead
from gateway.wire.types import UpstreamError
from gateway.wire.upstream import IDLE_EXPIRY_S, Address, Client
from tests.support.control import ManualClock
from tests.support.engine import Engine, Script, Then, Turn, chunk, response
from tests.support.raw import PATIENCE_S
from tests.support.rig import eventually

GET_ON = b"POST /x HTTP/1.1\r\nhost: e\r\ncontent-length: 2\r\n\r\nhi"
BEGINNING = b"POST /x HTTP/1.1\r\nhost: e\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"one")
END = b"0\r\n\r\n"


class Bench:
    """One client of one engine, and replies for it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.clock = ManualClock()
        self.client = Client(Address("127.0.0.1", engine.port), self.clock.monotonic)

    def reply(self) -> Reply:
        gaps = Histogram((1.0,))
        return Reply(lambda: ChatWatcher(1, strip_usage=False), None, gaps, self.clock.monotonic)

    async def send_on(self, request: bytes, *, once: bool = False) -> Reply:
        clock = self.clock.monotonic
        return await send(self.client, request, self.reply, clock, math.inf, once)

    async def send(self) -> Reply:
        async with asyncio.timeout(PATIENCE_S):
            return await self.send_on(GET_ON)

    async def send_streaming(self, rest: AsyncIterator[bytes]) -> Reply:
        async with asyncio.timeout(PATIENCE_S):
            return await send_streaming(
                self.client, BEGINNING, rest, self.reply, self.clock.monotonic, math.inf
            )

    async def settled(self, count: int) -> None:
        """Wait until the engine has `count` connections open."""
        await eventually(lambda: self.client.open_connections == self.engine.open == count)


@contextmanager
def bench(engine: Engine) -> Iterator[Bench]:
    one = Bench(engine)
    try:
        yield one
    finally:
        one.client.close()


async def pieces(*items: bytes | Turn) -> AsyncIterator[bytes]:
    """Yield pieces of a body; a turn waits for the test in between."""
    for item in items:
        if isinstance(item, Turn):
            item.reached.set()
            await item.go.wait()
        else:
            yield item


async def test_a_connection_carries_one_request_after_the_other() -> None:
    """Three answers, the last two of a familiar head, over one socket."""
    async with Engine([response(b"1")], [response(b"22")], [response(b"3")]) as engine:
        with bench(engine) as one:
            bodies = [(await one.send()).body for _ in range(3)]
            assert bodies == [b"1", b"22", b"3"]
            assert (engine.connections, one.client.open_connections) == (1, 1)
            assert [request.body for request in engine.requests] == [b"hi"] * 3


async def test_a_connection_idle_for_too_long_is_not_used() -> None:
    """The engine would close it at the same moment."""
    async with Engine([response()]) as engine:
        with bench(engine) as one:
            await one.send()
            one.clock.now += IDLE_EXPIRY_S
            await one.send()
            assert engine.connections == 2
            await one.settled(1)


@pytest.mark.parametrize("end", [Then.CLOSE, Then.RESET])
async def test_a_stale_connection_is_tried_again_on_a_new_one(end: Then) -> None:
    """A kept connection that closes without a byte costs the client nothing."""
    async with Engine([response()], [end], [response(b"again")]) as engine:
        with bench(engine) as one:
            await one.send()
            assert (await one.send()).body == b"again"
            assert len(engine.requests) == 3


async def test_it_is_tried_again_once_only() -> None:
    """A new connection that closes as well is the engine's failure."""
    async with Engine([response()], [Then.CLOSE]) as engine:
        with bench(engine) as one:
            await one.send()
            reply = await one.send()
            assert reply.failure is not None
            assert len(engine.requests) == 3


@pytest.mark.parametrize("script", [[b"H", Then.CLOSE], [b"HTTP/1.1 200 OK\r\n\r", Then.RESET]])
async def test_a_request_that_was_answered_at_all_is_not_sent_again(script: Script) -> None:
    """One byte of response says that the engine has read the request."""
    async with Engine([response()], script) as engine:
        with bench(engine) as one:
            await one.send()
            reply = await one.send()
            assert reply.failure is not None
            assert len(engine.requests) == 2


async def test_an_engine_that_is_not_there_is_an_error() -> None:
    """Nothing listens on the port any more."""
    async with Engine([response()]) as engine:
        pass
    with bench(engine) as one, pytest.raises(UpstreamError, match="cannot be reached"):
        await one.send()


async def test_a_cancelled_request_closes_its_connection() -> None:
    """The engine sees its client leave."""
    async with Engine([Then.HANG]) as engine:
        with bench(engine) as one:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(one.send())
                request = await engine.wait_requests(1)
                sending.cancel()
            async with asyncio.timeout(PATIENCE_S):
                await request.left.wait()
            await one.settled(0)


async def test_a_cancel_in_the_turn_of_the_last_byte_leaves_the_connection_alone() -> None:
    """The answer is whole and its connection free again, maybe another request's by now."""

    class Leaving(Reply):
        """Its client leaves once the reply has woken the sender, before that has run on."""

        __slots__ = ()

        def data(self, data: bytes, *, last: bool) -> None:
            super().data(data, last=last)
            sending.cancel()

    async with Engine([response()]) as engine:
        with bench(engine) as one:
            gaps = Histogram((1.0,))

            def reply() -> Reply:
                watcher = ChatWatcher(1, strip_usage=False)
                return Leaving(lambda: watcher, None, gaps, one.clock.monotonic)

            sent = send(one.client, GET_ON, reply, one.clock.monotonic, math.inf)
            sending = asyncio.ensure_future(sent)
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert one.client.take(one.clock.now) is not None
            await one.settled(1)


@pytest.mark.parametrize("familiar", [False, True])
async def test_who_fails_on_an_answer_is_told_that_it_ended(familiar: bool) -> None:
    """Whoever waits for it would wait for ever, else; and the connection is nobody's again."""

    class Failing(Reply):
        """Has a defect."""

        __slots__ = ()

        def data(self, data: bytes, *, last: bool) -> None:
            raise ZeroDivisionError

        def whole(self, head: ResponseHead, body: bytes) -> None:
            raise ZeroDivisionError

    heard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    async with Engine([response()]) as engine:
        with bench(engine) as one:
            if familiar:
                await one.send()
            gaps, clock = Histogram((1.0,)), one.clock.monotonic

            def reply() -> Reply:
                return Failing(lambda: ChatWatcher(1, strip_usage=False), None, gaps, clock)

            async with asyncio.timeout(PATIENCE_S):
                found = await send(one.client, GET_ON, reply, clock, math.inf)
            assert found.failure is not None
            assert "The gateway failed" in found.failure.message
            assert [type(one["exception"]) for one in heard] == [ZeroDivisionError]
            assert one.client.take(one.clock.now) is None
            await one.settled(0)


# Bodies that are still coming.


async def test_a_body_is_passed_on_while_it_comes() -> None:
    """The engine gets it whole, and the connection may carry the next request."""
    async with Engine([response(b"1")], [response(b"2")]) as engine:
        with bench(engine) as one:
            reply = await one.send_streaming(pieces(chunk(b"two"), END))
            assert (reply.body, engine.requests[0].body) == (b"1", b"onetwo")
            await one.send()
            assert engine.connections == 1


@pytest.mark.parametrize("familiar", [False, True])
async def test_an_answer_before_the_end_of_the_body_ends_the_connection(familiar: bool) -> None:
    """Half a request on it would swallow the next one: nobody may use it again."""
    refusal = response(b"no") if familiar else response(b"no", b"413 Too Large")
    before: list[Script] = [[response(b"ok")]] if familiar else []
    async with Engine(*before, [Then.DEAF, refusal], [response(b"next")]) as engine:
        with bench(engine) as one:
            for _ in before:
                await one.send()
            turn = Turn()
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(one.send_streaming(pieces(turn, chunk(b"two"), END)))
                await turn.reached.wait()
                await engine.wait_requests(len(before) + 1)
                await one.settled(len(before))
                turn.go.set()
            assert sending.result().body == b"no"
            assert (await one.send()).body == b"next"
            assert [request.body for request in engine.requests[-1:]] == [b"hi"]


async def test_a_broken_body_closes_the_connection() -> None:
    """What the client did not send cannot be finished for it."""

    async def broken() -> AsyncIterator[bytes]:
        yield chunk(b"two")
        raise GatewayError(400, "x", "broken")

    async with Engine([Then.DEAF, Then.HANG]) as engine:
        with bench(engine) as one:
            with pytest.raises(GatewayError, match="broken"):
                await one.send_streaming(broken())
            await one.settled(0)
            assert engine.requests == [ANY]

"""How is one request put to one endpoint?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from gateway.relay.reply import Reply
from gateway.wire.connection import Connection
from gateway.wire.upstream import Client


class Way:
    """How one request's attempts are made: what is the same for each of them."""

    __slots__ = ("monotonic", "new_reply", "once", "until")

    def __init__(
        self,
        new_reply: Callable[[], Reply],
        monotonic: Callable[[], float],
        until: float,
        *,
        once: bool = False,
    ) -> None:
        """`until` is when the reply must be ready; `once`: never send it twice, on no account."""
        self.new_reply = new_reply
        self.monotonic = monotonic
        self.until = until
        self.once = once


async def send(client: Client, request: bytes, way: Way) -> Reply:
    """Put `request` to the endpoint and wait for the commit point of its reply.

    A kept-alive connection may be closed by the engine at the moment it is used; if not a byte
    of response came, the request goes once more on a new connection. Raises `UpstreamError` if
    no connection can be made; what happens after that is told by the reply.
    """
    now = way.monotonic()
    connection = None if way.once else client.take(now)
    fresh = connection is None
    while True:
        if connection is None:
            connection = await client.dial(way.until - now)
            now = way.monotonic()
        reply = way.new_reply()
        try:
            connection.send(request, reply, now, way.until)
            if not reply.ended:  # It cannot have begun yet, only failed.
                await reply.news()
        except BaseException:  # Cancelled: the engine must see its client leave.
            _give_up(connection, reply)
            raise
        lost_by = reply.lost_by
        if fresh or lost_by is None or not lost_by.stale:
            return reply
        connection, fresh = None, True


async def send_streaming(
    client: Client, request: bytes, rest: AsyncIterator[bytes], way: Way
) -> Reply:
    """Put a request to the endpoint whose body is still coming: `request`, then each of `rest`.

    A body can be sent only once, so the connection is always a new one: it cannot be stale.
    """
    connection = await client.dial(way.until - way.monotonic())
    reply = way.new_reply()
    try:
        connection.send(request, reply, way.monotonic(), way.until)
        connection.begin_unfinished()
        await _pump(connection, rest, reply)
        if not reply.ready:
            await reply.news()
    except BaseException:  # As above; also a client's broken body.
        _give_up(connection, reply)
        raise
    return reply


def _give_up(connection: Connection, reply: Reply) -> None:
    """Drop the connection, unless it has carried its reply to the end: then it is another's now.

    A client may leave in the very turn of the loop in which the last byte of its answer has come.
    """
    if not reply.ended:
        connection.close()


async def _pump(connection: Connection, rest: AsyncIterator[bytes], reply: Reply) -> None:
    async for piece in rest:
        if reply.answered:
            return  # Without reading on: a refusal.
        await connection.send_more(piece)
    connection.end_unfinished()

"""How is one request put to one endpoint?"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from gateway.relay.reply import Reply
from gateway.wire.connection import Connection
from gateway.wire.upstream import Client


async def send(
    client: Client,
    request: bytes,
    new_reply: Callable[[], Reply],
    monotonic: Callable[[], float],
    until: float,
    once: bool = False,
) -> Reply:
    """Put `request` to the endpoint and wait for the commit point of its reply.

    `until` is when that must be reached (monotonic seconds). A kept-alive connection may be closed
    by the engine at the moment it is used; if not a byte of response came, the request goes once
    more on a new connection, but not with `once`: then it is never sent twice, on no account.
    Raises `UpstreamError` if no connection can be made; what happens after that is told by the
    reply.
    """
    now = monotonic()
    connection = None if once else client.take(now)
    fresh = connection is None
    while True:
        if connection is None:
            connection = await client.dial(until - now)
            now = monotonic()
        reply = new_reply()
        try:
            connection.send(request, reply, now, until)
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
    client: Client,
    request: bytes,
    rest: AsyncIterator[bytes],
    new_reply: Callable[[], Reply],
    monotonic: Callable[[], float],
    until: float,
) -> Reply:
    """Put a request to the endpoint whose body is still coming: `request`, then each of `rest`.

    A body can be sent only once, so the connection is always a new one: it cannot be stale.
    """
    connection = await client.dial(until - monotonic())
    reply = new_reply()
    try:
        connection.send(request, reply, monotonic(), until)
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

"""How is one request put to one endpoint?"""

from __future__ import annotations

from collections.abc import Callable

from gateway.relay.reply import Reply
from gateway.wire.types import UpstreamError
from gateway.wire.upstream import Client, Connection


class Attempt:
    """One request at one endpoint: the reply, and the connection that it comes on."""

    __slots__ = ("connection", "reply")

    def __init__(self, connection: Connection, reply: Reply) -> None:
        self.connection = connection
        self.reply = reply

    def cancel(self) -> None:
        """Give the answer up; the engine sees its client leave and frees the sequence."""
        if not self.reply.ended:
            self.connection.close()


async def send(
    client: Client, request: bytes, new_reply: Callable[[], Reply], monotonic: Callable[[], float]
) -> Attempt:
    """Put `request` to the endpoint and wait for the commit point of its reply.

    A kept-alive connection may be closed by the engine at the moment it is used; if not a byte
    of response came, the request goes once more on a new connection. Raises `UpstreamError` if
    no connection can be made; what happens after that is told by the reply.
    """
    now = monotonic()
    connection = client.take(now)
    if connection is not None:
        attempt = await _exchange(connection, request, new_reply(), now)
        if attempt.reply.lost_by is None or not attempt.reply.lost_by.stale:
            return attempt
    connection = await client.dial()
    return await _exchange(connection, request, new_reply(), monotonic())


async def _exchange(connection: Connection, request: bytes, reply: Reply, now: float) -> Attempt:
    try:
        connection.send(request, reply, now)
        await reply.ready()
    except UpstreamError as error:
        reply.lost(error)
    except BaseException:
        connection.close()
        raise
    return Attempt(connection, reply)

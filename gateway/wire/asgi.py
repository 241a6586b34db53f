"""How does the data plane run under any ASGI server, without our protocol class?

The plain adapter: the same guard, the same proxy core, the same answers; slower, because every
chunk passes a queue and a task. What only a server can refuse (two Host fields that it merges, a
slow head) is left to that server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.errors import GatewayError, bad_request
from gateway.model import Body, Route
from gateway.wire.guard import Head, Limits, body_too_large, read_head
from gateway.wire.queued import AbortedError, QueuedDownstream, ask
from gateway.wire.types import Refuse, Request, Serve


class DataPlaneApp:
    """ASGI middleware: data-plane requests go to the proxy core, everything else to `app`."""

    def __init__(
        self,
        app: ASGIApp,
        routes: Mapping[bytes, Route],
        serve: Serve,
        refuse: Refuse,
        limits: Limits,
    ) -> None:
        self._app = app
        self._routes = routes
        self._serve = serve
        self._refuse = refuse
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        route = None
        if scope["type"] == "http" and scope["method"] == "POST":
            # As on the wire: a decoded `%2F` must not make a path that the table holds.
            route = self._routes.get(scope.get("raw_path") or scope["path"].encode())
        if route is None:
            await self._app(scope, receive, send)
            return
        peer = scope.get("client")
        client = peer[0] if peer else ""
        head = Head(b"")
        try:
            head = read_head(
                [(name.lower(), value) for name, value in scope["headers"]],
                self._limits,
                http_1_0=scope.get("http_version") == "1.0",
            )
            if route.body is Body.ANY:
                head.query = scope["query_string"]
            body = await self._body(receive, head)
        except GatewayError as error:
            lines = self._refuse(route, head, error, client)
            await _answer(_whole(error, lines, route), send)
            return
        if body is None:
            return
        request = Request(route, head, body, client)
        async with ask(self._serve, request) as down, asyncio.TaskGroup() as group:
            answer = group.create_task(_answer(down, send))
            gone = group.create_task(_disconnected(receive))
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            answer.cancel()
            gone.cancel()

    async def _body(self, receive: Receive, head: Head) -> bytes | None:
        """Return the whole body, or None if the client left."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size > self._limits.body_bytes:
                raise body_too_large(self._limits)
            parts.append(part)
            if not message.get("more_body", False):
                break
        if head.content_length is not None and size != head.content_length:
            raise bad_request("The request body is not as long as declared.")
        return b"".join(parts)


async def _answer(down: QueuedDownstream, send: Send) -> None:
    status, headers = await down.head()
    await send({"type": "http.response.start", "status": status, "headers": headers})
    try:
        async for piece in down.pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except AbortedError:
        return  # Returning without the last piece makes the server cut the connection.
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _whole(error: GatewayError, lines: bytes, route: Route) -> QueuedDownstream:
    down = QueuedDownstream()
    down.respond(error.status, lines, error.body(route.shape))
    return down

"""What holds for every request of the control routes, whichever it is?

An ASGI layer around the whole app: each request has an id, a body under the cap, HEAD where there
is GET, and a failure of ours is logged here and told without its details.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.control.answer import cut_short
from gateway.control.failures import error_response
from gateway.control.headers import request_id, values
from gateway.control.view import CutError
from gateway.errors import GatewayError, bad_request, internal_error
from gateway.wire.guard import Limits, body_too_large

_LOG = logging.getLogger("sluice.control")

_HEADS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


class Edge:
    """The outermost layer of the app, and the root of its tasks."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._limits = Limits(body_bytes=max_body_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, WebSocket or lifespan. Raises only when it is cancelled."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        name = request_id(scope["headers"]) or secrets.token_hex(16)
        headers = [field for field in scope["headers"] if field[0] != b"x-request-id"]
        inner = {**scope, "headers": [*headers, (b"x-request-id", name.encode())]}
        sender = _Sender(send, name.encode(), bodiless=scope.get("method") == "HEAD")
        if scope["type"] == "websocket":
            await self._websocket(inner, receive, sender)
            return
        if sender.bodiless:
            inner["method"] = "GET"
        await self._http(inner, receive, sender)

    async def _http(self, scope: Scope, receive: Receive, send: _Sender) -> None:
        try:
            _check_length(scope, self._limits)
            await self._app(scope, _Capped(receive, self._limits), send)
        except ClientDisconnect:
            return
        except Exception as error:  # the task's root: nobody is above to tell
            await self._fail(scope, receive, send, error)

    async def _fail(self, scope: Scope, receive: Receive, send: _Sender, error: Exception) -> None:
        """Answer with the error, or leave the response unfinished, so that the host cuts it."""
        path = scope["path"]
        if isinstance(error, GatewayError):
            shown = error
        elif isinstance(error, CutError):
            _LOG.warning("The answer to %s was cut.", path)
            shown = cut_short()
        else:
            _LOG.error("The request to %s failed.", path, exc_info=error)
            shown = internal_error()
        if not send.started:
            await error_response(shown)(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: _Sender) -> None:
        inbox = _Inbox(receive)
        try:
            await self._app(scope, inbox, send)
        except Exception:  # the task's root: nobody is above to tell
            _LOG.exception("The WebSocket %s failed.", scope["path"])
            if not inbox.left and not send.closed:
                await send({"type": "websocket.close", "code": 1011, "reason": "internal error"})


class _Sender:
    """Puts the request's id into the response head, and remembers how far the response is."""

    def __init__(self, send: Send, name: bytes, *, bodiless: bool) -> None:
        self._send = send
        self._name = name
        self.bodiless = bodiless
        self.started = False
        self.closed = False

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind in _HEADS:
            self.started = True
            kept = [field for field in message.get("headers", ()) if field[0] != b"x-request-id"]
            message = {**message, "headers": [*kept, (b"x-request-id", self._name)]}
        elif kind == "websocket.close":
            self.closed = True
        elif kind == "http.response.body" and self.bodiless:
            message = {**message, "body": b""}
        await self._send(message)


@dataclass(slots=True)
class _Capped:
    """Receives a request body up to the cap; raises `GatewayError` 413 past it."""

    receive: Receive
    limits: Limits
    received: int = 0

    async def __call__(self) -> Message:
        message = await self.receive()
        self.received += len(message.get("body", b""))
        if self.received > self.limits.body_bytes:
            raise body_too_large(self.limits)
        return message


@dataclass(slots=True)
class _Inbox:
    """Receives a WebSocket's messages and remembers whether the client has left."""

    receive: Receive
    left: bool = False

    async def __call__(self) -> Message:
        message = await self.receive()
        self.left = self.left or message["type"] == "websocket.disconnect"
        return message


def _check_length(scope: Scope, limits: Limits) -> None:
    """Refuse a declared body over the cap before any of it is read."""
    for value in values(scope["headers"], b"content-length"):
        if not value.isdigit():
            raise bad_request("The Content-Length header is not a number.")
        # Length first: int() of a megabyte of digits would be a denial of service of its own.
        if len(value) > 19 or int(value) > limits.body_bytes:
            raise body_too_large(limits)

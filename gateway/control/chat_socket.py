"""How does one WebSocket carry chats, one after the other?

    IDLE --chat request--> ANSWERING --"done", "cancelled" or an error--> IDLE

Each message of the client is a JSON chat request, or `{"type": "cancel"}`. A chat request streams
unless it says `"stream": false`. Back comes each chunk (or the plain answer) as one JSON message,
and then exactly one end: `{"type": "done"}`, `{"type": "cancelled"}` or `{"error": {…}}`. An error
leaves the socket open.

While an answer is under way a further request is refused with the error code `answer_in_progress`,
which ends nothing; a queue would only hide from the client that its requests are not answered in
parallel. A cancel that comes after the end is ignored: the two have crossed on the way. Closing the
socket cancels.

The handshake's fields, Authorization among them, go with every request. The request ids are the
handshake's with `-1`, `-2` and so on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import aclosing, suppress
from urllib.parse import urlsplit

from fastapi import APIRouter
from starlette.datastructures import Headers as StarletteHeaders
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from gateway.control.answer import AnswerError, as_error, cut_short, read_whole
from gateway.control.chat import CHAT_COMPLETIONS
from gateway.control.failures import error_response
from gateway.control.headers import address, forwarded, request_id
from gateway.control.relay import read_all, read_chunks
from gateway.control.strict import add_members, read_object
from gateway.control.view import Answer, Ask, CutError, GatewayView, Headers
from gateway.errors import GatewayError, bad_request, internal_error
from gateway.wire.guard import Limits, body_too_large

_LOG = logging.getLogger("sluice.control")

SERVICE_RESTART = 1012
"""The close code that tells a client to come again (IANA's registry of WebSocket codes)."""


def router(view: GatewayView, ask: Ask, limits: Limits, origins: Collection[str]) -> APIRouter:
    """Return the WebSocket route; browsers may come from their own origin and from `origins`."""
    routes = APIRouter()

    @routes.websocket("/v1/chat/ws")
    async def chat_socket(socket: WebSocket) -> None:
        if not may_connect(socket.headers, origins):
            await _deny(socket)
            return
        try:
            await socket.accept()
        except OSError:
            return  # The client has left between its handshake and our answer.
        await _Session(socket, view, ask, limits).run()

    return routes


def may_connect(headers: StarletteHeaders, origins: Collection[str]) -> bool:
    """Whether a handshake comes from a page that may use this gateway, or from no page at all.

    Browsers let any page open a WebSocket to any host, 127.0.0.1 included, and show whose page it
    is in Origin. The scheme is not compared: TLS may end in front of the gateway.
    """
    origin = headers.get("origin")
    if origin is None or "*" in origins or origin in origins:
        return True
    return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""


async def _deny(socket: WebSocket) -> None:
    error = GatewayError(403, "origin_not_allowed", "Pages of this origin may not connect.")
    if "websocket.http.response" in socket.scope.get("extensions", {}):
        await socket.send_denial_response(error_response(error))
    else:
        await socket.close(1008, error.message)


class _Session:
    """One connected client."""

    def __init__(self, socket: WebSocket, view: GatewayView, ask: Ask, limits: Limits) -> None:
        self._socket = socket
        self._view = view
        self._ask = ask
        self._limits = limits
        self._headers = forwarded(socket.headers.raw)
        self._client = address(socket)
        self._asked = 0
        self._answering: asyncio.Task[None] | None = None
        self._last: asyncio.Task[None] | None = None
        self._closing = self._closed = False

    async def run(self) -> None:
        """Serve until the client leaves; then cancel what is under way."""
        async with asyncio.TaskGroup() as group:
            closing = group.create_task(self._close())
            with suppress(WebSocketDisconnect):  # A send may be the first to notice.
                await self._listen(group)
            if self._answering is not None:
                self._answering.cancel()
            closing.cancel()

    async def _close(self) -> None:
        """When the gateway goes away, let the answer under way be the last one."""
        await self._view.closing()
        self._closing = True
        if self._last is not None:
            await asyncio.wait((self._last,))
        self._closed = True
        with suppress(WebSocketDisconnect, RuntimeError):  # The client may be faster.
            await self._socket.close(SERVICE_RESTART, "the gateway is shutting down")

    async def _listen(self, group: asyncio.TaskGroup) -> None:
        while (message := await self._socket.receive())["type"] == "websocket.receive":
            try:
                await self._take(message, group)
            except GatewayError as error:
                await self._send(error.body())

    async def _take(self, message: Message, group: asyncio.TaskGroup) -> None:
        """Begin an answer, or cancel one. Raises `GatewayError` for a message that is neither."""
        text = message.get("text")
        body = text.encode() if text is not None else message["bytes"]
        if len(body) > self._limits.body_bytes:
            raise body_too_large(self._limits)
        chat = read_object(body)
        if "type" in chat:
            if chat["type"] != "cancel":
                raise bad_request("The only message with a `type` is `cancel`.", "type")
            await self._cancel()
            return
        if self._answering is not None:
            raise GatewayError(
                409, "answer_in_progress", "An answer is under way; wait for its end or cancel it."
            )
        if self._closing:
            raise GatewayError(503, "overloaded", "The gateway is shutting down.", retry=True)
        if "stream" not in chat:
            body = add_members(body, {"stream": True})
        self._asked += 1
        self._last = self._answering = group.create_task(self._answer(body))

    async def _cancel(self) -> None:
        answering, self._answering = self._answering, None
        if answering is None:
            return
        answering.cancel()
        await asyncio.wait((answering,))
        await self._send(b'{"type":"cancelled"}')

    async def _answer(self, body: bytes) -> None:
        with suppress(WebSocketDisconnect):  # The listener sees it too, and ends the session.
            end = await self._relay(body)
            # First idle, then the end's message: the client may ask again as soon as it has it.
            self._answering = None
            await self._send(end)

    async def _relay(self, body: bytes) -> bytes:
        """Send the answer's chunks, and return the message that ends it."""
        try:
            headers = self._request_headers()
            async with self._ask(CHAT_COMPLETIONS, headers, body, self._client) as answer:
                await self._show(answer)
        except AnswerError as error:
            return error.body
        except CutError:
            return cut_short().body()
        except GatewayError as error:
            return error.body()
        except WebSocketDisconnect:
            raise
        except Exception:  # the answer's root: its failure must not end the client's other chats
            _LOG.exception("A chat on a WebSocket failed.")
            return internal_error().body()
        return b'{"type":"done"}'

    async def _show(self, answer: Answer) -> None:
        if answer.status != 200:
            raise AnswerError(as_error(answer.status, await read_all(answer)))
        kinds = [value for name, value in answer.headers if name == b"content-type"]
        if not kinds or not kinds[0].startswith(b"text/event-stream"):
            body = await read_all(answer)
            read_whole(body)
            await self._send(body)
            return
        async with aclosing(read_chunks(answer)) as chunks:
            async for text, _ in chunks:
                await self._send(text)

    def _request_headers(self) -> Headers:
        # The id keeps within the 128 characters that the data path accepts.
        name = (request_id(self._headers) or "ws")[:110]
        kept = [field for field in self._headers if field[0] != b"x-request-id"]
        return [*kept, (b"x-request-id", f"{name}-{self._asked}".encode())]

    async def _send(self, message: bytes) -> None:
        if self._closed:
            return
        await self._socket.send_text(message.decode(errors="replace"))

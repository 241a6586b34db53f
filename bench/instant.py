"""What does a gateway cost or leak when the engine behind it costs nothing?

An engine that answers at once with recorded bytes, and can be told by a request header to stop
answering until its client has left. It shares the process of the clients, so that it can tell them
where their request is.

    x-hold: head      answer nothing
    x-hold: middle    begin a stream and never end it
"""

from __future__ import annotations

import asyncio
import re
from typing import Final, cast

_EVENT: Final = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
)
_USAGE: Final = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,"model":"m",'
    b'"choices":[],"usage":{"prompt_tokens":11,"total_tokens":19,"completion_tokens":8}}\n\n'
)
_PLAIN: Final = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1760000000,"model":"m","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"Paris."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":11,"total_tokens":13,"completion_tokens":2}}'
)
_MODELS: Final = b'{"object":"list","data":[{"id":"m","object":"model","max_model_len":4096}]}'
_CHUNKS: Final = 8
_HELD_CHUNKS: Final = 3
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_HOLD: Final = re.compile(rb"\r\nx-hold: *(head|middle)\r\n", re.IGNORECASE)
_ID: Final = re.compile(rb"\r\nx-request-id: *([^\r]+)\r\n", re.IGNORECASE)


def _whole(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_END: Final = _EVENT.replace(b"null}]", b'"stop"}]')
_BEGINNING: Final = _STREAM_HEAD + _chunk(_EVENT) * _HELD_CHUNKS
_REST: Final = (
    _chunk(_EVENT) * _CHUNKS
    + _chunk(_END)
    + _chunk(_USAGE)
    + _chunk(b"data: [DONE]\n\n")
    + b"0\r\n\r\n"
)
_ANSWERS: Final = {"health": _whole(b""), "models": _whole(_MODELS), "plain": _whole(_PLAIN)}


class InstantEngine:
    """The engine's side: who is connected, and which requests it holds."""

    def __init__(self) -> None:
        self.connections = 0
        """Open connections of the gateway's."""
        self.holding = 0
        """Requests that are held and whose client has not been seen to leave."""
        self.arrivals: dict[bytes, asyncio.Event] = {}
        """By request id: set when a held request has arrived."""

    async def serve(self) -> asyncio.Server:
        """Listen on a free port of 127.0.0.1."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Conversation(self), "127.0.0.1", 0)


class _Conversation(asyncio.Protocol):
    """One connection; requests come one after the other, as the gateway sends them."""

    def __init__(self, engine: InstantEngine) -> None:
        self._engine = engine
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._holds = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        self._transport = cast(asyncio.Transport, transport)
        self._engine.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it no longer, nor what it holds."""
        self._engine.connections -= 1
        self._engine.holding -= self._holds

    def data_received(self, data: bytes) -> None:
        """Answer once the request is whole."""
        self._received += data
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = _LENGTH.search(head)
        if length is not None and len(rest) < int(length[1]):
            return
        self._received = b""
        assert self._transport is not None  # noqa: S101  data comes after connection_made
        self._transport.write(self._answer(head + b"\r\n", rest))

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"GET"):
            return _ANSWERS["models" if b"/v1/models" in head[:64] else "health"]
        hold, ident = _HOLD.search(head), _ID.search(head)
        if hold is None:
            return self._stream() if b'"stream":true' in body else _ANSWERS["plain"]
        self._holds = True
        self._engine.holding += 1
        if ident is not None and ident[1] in self._engine.arrivals:
            self._engine.arrivals[ident[1]].set()
        return _BEGINNING if hold[1].lower() == b"middle" else b""

    def _stream(self) -> bytes:
        # In two writes, so that most streams come to the gateway in more than one read.
        asyncio.get_running_loop().call_soon(self._write, _REST)
        return _BEGINNING

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

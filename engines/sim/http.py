"""How do the bytes of a connection become requests, one after another?

An `asyncio.Protocol` on httptools rather than a ready-made server, because a fake engine must also
be able to do what no server offers: half a message, a reset, a bad chunk size, silence. Requests of
a connection are answered in turn; pipelined ones wait.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

import httptools

from engines.sim.clock import WallClock
from engines.sim.exchange import Exchange, Request

MAX_BODY_BYTES = 64 << 20
_MAX_PIPELINED = 32
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST


class Connections:
    """The open connections of one server."""

    __slots__ = ("_empty", "_open")

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """Know a connection until it is lost."""
        self._open.add(connection)
        self._empty.clear()

    def discard(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open.discard(connection)
        if not self._open:
            self._empty.set()

    async def close_all(self, flush_s: float) -> None:
        """Close all, giving their clients so long to read the last bytes."""
        for connection in list(self._open):
            connection.close()
        try:
            await asyncio.wait_for(self._empty.wait(), flush_s)
        except TimeoutError:
            for connection in list(self._open):
                connection.abort()


class Connection(asyncio.Protocol):
    """One client connection: parses requests, holds the current exchange, closes when idle."""

    __slots__ = (
        "_body_bytes",
        "_connections",
        "_current",
        "_idle_timer",
        "_keep_alive_s",
        "_loop",
        "_parser",
        "_pieces",
        "_request",
        "_resetting",
        "_serve",
        "_transport",
        "_waiting",
        "clock",
        "paused",
    )

    def __init__(
        self,
        serve: Callable[[Exchange], None],
        connections: Connections,
        clock: WallClock,
        keep_alive_s: float,
    ) -> None:
        self._serve = serve
        self._connections = connections
        self.clock = clock
        self._keep_alive_s = keep_alive_s
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._pieces: list[bytes] = []
        self._body_bytes = 0
        self._current: Exchange | None = None
        self._waiting: deque[Request] = deque()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._resetting = False
        self.paused = False

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        # A cast, not a check: uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self._wait_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the exchange under way that its client has left."""
        self._connections.discard(self)
        self._transport = None
        self._stop_idle()
        self._waiting.clear()
        current, self._current = self._current, None
        if current is not None and current.on_gone is not None:
            current.on_gone()

    def pause_writing(self) -> None:
        """Note that the client reads slowly."""
        self.paused = True

    def resume_writing(self) -> None:
        """Let the exchange under way go on."""
        self.paused = False
        if self._current is not None and self._current.on_writable is not None:
            self._current.on_writable()

    def data_received(self, data: bytes) -> None:
        """Parse; anything that is not HTTP gets a 400 and a closed connection, as from uvicorn."""
        self._stop_idle()
        if self._resetting:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._current is not None:  # the request counts, the protocol switch does not
                self._current.request.keep_alive = False
        except httptools.HttpParserError:
            self._refuse(400, b"Invalid HTTP request received.")

    # httptools' side

    def on_message_begin(self) -> None:
        """Start an empty request."""
        self._request = Request()
        self._pieces = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Collect the target, which may come in pieces."""
        self._request.path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect one header; of equal names the last counts."""
        self._request.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Answer `Expect: 100-continue` at once: any body is welcome."""
        request = self._request
        request.method = self._parser.get_method().decode("ascii")
        request.path = request.path.partition("?")[0]
        request.keep_alive = self._parser.should_keep_alive()
        request.chunks_understood = self._parser.get_http_version() != "1.0"
        if request.headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Collect a piece of the body."""
        self._body_bytes += len(body)
        if self._body_bytes <= MAX_BODY_BYTES:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Serve the request, or let it wait for the ones before it."""
        request = self._request
        if self._body_bytes > MAX_BODY_BYTES:
            self._refuse(413, b"Request body too large.")
            return
        request.body = b"".join(self._pieces)
        self._pieces = []
        if self._current is not None:
            self._waiting.append(request)
            if len(self._waiting) >= _MAX_PIPELINED and self._transport is not None:
                self._transport.pause_reading()
            return
        self._start(request)

    # the exchange's side

    def write(self, data: bytes) -> None:
        """Send bytes, unless the client has gone."""
        if self._transport is not None and data:
            self._transport.write(data)

    def finished(self, exchange: Exchange) -> None:
        """Take the next waiting request, or wait for one."""
        if self._current is not exchange:
            return
        self._current = None
        keep = exchange.request.keep_alive and exchange.request.chunks_understood
        if not keep:
            self.close()
        elif self._waiting:
            # Not at once: a long pipeline of instant answers would recurse.
            self._loop.call_soon(self._start_waiting)
        else:
            self._wait_idle()

    def close(self) -> None:
        """Send what is buffered, then FIN."""
        self._current = None
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Send RST, once the loop has had its chance to send what was written."""
        self._current = None
        self._resetting = True
        self._loop.call_soon(self._reset_now)

    def _reset_now(self) -> None:
        if self._transport is None:
            return
        raw = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def abort(self) -> None:
        """Close without sending what is buffered."""
        if self._transport is not None:
            self._transport.abort()

    def _start(self, request: Request) -> None:
        exchange = Exchange(self, request)
        self._current = exchange
        self._serve(exchange)

    def _start_waiting(self) -> None:
        if self._transport is None or self._current is not None or not self._waiting:
            return
        if not self._transport.is_reading():
            self._transport.resume_reading()
        self._start(self._waiting.popleft())

    def _refuse(self, status: int, message: bytes) -> None:
        exchange = Exchange(self, Request(keep_alive=False))
        self._current = exchange
        exchange.send(status, message, "text/plain; charset=utf-8")

    def _wait_idle(self) -> None:
        self._idle_timer = self._loop.call_later(self._keep_alive_s, self.close)

    def _stop_idle(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

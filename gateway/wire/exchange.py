"""What is one data-plane request on its connection, from its head to its answer's last byte?"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.errors import GatewayError
from gateway.model import Body, Route
from gateway.wire.guard import Head, body_too_large
from gateway.wire.types import Request, Source

if TYPE_CHECKING:
    from gateway.wire.downstream import DataPlaneProtocol


class _Wake:
    """Stands where uvicorn's cycle has an asyncio.Event, which nobody here waits for."""

    __slots__ = ()

    def set(self) -> None:
        """Do nothing: the client's going is told through the connection's task."""


_WAKE = _Wake()
_FORM = Body.FORM


class BodyPieces:
    """A request body that is passed on while it comes; a slow engine makes the client wait."""

    def __init__(self, flow: FlowControl) -> None:
        self._flow = flow
        self._pieces: deque[bytes] = deque()
        self._queued_bytes = 0
        self._ended = False
        self._error: GatewayError | None = None
        self._news: asyncio.Future[None] | None = None

    def put(self, data: bytes) -> None:
        """Take what the client has sent."""
        self._pieces.append(data)
        self._queued_bytes += len(data)
        if self._queued_bytes > HIGH_WATER_LIMIT:
            self._flow.pause_reading()
        self._wake()

    def end(self, error: GatewayError | None = None) -> None:
        """No more will come; with `error` because the body is broken."""
        self._ended = True
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def __aiter__(self) -> BodyPieces:
        """Iterate over the pieces in order."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece. Raises `GatewayError` where the body turned out to be broken."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        piece = self._pieces.popleft()
        self._queued_bytes -= len(piece)
        if self._queued_bytes <= HIGH_WATER_LIMIT:
            self._flow.resume_reading()
        return piece


class Exchange:
    """One data-plane request on its connection; the `Downstream` of `gateway.wire.types`."""

    __slots__ = (
        "_chunked",
        "_http_1_0",
        "_protocol",
        "_received",
        "_refusal",
        "_rest",
        "body",
        "disconnected",
        "head",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "route",
        "source",
        "started",
    )

    def __init__(self, protocol: DataPlaneProtocol, route: Route, head: Head) -> None:
        self._protocol = protocol
        self._chunked = False
        self._http_1_0 = protocol.http_1_0  # By now the protocol may have read the next head.
        self._received = 0
        self._refusal: GatewayError | None = None
        self._rest: BodyPieces | None = None
        self.route = route
        self.head = head
        self.body: list[bytes] = []
        self.started = False
        self.source: Source | None = None
        # What uvicorn's protocol reads and writes of its current cycle.
        self.keep_alive = True
        self.disconnected = False
        self.more_body = True
        self.response_complete = False
        self.message_event = _WAKE

    # The request's side.

    def begin(self) -> None:
        """It is this exchange's turn on the connection: serve it, or let its body come."""
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif not self.more_body:
            self.serve()
        else:
            self._welcome()

    def _welcome(self) -> None:
        if self.route.body is _FORM:
            self._rest = BodyPieces(self._protocol.flow)
            for piece in self.body:
                self._rest.put(piece)
            self.body.clear()
            self.serve()
        if self.head.expects_continue:
            self._protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def serve(self) -> None:
        """Hand the request to the proxy core: whole, or a form while it comes."""
        protocol = self._protocol
        parts = self.body
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        request = Request(self.route, self.head, body, protocol.peer, self._rest)
        protocol.turns.take(request, self)

    def receive(self, data: bytes) -> None:
        """Take a piece of the request body."""
        self._received += len(data)
        if self._received > self._protocol.plane.limits.body_bytes:
            self.refuse(
                body_too_large(self._protocol.plane.limits), active=self._protocol.active is self
            )
        elif self._rest is not None:
            self._rest.put(data)
        elif self._refusal is None:
            self.body.append(data)

    def complete(self, *, active: bool) -> None:
        """The body is whole; serve the request if it is its turn."""
        self.more_body = False
        if self._rest is not None:
            self._rest.end()
        elif active and self._refusal is None:
            self.serve()

    def refuse(self, error: GatewayError, *, active: bool = False) -> None:
        """Give the request up: answer it with `error` now, or when its turn comes."""
        if self._refusal is None:
            self._refusal = error
            self.body.clear()
            if self._rest is not None:
                self._rest.end(error)
            elif active:
                self._refuse(error)

    def _refuse(self, error: GatewayError) -> None:
        protocol = self._protocol
        lines = protocol.plane.refuse(self.route, self.head, error, protocol.peer)
        self.keep_alive = False
        self.respond(error.status, lines, error.body(self.route.shape))

    # The answer's side.

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Answer with a whole response."""
        self.started = True
        keep = self.keep_alive and not self.more_body
        protocol = self._protocol
        protocol.transport.write(
            b"%b%b%b%bcontent-length: %d\r\n\r\n%b"
            % (
                STATUS_LINE[status],
                headers,
                protocol.date_line(),
                b"" if keep else b"connection: close\r\n",
                len(body),
                body,
            )
        )
        self._complete()

    def start(self, status: int, headers: bytes, length: int | None) -> None:
        """Begin a response whose body follows."""
        self.started = True
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self._http_1_0:
            framing = b""  # The end of the connection is the end of the body.
        else:
            framing = b"transfer-encoding: chunked\r\n"
            self._chunked = True
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        head = (STATUS_LINE[status], headers, self._protocol.date_line(), framing, b"\r\n")
        self._protocol.transport.write(b"".join(head))

    def attach(self, source: Source) -> None:
        """Note whom to pause while the client is slow."""
        self.source = source
        if self._protocol.write_paused:
            source.pause()

    def detach(self) -> None:
        """Let go of the source; another may follow."""
        self.source = None

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._protocol.transport.write(data)

    def raw_writer(self) -> Callable[[bytes], None] | None:
        """Return what writes bytes that are already in chunked coding."""
        return self._protocol.transport.write if self._chunked else None

    def finish(self, data: bytes = b"") -> None:
        """Send the last piece and end the response."""
        self.source = None  # First: full up by this very piece, we must not pause who is free now.
        if self._chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        if data:
            self._protocol.transport.write(data)
        self._complete()

    def abort(self) -> None:
        """Cut the connection: the client must not take what it has for the whole."""
        self.response_complete = True
        self._protocol.transport.abort()

    def _complete(self) -> None:
        self.response_complete = True
        if self.more_body:
            self._protocol.linger()
            return
        if not self.keep_alive:
            self._protocol.transport.close()
        self._protocol.on_response_complete()

"""How does a client's connection become requests, and an answer become bytes on it?

uvicorn hosts the port (signals, TLS, lifespan, WebSocket). Its HTTP protocol is subclassed here: a
request whose path is in the data-plane table becomes an `Exchange`, served before any ASGI scope
exists; every other request goes to the ASGI app untouched. An `Exchange` looks to uvicorn's
protocol like one of its own request cycles, so pipelining and shutdown treat both alike.

    WAITING --first byte--> HEAD --blank line--> BODY --last byte--> ANSWER --sent--> WAITING

`sweep` closes connections that stay too long in one of the first three.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.errors import GatewayError, bad_request
from gateway.model import ErrorShape, Route
from gateway.wire.familiar import FamiliarHead
from gateway.wire.guard import Head, Limits, body_too_large, head_too_large, read_head
from gateway.wire.types import Request, Serve, Source

MIN_BODY_BYTES_PER_S = 1024
"""A body that keeps this rate may take as long as it needs (Apache's mod_reqtimeout: 500)."""

MAX_URL_BYTES = 16 * 1024
"""nginx and Apache stop at 8 KiB."""

LINGER_S = 2.0
"""How long a refused client may go on sending before the connection closes (nginx waits 5 s)."""


class Phase(IntEnum):
    """What a connection is waiting for."""

    WAITING = 0
    HEAD = 1
    BODY = 2
    ANSWER = 3
    LINGERING = 4


@dataclass(frozen=True, slots=True)
class Plane:
    """What the connections of one listener share."""

    routes: Mapping[bytes, Route]
    serve: Serve
    limits: Limits
    keep_alive_s: float = 75.0  # nginx's default; longer than clients keep theirs.


class _Wake:
    """Stands where uvicorn's cycle has an asyncio.Event, which nobody here waits for."""

    __slots__ = ()

    def set(self) -> None:
        """Do nothing: the client's going is told through the exchange's task."""


class Exchange:
    """One data-plane request on its connection; the `Downstream` of `gateway.wire.types`."""

    # Defaults live on the class: setting them all would cost a microsecond a request.
    started = False
    source: Source | None = None
    task: asyncio.Task[None] | None = None
    # What uvicorn's protocol reads and writes of its current cycle.
    keep_alive = True
    disconnected = False
    more_body = True
    response_complete = False
    message_event = _Wake()
    _chunked = False
    _received = 0
    _refusal: GatewayError | None = None

    def __init__(self, protocol: DataPlaneProtocol, route: Route, head: Head) -> None:
        self._protocol = protocol
        self.route = route
        self.head = head
        self.body: list[bytes] = []

    # The request's side.

    def begin(self) -> None:
        """It is this exchange's turn on the connection: serve it, or let its body come."""
        if self._refusal is not None:
            self._refuse(self._refusal)
        elif not self.more_body:
            self.serve()
        elif self.head.expects_continue:
            self._protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def serve(self) -> None:
        """Hand the whole request to the proxy core."""
        protocol = self._protocol
        parts = self.body
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        request = Request(self.route, self.head, body, protocol.peer)
        self.task = protocol.loop.create_task(protocol.plane.serve(request, self))
        protocol.tasks.add(self.task)

    def receive(self, data: bytes) -> None:
        """Take a piece of the request body."""
        self._received += len(data)
        if self._received > self._protocol.plane.limits.body_bytes:
            self.refuse(
                body_too_large(self._protocol.plane.limits), active=self._protocol.active is self
            )
        elif self._refusal is None:
            self.body.append(data)

    def complete(self, *, active: bool) -> None:
        """The body is whole; serve the request if it is its turn."""
        self.more_body = False
        if active and self._refusal is None:
            self.serve()

    def refuse(self, error: GatewayError, *, active: bool = False) -> None:
        """Give the request up: answer it with `error` now, or when its turn comes."""
        if self._refusal is None:
            self._refusal = error
            self.body.clear()
            if active:
                self._refuse(error)

    def _refuse(self, error: GatewayError) -> None:
        lines = b"".join([b"%b: %b\r\n" % field for field in error.headers()])
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

    def start(self, status: int, headers: bytes, length: int | None, source: Source) -> None:
        """Begin a response whose body follows."""
        self.started = True
        self.source = source
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self._protocol.http_1_0:
            framing = b""  # The end of the connection is the end of the body.
        else:
            framing = b"transfer-encoding: chunked\r\n"
            self._chunked = True
        if not self.keep_alive:
            framing += b"connection: close\r\n"
        self._protocol.transport.write(b"".join((STATUS_LINE[status], headers, framing, b"\r\n")))
        if self._protocol.write_paused:
            source.pause()

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
        self.source = None
        self.response_complete = True
        self._protocol.tasks.discard(self.task)
        if self.more_body:
            self._protocol.linger()
            return
        if not self.keep_alive:
            self._protocol.transport.close()
        self._protocol.on_response_complete()


class DataPlaneProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with guards, deadlines and the data plane."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        plane: Plane,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.plane = plane
        self.http_1_0 = False
        self.peer = ""
        """The client's address, for the log."""
        self.write_paused = False
        self._phase = Phase.WAITING
        self._since = self.loop.time()
        self._served = 0
        self._head_bytes = 0
        self._body_bytes = 0
        self._mid_head = False
        self._deaf = False
        self._left = 0  # Bytes to come of a body whose head the parser did not see.
        self._familiar: FamiliarHead[tuple[Head, Route]] = FamiliarHead()
        self._date: tuple[object, bytes] = (None, b"")
        self._refusal: GatewayError | None = None
        self.active: Exchange | None = None

    def date_line(self) -> bytes:
        """Return the Date field, which uvicorn renews every second."""
        headers = self.server_state.default_headers
        if self._date[0] is not headers:
            lines = [b"date: %b\r\n" % value for name, value in headers if name == b"date"]
            self._date = (headers, b"".join(lines))
        return self._date[1]

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note who calls."""
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""

    def data_received(self, data: bytes) -> None:
        """Parse one read; refuse what is not HTTP as we accept it."""
        if self._phase is Phase.WAITING and self._take_familiar(data):
            return
        if self._left:
            data = self._take_left(data)
            if not data:
                return
        if self._deaf:
            return
        if self._phase is not Phase.BODY:
            self._head_bytes += len(data)
        first = self._phase is Phase.WAITING
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return
            self._reject(bad_request("This upgrade is not supported."))
            return
        except httptools.HttpParserError as error:
            self._reject(self._refusal or bad_request(f"Invalid HTTP request: {error}."))
            return
        if first and self.active is not None:
            self._learn(data, self.active)
        if self._phase is Phase.HEAD and self._head_bytes > self.plane.limits.header_bytes:
            self._reject(head_too_large(self.plane.limits))

    def _take_familiar(self, data: bytes) -> bool:
        """Take a request whose head is the last one's, without parsing it again."""
        found = self._familiar.match(data)
        if found is None or self._familiar.value is None:
            return False
        length, at = found
        if length > self.plane.limits.body_bytes:
            return False  # The parser's way has the refusal.
        head, route = self._familiar.value
        self.active = exchange = Exchange(self, route, head)
        self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn reads of a cycle
        if len(data) - at == length:
            exchange.body.append(data[at:])
            exchange.more_body = False
            self._phase = Phase.ANSWER
            exchange.serve()
            return True
        self._phase = Phase.BODY
        self._since = self.loop.time()
        self._body_bytes = 0
        self._left = length
        if len(data) > at:
            self.data_received(data[at:])
        return True

    def _take_left(self, data: bytes) -> bytes:
        """Take what belongs to the body of a familiar request; return the rest."""
        piece, rest = data[: self._left], data[self._left :]
        self._left -= len(piece)
        self._body_bytes += len(piece)
        exchange = self.active
        if exchange is not None:
            exchange.receive(piece)
            if not self._left:
                self._phase = Phase.ANSWER
                exchange.complete(active=True)
        return rest

    def _learn(self, data: bytes, exchange: Exchange) -> None:
        """Remember the head that `data` begins with, if it is the plainest kind."""
        head = exchange.head
        # A request id is left out because the next request will have another.
        if (
            head.content_length is not None
            and head.request_id is None
            and not head.expects_continue
            and exchange.keep_alive
            and not self.http_1_0
            and not exchange.route.multipart
        ):
            self._familiar.learn(data, (head, exchange.route))

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request under way: its client has left."""
        super().connection_lost(exc)
        active, self.active = self.active, None
        self.pipeline.clear()
        if active is None or active.task is None:
            return
        self.tasks.discard(active.task)
        if not active.response_complete:
            active.task.cancel()

    def pause_writing(self) -> None:
        """The client reads slowly: let its engine wait."""
        super().pause_writing()
        self.write_paused = True
        if self.active is not None and self.active.source is not None:
            self.active.source.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        self.write_paused = False
        if self.active is not None and self.active.source is not None:
            self.active.source.resume()

    # httptools' callbacks.

    def on_message_begin(self) -> None:
        """Begin a head. The ASGI scope waits until it is known that one is needed."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._mid_head = True
        self._body_bytes = 0
        if self._phase is not Phase.ANSWER:
            self._phase = Phase.HEAD
            self._since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a field; names in lower case."""
        headers = self.headers
        headers.append((name.lower(), value))
        if len(headers) > self.plane.limits.headers:
            self._refusal = head_too_large(self.plane.limits)
            raise self._refusal

    def on_headers_complete(self) -> None:
        """Check the head, then take the request or pass it to the ASGI app."""
        self._mid_head = False
        try:
            head = self._check_head()
        except GatewayError as error:
            self._refusal = error
            raise
        route = self._claim()
        if route is None:
            self._pass_to_app(head)
            return
        exchange = Exchange(self, route, head)
        exchange.keep_alive = not self.http_1_0 and self.parser.should_keep_alive()
        self._enqueue(exchange)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a request body."""
        self._body_bytes += len(body)
        cycle: Any = self.cycle
        if type(cycle) is Exchange:
            if not cycle.response_complete:
                cycle.receive(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of the request."""
        self._head_bytes = 0
        cycle: Any = self.cycle
        if type(cycle) is Exchange:
            if self._phase is Phase.BODY:
                self._phase = Phase.ANSWER
            cycle.complete(active=cycle is self.active)
            return
        super().on_message_complete()
        if self._phase is Phase.BODY:
            self._phase = Phase.ANSWER

    # Inside.

    def _check_head(self) -> Head:
        version = self.parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise GatewayError(505, "http_version_not_supported", "Only HTTP/1.1 is spoken here.")
        self.http_1_0 = version == "1.0"
        if len(self.url) > MAX_URL_BYTES:
            raise head_too_large(self.plane.limits)
        return read_head(self.headers, self.plane.limits, http_1_0=self.http_1_0)

    def _claim(self) -> Route | None:
        if self.parser.get_method() != b"POST" or self.parser.should_upgrade():
            return None
        route = self.plane.routes.get(self.url)
        if route is None:  # With a query or in absolute form?
            path = httptools.parse_url(self.url).path or b""
            route = self.plane.routes.get(path)
        return route

    def _pass_to_app(self, head: Head) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers += headers
        self.expect_100_continue = head.expects_continue
        existing: Any = self.cycle
        super().on_headers_complete()
        if self.cycle is not existing:
            self._phase = Phase.BODY if self._idle(existing) else Phase.ANSWER

    def _enqueue(self, exchange: Exchange) -> None:
        existing: Any = self.cycle
        self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn reads of a cycle
        if self._idle(existing):
            self._phase = Phase.BODY
            self.active = exchange
            exchange.begin()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]  # as above

    @staticmethod
    def _idle(cycle: Any) -> bool:  # noqa: ANN401  uvicorn's cycle or an exchange
        return cycle is None or cycle.response_complete

    def on_response_complete(self) -> None:
        """Go on to the next request: a pipelined one, or whatever comes."""
        self.server_state.total_requests += 1
        self._served += 1
        self.active = None
        if self.transport.is_closing():
            return
        self._since = self.loop.time()
        if self.pipeline:
            cycle: Any
            cycle, app = self.pipeline.pop()
            self._phase = Phase.BODY if cycle.more_body else Phase.ANSWER
            self.flow.resume_reading()
            if type(cycle) is Exchange:
                self.active = cycle
                cycle.begin()
            else:
                self._start_asgi_task(cycle, app)
            return
        self._phase = Phase.HEAD if self._mid_head else Phase.WAITING
        self.flow.resume_reading()

    def _reject(self, error: GatewayError) -> None:
        """Answer a request that cannot be read on, after those before it; then close."""
        self._deaf = True
        cycle: Any = self.cycle
        if type(cycle) is Exchange and cycle.more_body:
            # The one being read is the one that cannot be.
            cycle.refuse(error, active=cycle is self.active)
            return
        exchange = Exchange(self, _NO_ROUTE, Head(b""))
        exchange.refuse(error)
        self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn reads of a cycle
        if self._idle(cycle):
            self.active = exchange
            exchange.begin()
        elif type(cycle) is Exchange or not cycle.more_body:
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]  # as above
        else:
            self.transport.close()  # An app is reading the broken body: it sees a client leave.

    def linger(self) -> None:
        """Close, but let the client read our answer: unread input would reset the connection."""
        self._deaf = True
        self._phase = Phase.LINGERING
        self._since = self.loop.time()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def sweep(self, now: float) -> None:
        """Close the connection if it has stayed too long in its phase; `now` as `loop.time()`."""
        limits, age = self.plane.limits, now - self._since
        if self._phase is Phase.ANSWER:
            return
        if self._phase is Phase.LINGERING:
            if age > LINGER_S:
                self.transport.abort()
        elif self._phase is Phase.WAITING:
            if age > (self.plane.keep_alive_s if self._served else limits.head_timeout_s):
                self.transport.close()
        elif self._phase is Phase.HEAD:
            if age > limits.head_timeout_s:
                self._reject(_too_slow("head"))
        elif age > limits.body_timeout_s + self._body_bytes / MIN_BODY_BYTES_PER_S:
            self._reject(_too_slow("body"))


_NO_ROUTE = Route("", "invalid", shape=ErrorShape.OPENAI)


def _too_slow(part: str) -> GatewayError:
    return GatewayError(408, "request_timeout", f"The request {part} came too slowly.")


def sweep_connections(connections: set[Any], now: float) -> None:
    """Sweep every connection of a listener (uvicorn keeps WebSockets in the same set)."""
    for connection in list(connections):
        if isinstance(connection, DataPlaneProtocol):
            connection.sweep(now)

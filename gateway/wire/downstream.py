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
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.errors import GatewayError, bad_request
from gateway.model import Body, ErrorShape, Route
from gateway.wire.exchange import Exchange
from gateway.wire.familiar import FamiliarHead
from gateway.wire.guard import Head, Limits, head_too_large, read_head
from gateway.wire.turns import Turns
from gateway.wire.types import Refuse, Serve

MIN_BODY_BYTES_PER_S = 1024
"""A body that keeps this rate may take as long as it needs (Apache's mod_reqtimeout: 500)."""

MAX_URL_BYTES = 16 * 1024
"""nginx and Apache stop at 8 KiB."""

_OFFER = frozenset({b"upgrade", b"http2-settings"})
"""What an offer of another protocol consists of, besides naming itself in Connection."""

LINGER_S = 2.0
"""How long a refused client may go on sending before the connection closes (nginx waits 5 s)."""

UNREAD_S = 600.0
"""How long the kernel may take nothing of an answer that has ended. nginx's `send_timeout` is 60 s;
but of a client that reads slowly the kernel takes in bursts of up to a megabyte."""


class Phase(IntEnum):
    """What a connection is waiting for."""

    WAITING = 0
    HEAD = 1
    BODY = 2
    ANSWER = 3
    LINGERING = 4


# Names of its own, because Python 3.11 takes 0.1 µs to reach a member through its class.
_WAITING, _HEAD, _BODY, _ANSWER, _LINGERING = Phase


@dataclass(slots=True)
class Plane:
    """What the connections of one listener share."""

    routes: Mapping[bytes, Route]
    serve: Serve
    refuse: Refuse
    limits: Limits
    keep_alive_s: float = 75.0  # nginx's default; longer than clients keep theirs.
    closing: bool = False
    """Whether each connection ends with the answer to its next request: the process is leaving."""


class DataPlaneProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with guards, deadlines and the data plane."""

    # uvicorn's class keeps a __dict__. With ours in it as well, it would pass the 30 names up to
    # which CPython lays attributes out in line; and hundreds of connections share one cache.
    __slots__ = (
        "_ahead_bytes",
        "_body_bytes",
        "_date",
        "_deaf",
        "_familiar",
        "_full",
        "_head_bytes",
        "_left",
        "_mid_head",
        "_mid_message",
        "_phase",
        "_refusal",
        "_served",
        "_since",
        "_unsent",
        "_unsent_since",
        "active",
        "http_1_0",
        "peer",
        "plane",
        "turns",
        "write_paused",
    )

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
        self._phase = _WAITING
        self._since = self._unsent_since = self.loop.time()
        self._unsent = 0  # Bytes that the kernel had not taken when we last looked.
        self._served = 0
        self._head_bytes = 0
        self._ahead_bytes = 0  # Bytes read of requests behind the one under way.
        self._body_bytes = 0
        self._mid_head = False
        self._mid_message = False
        self._deaf = False
        self._full = False  # The next request waits until the client has read answers.
        self._left = 0  # Bytes to come of a body whose head the parser did not see.
        self._familiar: FamiliarHead[tuple[Head, Route]] = FamiliarHead()
        self._date: tuple[object, bytes] = (None, b"")
        self._refusal: GatewayError | None = None
        self.active: Exchange | None = None
        self._app_cycle: Any = None
        """The app's request under way, or its last one."""
        self.turns = Turns(plane.serve, self.loop, self.tasks)

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
        if self._phase is _WAITING and self._take_familiar(data):
            return
        if self._deaf:
            return
        if self._left:
            data = self._take_left(data)
            if not data:
                return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        self._head_bytes += len(data)
        first = self._phase is _WAITING
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if not self._deaf:  # Else it is our own: nothing is read behind a refused body.
                self._reject(self._refusal or bad_request(f"Invalid HTTP request: {error}."))
        else:
            if first and self.active is not None:
                self._learn(data, self.active)
            if self.pipeline:
                self._ahead_bytes += len(data)
                # No sooner: while reading is paused, a client cannot be seen to leave.
                if self._ahead_bytes > HIGH_WATER_LIMIT:
                    self.flow.pause_reading()
            # Also a head behind a request under way, and a trailer.
            if self._mid_message and self._head_bytes > self.plane.limits.header_bytes:
                self._reject(head_too_large(self.plane.limits))

    def _upgrade(self, rest: bytes) -> None:
        """Change to WebSocket, or go on as if nothing had been offered (RFC 9110 §7.8)."""
        if not self._should_upgrade():
            self._decline(rest)
        elif self._idle(self.cycle):
            self.turns.end()
            self.handle_websocket_upgrade()
        else:
            self._reject(bad_request("A connection cannot be upgraded under an answer."))

    def _decline(self, rest: bytes) -> None:
        """Read a request that offers an unknown upgrade again, without the offer.

        Java's HttpClient offers h2c with each request, and llhttp ends such a message with its
        head; so a parser that has not seen the offer reads head and body.
        """
        lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self._version())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                kept = b", ".join(token for token in tokens if token.lower() not in _OFFER)
                lines.append(b"connection: %b\r\n" % kept)
            elif name not in _OFFER:
                lines.append(b"%b: %b\r\n" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # As uvicorn's own.
        self._head_bytes = 0
        self._parse(b"".join(lines) + b"\r\n" + rest)

    def _version(self) -> bytes:
        return self.parser.get_http_version().encode()

    def _take_familiar(self, data: bytes) -> bool:
        """Take a request whose head is the last one's, without parsing it again."""
        found = self._familiar.match(data)
        if found is None or self._familiar.value is None:
            return False
        length, at = found
        if length > self.plane.limits.body_bytes or self.plane.closing:
            return False  # The parser's way has the refusal, and the end of the connection.
        head, route = self._familiar.value
        self.active = exchange = Exchange(self, route, head)
        self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn reads of a cycle
        end = at + length
        exchange.body.append(data[at:end])
        if len(data) < end:
            self._phase = _BODY
            self._since = self.loop.time()
            self._body_bytes = len(data) - at
            self._left = end - len(data)
            return True
        exchange.more_body = False
        self._phase = _ANSWER
        exchange.serve()
        if len(data) > end:
            self._parse(data[end:])
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
                self._phase = _ANSWER
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
            and exchange.route.body is not Body.FORM
        ):
            self._familiar.learn(data, (head, exchange.route))

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the request under way: its client has left."""
        super().connection_lost(exc)
        active, self.active = self.active, None
        self.pipeline.clear()
        if self._app_cycle is not None:
            # uvicorn tells only the request that was read last.
            self._app_cycle.disconnected = True
            self._app_cycle.message_event.set()
        if active is not None and not active.response_complete:
            if active.source is not None:
                active.source.close()  # Now: before the task hears of it, more may come for nobody.
            self.turns.cancel()
        self.turns.end()

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
        if self._full:
            self._full = False
            if self._ahead_bytes <= HIGH_WATER_LIMIT:
                self.flow.resume_reading()
            self._go_on()
        elif self.active is not None and self.active.source is not None:
            self.active.source.resume()

    # httptools' callbacks.

    def on_message_begin(self) -> None:
        """Begin a head. The ASGI scope waits until it is known that one is needed."""
        if self._deaf:
            raise bad_request("The request before this one was refused.")
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._mid_head = self._mid_message = True
        self._body_bytes = 0
        if self._phase is not _ANSWER:
            self._phase = _HEAD
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
        if self.parser.should_upgrade() and not self._should_upgrade():
            return  # `_decline` will read it again.
        try:
            head = self._check_head()
        except GatewayError as error:
            self._refusal = error
            raise
        route = self._claim()
        if route is None:
            self._pass_to_app(head)
        else:
            if route.body is Body.ANY:
                head.query = httptools.parse_url(self.url).query or b""
            exchange = Exchange(self, route, head)
            exchange.keep_alive = (
                not self.http_1_0 and self.parser.should_keep_alive() and not self.plane.closing
            )
            self._enqueue(exchange)
        self._mid_head = False

    def on_body(self, body: bytes) -> None:
        """Take a piece of a request body."""
        self._body_bytes += len(body)
        self._head_bytes = 0
        cycle: Any = self.cycle
        if type(cycle) is Exchange:
            if not cycle.response_complete:
                cycle.receive(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of the request."""
        if self._mid_head:
            return  # The end of an offer, not of its request.
        self._head_bytes = 0
        self._mid_message = False
        cycle: Any = self.cycle
        if self._phase is _BODY:
            # An app may have answered before it had the whole body.
            self._phase = _WAITING if cycle.response_complete else _ANSWER
        if type(cycle) is Exchange:
            cycle.complete(active=cycle is self.active)
        else:
            super().on_message_complete()

    # Inside.

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._app_cycle = cycle
        super()._start_asgi_task(cycle, app)

    def _check_head(self) -> Head:
        version = self.parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            raise GatewayError(505, "http_version_not_supported", "Only HTTP/1.1 is spoken here.")
        self.http_1_0 = version == "1.0"
        if len(self.url) > MAX_URL_BYTES:
            raise head_too_large(self.plane.limits)
        head = read_head(self.headers, self.plane.limits, http_1_0=self.http_1_0)
        # llhttp ends a message that upgrades with its head: a body would be read as frames.
        if self.parser.should_upgrade() and (
            head.content_length or any(name == b"transfer-encoding" for name, _ in self.headers)
        ):
            raise bad_request("A WebSocket handshake has no body.")
        return head

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
        # Not the list itself: a trailer would become a field of the head (RFC 9110 §6.5.1).
        self.scope["headers"] = [*headers]
        self.headers = headers
        self.expect_100_continue = head.expects_continue
        existing: Any = self.cycle
        super().on_headers_complete()
        if self.cycle is not existing:
            if self.plane.closing:
                self.cycle.keep_alive = False
            self._phase = _BODY if self._idle(existing) else _ANSWER

    def _enqueue(self, exchange: Exchange) -> None:
        existing: Any = self.cycle
        self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn reads of a cycle
        if self._idle(existing):
            self._phase = _BODY
            self.active = exchange
            exchange.begin()
        else:
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]  # as above

    @staticmethod
    def _idle(cycle: Any) -> bool:
        return cycle is None or cycle.response_complete

    def on_response_complete(self) -> None:
        """Go on to the next request: a pipelined one, or whatever comes."""
        self.server_state.total_requests += 1
        self._served += 1
        self.active = None
        if self.write_paused and not self.transport.is_closing():
            # Or who asks and does not read would have all answers kept.
            self._full = True
            self.flow.pause_reading()
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self.transport.is_closing():
            return
        self._since = self.loop.time()
        if self.pipeline:
            cycle: Any
            cycle, app = self.pipeline.pop()
            self._phase = _BODY if cycle.more_body else _ANSWER
            if not self.pipeline:  # No sooner: each answer would let a further read pile up.
                self._ahead_bytes = 0
                self.flow.resume_reading()
            if type(cycle) is Exchange:
                self.active = cycle
                cycle.begin()
            else:
                self._start_asgi_task(cycle, app)
            return
        # WAITING says that the next byte begins a message: only there may a head be familiar.
        self._phase = _WAITING
        if self._mid_message:
            self._phase = _HEAD if self._mid_head else _BODY
        if self.flow.read_paused:
            self.flow.resume_reading()

    def _reject(self, error: GatewayError) -> None:
        """Answer a request that cannot be read on, after those before it; then close."""
        self._deaf = True
        cycle: Any = self.cycle
        if type(cycle) is Exchange and cycle.more_body:
            # The one being read is the one that cannot be.
            cycle.refuse(error, active=cycle is self.active)
            return
        if self._idle(cycle) and self._mid_message and not self._mid_head:
            self.linger()  # It has had its answer before its body was read.
            return
        exchange = Exchange(self, _NO_ROUTE, Head(b""))
        exchange.refuse(error)
        self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn reads of a cycle
        entry: Any = (exchange, self.app)
        if self._idle(cycle):
            self._begin(exchange)
        elif type(cycle) is Exchange or not cycle.more_body:
            self.pipeline.appendleft(entry)
        elif self.pipeline:
            self.pipeline[0] = entry  # In place of the broken one, which no app has seen.
        elif cycle.response_started:
            self.transport.close()
        else:
            # To the app that is reading the broken body, the client leaves.
            cycle.disconnected = True
            cycle.message_event.set()
            self._begin(exchange)

    def _begin(self, exchange: Exchange) -> None:
        self.active = exchange
        exchange.begin()

    def announce_end(self) -> None:
        """Let the answer under way, if there is one, say that the connection ends with it."""
        if not self._idle(self.cycle):
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close as soon as nothing is under way: neither an answer nor a request coming in."""
        self.announce_end()
        if self._phase is _WAITING or (self._full and not self.pipeline):
            self.transport.close()

    def linger(self) -> None:
        """Close, but let the client read our answer: unread input would reset the connection."""
        self._deaf = True
        self._phase = _LINGERING
        self._since = self.loop.time()
        self.flow.resume_reading()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()

    def sweep(self, now: float) -> None:
        """Close the connection if it has stayed too long in its phase; `now` as `loop.time()`."""
        self._drop_unread(now)
        limits, age = self.plane.limits, now - self._since
        if self._phase is _ANSWER:
            return
        if self._phase is _LINGERING:
            if age > LINGER_S:
                self.transport.abort()
        elif self._phase is _WAITING:
            if age > (self.plane.keep_alive_s if self._served else limits.head_timeout_s):
                self.transport.close()
        elif self._phase is _HEAD:
            if age > limits.head_timeout_s:
                self._reject(_too_slow("head"))
        elif self.flow.read_paused:
            self._since = now  # The engine is the slow one: it has timers of its own.
        elif age > limits.body_timeout_s + self._body_bytes / MIN_BODY_BYTES_PER_S:
            self._reject(_too_slow("body"))

    def _drop_unread(self, now: float) -> None:
        """Cut the connection if its client has read nothing for too long of what has ended."""
        unsent, before = self.transport.get_write_buffer_size(), self._unsent
        self._unsent = unsent
        # Of one under way its engine's timers tell; whether it is paused makes no difference.
        if not unsent or unsent != before or self.active is not None:
            self._unsent_since = now
        elif now - self._unsent_since > UNREAD_S:
            self.transport.abort()


_NO_ROUTE = Route("", "invalid", shape=ErrorShape.OPENAI)


def _too_slow(part: str) -> GatewayError:
    return GatewayError(408, "request_timeout", f"The request {part} came too slowly.")


def sweep_connections(connections: set[Any], now: float) -> None:
    """Sweep every connection of a listener (uvicorn keeps WebSockets in the same set)."""
    for connection in list(connections):
        if isinstance(connection, DataPlaneProtocol):
            connection.sweep(now)

"""What happens on one socket to an engine?

An asyncio.Protocol around httptools' response parser; it carries one exchange at a time and is
kept alive between them. Two shortcuts leave the parser out where the result is known already: a
whole response whose head is familiar, and a read that is exactly one chunk of a stream.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import httptools

from gateway.wire.guard import Headers, read_response_head
from gateway.wire.types import Receiver, UpstreamError

if TYPE_CHECKING:
    from gateway.wire.upstream import Client

MAX_HEAD_BYTES = 64 * 1024
"""A response head past this is a broken engine."""


class Connection(asyncio.Protocol):
    """One socket to an engine; carries one exchange at a time."""

    __slots__ = (
        "_address",
        "_aligned",
        "_answered",
        "_bare",
        "_body",
        "_chunk_done",
        "_client",
        "_fed",
        "_head_done",
        "_headers",
        "_heard",
        "_keeps_alive",
        "_loop",
        "_out_of_step",
        "_parser",
        "_receiver",
        "_take",
        "_transport",
        "_unfinished",
        "_whole",
        "_writable",
        "exchanges",
        "idle_since",
        "quiet_until",
        "total_until",
    )

    def __init__(self, client: Client) -> None:
        self._client = client
        self._address = client.address
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._headers: Headers = []
        self._body: list[bytes] = []
        self._head_done = False
        self._whole = False
        self._fed = 0  # Bytes of this response's head; 0 also says that not a byte has come.
        self._bare = 0  # Bytes since the last chunk began that brought none of the body.
        self._heard = self._answered = False
        self._aligned = False
        self._chunk_done = False
        self._take: Callable[[bytes], bool] | None = None
        self._keeps_alive = False
        self._out_of_step = False
        self._unfinished = False
        self._writable: asyncio.Future[None] | None = None
        self.exchanges = 0
        self.idle_since = 0.0
        self.quiet_until = 0.0
        self.total_until = 0.0

    # The caller's side.

    def send(self, data: bytes, receiver: Receiver, now: float, until: float) -> None:
        """Write one whole request; its response goes to `receiver`, and ends by `until`."""
        if self._transport is None:
            receiver.lost(UpstreamError("The connection to the engine was lost.", stale=True))
            return
        receiver.begin(self)
        self._address = address = self._client.address  # A reload must not change a running one.
        self.exchanges += 1
        self._receiver = receiver
        self._head_done = self._whole = self._heard = self._answered = False
        self._aligned = self._chunk_done = False
        self._take = None
        self._fed = self._bare = 0
        self.quiet_until = now + address.first_byte_s
        total_until = now + address.total_s
        self.total_until = total_until if total_until < until else until
        self._transport.write(data)

    async def send_more(self, data: bytes) -> None:
        """Write a further piece of the request body; wait while the engine reads slowly."""
        self._heard = True  # The silence that the timers wait out begins after the body.
        if self._transport is None:
            return
        self._transport.write(data)
        if self._writable is not None:
            await self._writable

    def begin_unfinished(self) -> None:
        """Note that more of the request is to come: an answer before that ends the connection.

        Kept alive, its engine would read the next request as the rest of this one's body.
        """
        self._unfinished = True

    def end_unfinished(self) -> None:
        """Note that the request is sent to its end."""
        self._unfinished = False

    def create_future(self) -> asyncio.Future[None]:
        """Make a future; asking for the running loop each time would cost a system call."""
        return self._loop.create_future()

    def shorten(self, take: Callable[[bytes], bool] | None) -> None:
        """Offer reads that begin at a chunk to `take` first."""
        self._take = take

    def limit(self, until: float) -> None:
        """Change when the exchange under way must have ended."""
        self.total_until = until

    def pause(self) -> None:
        """Stop reading from the engine; TCP tells it to wait."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading. The engine was not silent meanwhile: we were."""
        self._heard = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Drop the connection; an engine takes that as a cancelled request."""
        self._receiver = None
        if self._transport is not None:
            # Not close(): that would first flush a request body that nobody waits for.
            self._transport.abort()

    @property
    def usable(self) -> bool:
        """Whether the connection may carry another exchange."""
        transport = self._transport
        # One that was paused for a slow client may have had its last read under way by then.
        return transport is not None and not transport.is_closing() and transport.is_reading()

    def expired(self, now: float) -> UpstreamError | None:
        """Say which timer of the exchange under way has run out, if one has."""
        if self._receiver is None:
            return None
        if now >= self.total_until:
            return UpstreamError("The engine took longer than allowed in total.", timeout=True)
        paused = self._transport is not None and not self._transport.is_reading()
        if self._heard or paused:
            self._heard = False
            # vLLM sends its head at once: what it then waits for is the first token.
            wait_s = self._address.idle_s if self._answered else self._address.first_byte_s
            self.quiet_until = now + wait_s
        if now < self.quiet_until:
            return None
        what = "went silent" if self._head_done else "did not answer in time"
        return UpstreamError(f"The engine {what}.", timeout=True)

    def fail(self, error: UpstreamError) -> None:
        """End the exchange under way with `error` and drop the connection."""
        receiver = self._receiver
        self.close()
        if receiver is not None:
            receiver.lost(error)

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; small writes must not wait for Nagle."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it.
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Parse one read and hand its body on in one piece."""
        receiver = self._receiver
        if receiver is None:
            self.close()  # Bytes that nobody asked for: the stream is out of step.
            return
        self._heard = True
        try:
            if self._aligned:
                take = self._take
                if take is not None and take(data):
                    return
                self._aligned = False
            elif not self._head_done:
                if self._fed == 0 and self._take_familiar(data, receiver):
                    return
                self._fed += len(data)
            self._parser.feed_data(data)
            self._after_parse(data, receiver)
        except httptools.HttpParserError as error:
            self.fail(UpstreamError(f"The engine sent invalid HTTP: {error}."))
        except httptools.HttpParserUpgrade:
            self.fail(UpstreamError("The engine switched to another protocol."))
        except Exception:  # A defect: the loop logs it and drops us, but tells no receiver.
            self._receiver = None
            receiver.lost(UpstreamError("The gateway failed on what the engine sent."))
            raise

    def _after_parse(self, data: bytes, receiver: Receiver) -> None:
        if not self._head_done:
            if self._fed > MAX_HEAD_BYTES:
                self.fail(UpstreamError("The engine sent too large a response head."))
            return
        if self._whole and self._fed == len(data) and self._keeps_alive:
            self._client.learn(data, self._parser.get_status_code(), self._headers)
        if self._chunk_done and data.endswith(b"\r\n"):
            # The parser stands between two chunks, where it may be left out.
            self._aligned = not self._whole
        self._deliver(data, receiver)

    def _take_familiar(self, data: bytes, receiver: Receiver) -> bool:
        """Take a whole response whose head is one that this endpoint has sent before."""
        familiar = self._client.familiar
        found = familiar.match(data)
        if found is None or familiar.value is None or len(data) - found[1] != found[0]:
            return False
        self._receiver = None
        # Released first: the receiver's caller may want a connection at once.
        self._client.release(self, keep=not self._unfinished)
        receiver.whole(familiar.value, data[found[1] :])
        return True

    def _deliver(self, data: bytes, receiver: Receiver) -> None:
        parts = self._body
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if body:
            self._answered = True
        if self._whole:
            self._receiver = None
            keep = self._keeps_alive and not self._out_of_step and not self._unfinished
            self._client.release(self, keep=keep)
            receiver.data(body, last=True)
        elif body:
            receiver.data(body, last=False)
        else:
            self._bare += len(data)
            if self._bare > MAX_HEAD_BYTES:  # The parser would keep all of a trailer.
                self.fail(UpstreamError("The engine sent too much that is not its answer."))

    def pause_writing(self) -> None:
        """The engine reads the request slowly."""
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """The engine has caught up, or is gone."""
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def eof_received(self) -> bool:
        """Let the transport close; a body that ends with the connection is whole now."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the receiver, unless the end of the connection is the end of the body."""
        self._transport = None
        self.resume_writing()
        self._client.forget(self)
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        if self._head_done and exc is None and self._ends_with_connection():
            receiver.data(b"", last=True)
            return
        stale = self._fed == 0 and self.exchanges > 1
        reason = f": {exc}" if exc else ""
        receiver.lost(UpstreamError(f"The engine closed the connection{reason}.", stale=stale))

    def _ends_with_connection(self) -> bool:
        names = {name for name, _ in self._headers}
        return not names & {b"content-length", b"transfer-encoding"}

    # httptools' callbacks.

    def on_message_begin(self) -> None:
        """Begin a response head (an interim one as well)."""
        if self._whole:
            self._out_of_step = True  # A second response to one request: trust nothing after it.
        else:
            self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header field; names in lower case."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Show the head to the receiver, unless it is an interim one."""
        status = self._parser.get_status_code()
        if status < 200 or self._out_of_step:
            return
        if self._fed > MAX_HEAD_BYTES and _size_of(self._headers) > MAX_HEAD_BYTES:
            return  # One read may bring both ends of it; what reads on is told after the parse.
        self._head_done = True
        if self._receiver is not None:
            self._receiver.head(read_response_head(status, self._headers))

    def on_body(self, data: bytes) -> None:
        """Collect a piece of the body until the read ends."""
        if not self._whole:
            self._body.append(data)

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._chunk_done = False
        self._bare = 0

    def on_chunk_complete(self) -> None:
        """A chunk has ended."""
        self._chunk_done = True

    def on_message_complete(self) -> None:
        """Note the end of the response; an interim one has none."""
        if self._head_done and not self._whole:
            self._whole = True
            self._keeps_alive = self._parser.should_keep_alive()


def _size_of(headers: Headers) -> int:
    return sum(len(name) + len(value) for name, value in headers)

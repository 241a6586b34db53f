"""How is an answer written: whole, as a stream, or broken on purpose?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from engines.sim.clock import WallClock

SERVER_NAME = b"sluice-sim"
_BIG_HEADER_BYTES = 128 << 10
_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode("ascii"))
    for status in HTTPStatus
}


@dataclass(slots=True)
class Request:
    """One request; header names are lower case."""

    method: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = True
    chunks_understood: bool = True
    """False for HTTP/1.0, whose clients know a stream's end only by the connection's."""


def frame(events: Sequence[bytes]) -> bytes:
    """Return each event as one HTTP chunk, as vLLM sends them."""
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


class Wire(Protocol):
    """The connection, as an exchange sees it."""

    clock: WallClock
    paused: bool
    """Whether the client reads more slowly than it is sent to."""

    def write(self, data: bytes) -> None:
        """Send bytes, unless the client has gone."""

    def finished(self, exchange: Exchange) -> None:
        """Take the next waiting request, or wait for one."""

    def close(self) -> None:
        """Send what is buffered, then FIN."""

    def reset(self) -> None:
        """Send RST."""


class Exchange:
    """One request's answer on its connection. Calls after the connection is gone do nothing."""

    __slots__ = (
        "_connection",
        "begun",
        "big_header",
        "extra",
        "leading",
        "on_gone",
        "on_writable",
        "request",
    )

    def __init__(self, connection: Wire, request: Request) -> None:
        self._connection = connection
        self.request = request
        self.on_gone: Callable[[], None] | None = None
        """Called once when the client leaves before the answer ends."""
        self.on_writable: Callable[[], None] | None = None
        """Called when a paused connection takes bytes again."""
        self.leading: list[tuple[str, str]] = []
        self.extra: list[tuple[str, str]] = []
        """Headers to add to the answer: before the length, and after the usual ones."""
        self.big_header = False
        self.begun = False
        """Whether any byte of the answer has been sent."""

    @property
    def paused(self) -> bool:
        """Whether the client reads more slowly than it is sent to."""
        return self._connection.paused

    def head(self, status: int, framing: bytes, content_type: str | None) -> bytes:
        """Return the status line and headers; `framing` is the length header line or nothing."""
        parts = [
            _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
            b"date: %b\r\nserver: %b\r\n" % (self._connection.clock.http_date(), SERVER_NAME),
        ]
        parts.extend(f"{name}: {value}\r\n".encode("latin-1") for name, value in self.leading)
        chunked = framing.startswith(b"transfer-encoding")
        if not chunked:
            parts.append(framing)
        if content_type is not None:
            parts.append(b"content-type: %b\r\n" % content_type.encode("latin-1"))
        parts.append(b"vary: Origin\r\n")
        parts.extend(f"{name}: {value}\r\n".encode("latin-1") for name, value in self.extra)
        if self.big_header:
            parts.append(b"x-big: %b\r\n" % (b"x" * _BIG_HEADER_BYTES))
        if not self.request.keep_alive:
            parts.append(b"connection: close\r\n")
        if chunked:
            parts.append(framing)
        parts.append(b"\r\n")
        return b"".join(parts)

    def send(self, status: int, body: bytes, content_type: str | None = "application/json") -> None:
        """Send a whole answer and end it."""
        length = b"content-length: %d\r\n" % len(body)
        self.raw(self.head(status, length, content_type) + body)
        self.end()

    def start_stream(self, content_type: str = "text/event-stream; charset=utf-8") -> None:
        """Send the head of a streamed answer."""
        chunked = self.request.chunks_understood
        framing = b"transfer-encoding: chunked\r\n" if chunked else b""
        self.raw(self.head(200, framing, content_type))

    def write(self, events: Sequence[bytes]) -> None:
        """Send events of a streamed answer."""
        self.raw(frame(events) if self.request.chunks_understood else b"".join(events))

    def end_stream(self, events: Sequence[bytes] = ()) -> None:
        """Send the last events and end the answer properly."""
        if self.request.chunks_understood:
            self.raw(frame(events) + b"0\r\n\r\n")
        else:
            self.raw(b"".join(events))
        self.end()

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.begun = True
        self._connection.write(data)

    def end(self) -> None:
        """Give the connection back for its next request."""
        self._detach()
        self._connection.finished(self)

    def cut(self) -> None:
        """Close the connection with FIN once everything is sent, whatever is missing."""
        self._detach()
        self._connection.close()

    def reset(self) -> None:
        """Close the connection with RST; bytes not yet sent are lost."""
        self._detach()
        self._connection.reset()

    def _detach(self) -> None:
        self.on_gone = self.on_writable = None

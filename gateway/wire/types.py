"""What do the two sides of the wire promise each other?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.errors import GatewayError
from gateway.model import Route
from gateway.wire.guard import Head, ResponseHead


@dataclass(slots=True)
class Request:
    """One data-plane request whose head the guard has let in."""

    route: Route
    head: Head
    body: bytes
    """The whole body, or with `rest` its beginning."""
    client: str
    """The peer's address, for the log."""
    rest: AsyncIterator[bytes] | None = None
    """The pieces of a streamed body after `body`."""


class Source(Protocol):
    """Whatever produces a response body and can be told to wait: the upstream connection."""

    def pause(self) -> None:
        """Stop reading; a read already under way may still deliver."""

    def resume(self) -> None:
        """Go on reading."""

    def create_future(self) -> asyncio.Future[None]:
        """Make a future of the event loop that the response comes in."""

    def shorten(self, take: Callable[[bytes], bool] | None) -> None:
        """Offer reads that begin at a chunk to `take` from now on, in their chunked coding.

        A read that `take` refuses is parsed and comes through `Receiver.data`. It may take only
        what is exactly one whole chunk. None withdraws it.
        """

    def limit(self, until: float) -> None:
        """Let the response end by `until` (monotonic seconds) instead of what was said before."""

    def close(self) -> None:
        """Give the response up."""


class Downstream(Protocol):
    """One client's exchange, as the proxy core sees it.

    Exactly one of `respond` or `start` … `finish`/`abort` is called for each exchange, and
    `attach` for each source that the body comes from, one after the other. After
    the client has left, writes are accepted and dropped; the exchange's task is cancelled.
    """

    started: bool
    """Whether a response head was written: from then on a failure has no status to go into."""

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Answer with a whole response; `headers` are lines with their CRLFs."""

    def start(self, status: int, headers: bytes, length: int | None) -> None:
        """Begin a response whose body follows.

        A body of unknown `length` (None) is chunked, or ends with the connection on HTTP/1.0.
        """

    def attach(self, source: Source) -> None:
        """Name what the body comes from: it is paused while the client is slow."""

    def detach(self) -> None:
        """Let go of the source: its response has ended, and it may be another's from now on."""

    def write(self, data: bytes) -> None:
        """Send a piece of the body."""

    def raw_writer(self) -> Callable[[bytes], None] | None:
        """Return what writes bytes that are already in chunked coding, if this response may."""

    def finish(self, data: bytes = b"") -> None:
        """Send the last piece and end the response."""

    def abort(self) -> None:
        """Cut the connection so that the client cannot take what it has for the whole."""


class Receiver(Protocol):
    """Whoever asked: takes one upstream response as it arrives."""

    def begin(self, source: Source) -> None:
        """The request was sent; the response will come from `source`."""

    def head(self, head: ResponseHead) -> None:
        """The response head has arrived (interim 1xx heads are not shown)."""

    def data(self, data: bytes, *, last: bool) -> None:
        """The body bytes of one socket read; `last` with the end of the body (then maybe empty)."""

    def whole(self, head: ResponseHead, body: bytes) -> None:
        """A whole response has arrived in one read: the same as `head`, then `data` with `last`."""

    def lost(self, error: UpstreamError) -> None:
        """The connection ended before the response did; nothing follows."""


class UpstreamError(Exception):
    """An endpoint did not answer, or not in HTTP; the message says what happened.

    `timeout` marks silence. `stale` marks a kept-alive connection that the engine closed before
    any response byte: the request was most likely never read. `ours` marks a connection that could
    not be made for want of something on this machine.
    """

    def __init__(
        self, message: str, *, timeout: bool = False, stale: bool = False, ours: bool = False
    ) -> None:
        super().__init__(message)
        self.timeout = timeout
        self.stale = stale
        self.ours = ours


Serve = Callable[[Request, Downstream], Coroutine[Any, Any, None]]
"""The proxy core: answers one request. It raises only when cancelled."""


Refuse = Callable[[Route, Head, GatewayError, str], bytes]
"""Told of a request that the wire itself turns away (with the client's address): records it and
returns the header lines of the answer."""

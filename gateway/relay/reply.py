"""Where does one upstream response stand, and what of it may the client see?

    HELD --first meaningful event, or the whole body--> ready --splice--> FLOWING --last byte--> end
    any state --error in the stream, broken connection, timer--> failure

A `Reply` receives the response as the connection reads it. Until the commit point it holds
everything back, so that a failure can still become a real status. After `splice` each socket read
goes straight into the client's transport from here; the request's coroutine sleeps on one future
and no task wakes for a chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gateway.model import Usage
from gateway.relay.sse import EventSplitter, EventTooLargeError
from gateway.relay.watch import Failure, Watcher, failure_of, usage_of
from gateway.wire.guard import Headers
from gateway.wire.types import Downstream, Source, UpstreamError

HOLD_BYTES = 1024 * 1024
"""A plain answer up to this size is held until it is whole: a cut one then never reaches anyone."""

Rename = Callable[[bytes], bytes]
"""Puts the client's name of the model where the engine wrote its own."""


class Gaps(Protocol):
    """Takes the seconds between two reads of a stream."""

    def observe(self, value: float) -> None:
        """Count one gap."""


class Reply:
    """One upstream response on its way to one client."""

    __slots__ = (
        "_down",
        "_gaps",
        "_held",
        "_held_bytes",
        "_last_at",
        "_monotonic",
        "_rename",
        "_splitter",
        "_waiter",
        "_watcher",
        "content_type",
        "ended",
        "failure",
        "first_at",
        "headers",
        "length",
        "lost_by",
        "status",
    )

    def __init__(
        self,
        watcher: Watcher,
        rename: Rename | None,
        gaps: Gaps,
        monotonic: Callable[[], float],
    ) -> None:
        self._watcher = watcher
        self._rename = rename
        self._gaps = gaps
        self._monotonic = monotonic
        self._waiter: asyncio.Future[None] | None = None
        self._splitter: EventSplitter | None = None
        self._down: Downstream | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._last_at = 0.0
        self.status = 0
        self.headers: Headers = []
        self.content_type = b""
        self.length: int | None = None
        self.ended = False
        """Whether the response has ended, well or not."""
        self.failure: Failure | None = None
        """Why the answer is not one, once that is known."""
        self.lost_by: UpstreamError | None = None
        """How the connection broke, where that was the reason."""
        self.first_at = 0.0
        """When the first event of a stream came (monotonic seconds); 0 before and for others."""

    # The coroutine's side.

    async def ready(self) -> None:
        """Wait for the commit point: something that may be shown, or a failure."""
        if not self._is_ready():
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    async def finished(self) -> None:
        """Wait until the response has ended, well or not."""
        if not self.ended:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    @property
    def body(self) -> bytes:
        """What is held back; the whole body once a reply that was not spliced has ended."""
        return b"".join(self._held)

    @property
    def streams(self) -> bool:
        """Whether the body is a stream of events."""
        return self._splitter is not None

    @property
    def usage(self) -> Usage:
        """The tokens counted so far."""
        return self._watcher.usage

    def splice(self, down: Downstream, lines: bytes, source: Source) -> None:
        """Commit: write the response head and what is held, then let reads flow to `down`."""
        body = self.body
        self._held.clear()
        if self._splitter is None and self._rename is not None:
            renamed = self._rename(body)
            if self.length is not None:
                self.length += len(renamed) - len(body)
            body = renamed
        if self.ended and self.failure is None:
            down.respond(self.status, lines, body)
            return
        down.start(self.status, lines, self.length, source)
        if body:
            down.write(body)
        self._down = down

    # The connection's side: `gateway.wire.types.Receiver`.

    def head(self, status: int, headers: Headers) -> None:
        """Take the response head."""
        self.status = status
        self.headers = headers
        for name, value in headers:
            if name == b"content-type":
                self.content_type = value
                if value.startswith(b"text/event-stream") and status == 200:
                    self._splitter = EventSplitter()
            elif name == b"content-length":
                self.length = int(value)
        if self._splitter is not None:
            self.length = None  # Events may be added and taken away.

    def data(self, data: bytes, last: bool) -> None:
        """Take the body bytes of one read."""
        if self._splitter is None:
            self._take_plain(data, last)
            return
        out = self._pass_events(self._splitter, data) if data else b""
        if self._watcher.failure is not None:
            self._fail(self._watcher.failure, out)
        elif last:
            self._end(out)
        elif self._down is not None:
            if out:
                self._down.write(out)
        else:
            self._hold(out)

    def lost(self, error: UpstreamError) -> None:
        """The connection broke; an answer that was complete but for its end mark still counts."""
        self.lost_by = error
        if self._splitter is not None and self._watcher.closing() is not None:
            self._end(b"")
        else:
            self._fail(Failure(str(error), timeout=error.timeout), b"")

    # Inside.

    def _pass_events(self, splitter: EventSplitter, data: bytes) -> bytes:
        now = self._monotonic()
        if self._last_at:
            self._gaps.observe(now - self._last_at)
        try:
            events = splitter.feed(data)
        except EventTooLargeError:
            self._watcher.failure = Failure("The engine sent an event that does not end.")
            return b""
        if not events:
            return b""
        out = self._watcher.see(events)
        if self._watcher.started:
            self._last_at = now
            if not self.first_at:
                self.first_at = now
        return out if self._rename is None else self._rename(out)

    def _hold(self, out: bytes) -> None:
        if out:
            self._held.append(out)
        if self._is_ready():
            self._wake()

    def _take_plain(self, data: bytes, last: bool) -> None:
        if self._down is not None:
            self.ended = last
            if last:
                self._down.finish(data)
                self._wake()
            else:
                self._down.write(data)
            return
        self._held.append(data)
        self._held_bytes += len(data)
        if last:
            self._judge_plain()
        if self._is_ready():
            self._wake()

    def _judge_plain(self) -> None:
        self.ended = True
        self.length = self._held_bytes
        if self.status == 200 and b"json" in self.content_type:
            body = self.body
            self.failure = failure_of(body)
            self._watcher.usage = usage_of(body)

    def _end(self, out: bytes) -> None:
        tail = self._watcher.closing()
        if tail is None or not self._watcher.started:
            self._fail(Failure("The engine ended the stream before the answer was complete."), out)
            return
        self.ended = True
        if self._down is not None:
            self._down.finish(out + tail)
        else:
            self._held.append(out + tail)
        self._wake()

    def _fail(self, failure: Failure, out: bytes) -> None:
        self.failure = failure
        self.ended = True
        if self._down is not None and out:
            self._down.write(out)  # Whole events from before the failure are part of the answer.
        elif out:
            self._held.append(out)
        self._wake()

    def _is_ready(self) -> bool:
        if self.ended:
            return True
        if self._splitter is not None:
            return self._watcher.started
        return self._held_bytes > HOLD_BYTES

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

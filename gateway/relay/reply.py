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

from gateway.model import Usage
from gateway.relay.flow import Flow, Gaps
from gateway.relay.sse import EventSplitter, EventTooLargeError
from gateway.relay.transcript import Transcript
from gateway.relay.watch import Failure, Watcher, failure_of, usage_of
from gateway.wire.guard import ResponseHead
from gateway.wire.types import Downstream, Source, UpstreamError

HOLD_BYTES = 1024 * 1024
"""A plain answer up to this size is held until it is whole: a cut one then never reaches anyone."""

WHOLE_BYTES = 64 * 1024 * 1024
"""What is held of an answer whose end has to be known before its beginning may be shown."""

_CUT = Failure("The engine ended the stream before the answer was complete.", cut=True)

Rename = Callable[[bytes], bytes]
"""Puts the client's name of the model where the engine wrote its own."""


class Reply:
    """One upstream response on its way to one client."""

    __slots__ = (
        "_down",
        "_flow",
        "_gaps",
        "_head",
        "_held",
        "_held_bytes",
        "_kept",
        "_last_at",
        "_monotonic",
        "_rename",
        "_source",
        "_splitter",
        "_usage",
        "_waiter",
        "_watch",
        "_watcher",
        "ended",
        "failure",
        "first_at",
        "hold_bytes",
        "lines",
        "lost_by",
        "status",
    )

    def __init__(
        self,
        watch: Callable[[], Watcher],
        rename: Rename | None,
        gaps: Gaps,
        monotonic: Callable[[], float],
        kept: Transcript | None = None,
    ) -> None:
        """`watch` makes the watcher, if the response turns out to be a stream.

        `kept` is told each event that passes, for a stream that may have to be resumed.
        """
        self._kept = kept
        self._watch = watch
        self._rename = rename
        self._gaps = gaps
        self._monotonic = monotonic
        self._waiter: asyncio.Future[None] | None = None
        self._source: Source | None = None
        self._head: ResponseHead | None = None
        self._splitter: EventSplitter | None = None
        self._watcher: Watcher | None = None
        self._flow: Flow | None = None
        self._down: Downstream | None = None
        self._usage: Usage | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._last_at = 0.0
        self.hold_bytes = HOLD_BYTES
        """Up to this size a plain answer is held until it is whole."""
        self.status = 0
        self.lines = b""
        """Header lines for the client."""
        self.ended = False
        """Whether the response has ended, well or not."""
        self.failure: Failure | None = None
        """Why the answer is not one, once that is known."""
        self.lost_by: UpstreamError | None = None
        """How the connection broke, where that was the reason."""
        self.first_at = 0.0
        """When the first event of a stream came (monotonic seconds); 0 before and for others."""

    # The coroutine's side.

    @property
    def ready(self) -> bool:
        """Whether the commit point is reached: there is something to show, or a failure."""
        if self.ended:
            return True
        if self._watcher is not None:
            return self._watcher.started
        return self._held_bytes > self.hold_bytes

    def news(self) -> asyncio.Future[None]:
        """Return what to await for: until committed `ready`, after that `ended`."""
        assert self._source is not None  # noqa: S101  `begin` comes before anybody waits
        self._waiter = self._source.create_future()
        return self._waiter

    @property
    def body(self) -> bytes:
        """What is held back; the whole body once a reply that was not spliced has ended."""
        held = self._held
        return held[0] if len(held) == 1 else b"".join(held)

    @property
    def answered(self) -> bool:
        """Whether the engine has begun to answer, or cannot any more."""
        return self.status != 0 or self.ended

    @property
    def streams(self) -> bool:
        """Whether the body is a stream of events."""
        return self._splitter is not None

    @property
    def told(self) -> bool:
        """Whether the protocol's own end mark has gone to the client."""
        watcher = self._watcher
        return watcher is not None and watcher.ended and watcher.failure is None

    def usage(self) -> Usage | None:
        """Return the tokens counted so far, if the answer has any."""
        watcher = self._watcher
        if watcher is None:
            return self._usage
        self._account()
        return watcher.usage

    def complaint(self) -> str:
        """Say in words what a reply that is no stream is instead."""
        failure = failure_of(self.body)
        said = f" {failure.message[:300]}" if failure else ""
        return f"The engine answered {self.status} without a stream.{said}"

    def begin(self, source: Source) -> None:
        """Note where the response comes from."""
        self._source = source

    def cancel(self) -> None:
        """Give the answer up; the engine sees its client leave and frees the sequence."""
        self.ended = True
        if self._source is not None:
            self._source.close()

    def splice(self, down: Downstream, lines: bytes) -> None:
        """Commit: write the response head and what is held, then let reads flow to `down`.

        Where the client has a head already, `lines` are for nobody: the stream goes on. A reply
        that failed since it was ready shows what it had; what follows is for the caller to say.
        """
        body, streams, head = self.body, self._splitter is not None, self._head
        self._held.clear()
        length = None if head is None or streams else head.length
        if self._rename is not None and not streams:
            renamed = self._rename(body)
            if length is not None:
                length += len(renamed) - len(body)
            body = renamed
        if self.ended and self.failure is None:
            if down.started:
                down.finish(body)
            else:
                down.respond(self.status, lines, body)
            return
        if not down.started:
            down.start(self.status, lines, length)
        if self.ended:
            down.write(body)
            return
        assert self._source is not None  # noqa: S101  a reply that is not ended has one
        down.attach(self._source)
        if body:
            down.write(body)
        self._down = down
        watcher, write = self._watcher, down.raw_writer()
        if watcher is None or write is None or self._rename is not None or not watcher.plain_mark:
            return
        self._flow = Flow(write, watcher.plain_mark, self._gaps, self._monotonic, self._kept)
        self._offer_shortcut(watcher, self._flow)

    def _offer_shortcut(self, watcher: Watcher, flow: Flow) -> None:
        """Let reads go through `flow` from here, if the stream stands between two events."""
        assert self._source is not None  # noqa: S101  a spliced reply has one
        assert self._splitter is not None  # noqa: S101  a stream has one
        may = not self._splitter.pending and not watcher.ended
        flow.last_at = self._last_at
        self._source.shorten(flow.take if may else None)

    @property
    def last_at(self) -> float:
        """When the last event of a stream came, in monotonic seconds; 0 before the first."""
        return self._last_at if self._flow is None else max(self._last_at, self._flow.last_at)

    def limit(self, until: float) -> None:
        """Let the answer end by `until` instead of what its sending said."""
        if self._source is not None and not self.ended:
            self._source.limit(until)

    def _account(self) -> None:
        """Take over what the shortcut has counted."""
        flow = self._flow
        if flow is not None and self._watcher is not None:
            self._watcher.count(flow.tokens)
            self._last_at = flow.last_at
            flow.tokens = 0

    # The connection's side: `gateway.wire.types.Receiver`.

    def head(self, head: ResponseHead) -> None:
        """Take the response head."""
        self._head = head
        self.status = head.status
        self.lines = head.lines
        if head.streams:
            self._splitter = EventSplitter()
            self._watcher = self._watch()

    def whole(self, head: ResponseHead, body: bytes) -> None:
        """Take a response that came in one read."""
        self.head(head)
        if self._watcher is not None:
            self.data(body, last=True)
        else:
            self._end_plain(body)

    def data(self, data: bytes, *, last: bool) -> None:
        """Take the body bytes of one read."""
        watcher = self._watcher
        if watcher is None:
            self._take_plain(data, last=last)
            return
        out = self._pass_events(watcher, data) if data else b""
        if watcher.failure is not None:
            self._fail(watcher.failure, out)
            if not last:
                self.cancel()  # Whatever else it says belongs to no answer.
        elif last:
            self._end(watcher, out)
        elif self._down is not None:
            if out:
                self._down.write(out)
            if self._flow is not None:
                self._offer_shortcut(watcher, self._flow)
        else:
            self._hold(out)

    def lost(self, error: UpstreamError) -> None:
        """The connection broke; an answer that was complete but for its end mark still counts."""
        self.lost_by = error
        if self._watcher is not None and self._watcher.closing() is not None:
            self._end(self._watcher, b"")
        else:
            self._fail(Failure(str(error), timeout=error.timeout, cut=True), b"")

    # Inside.

    def _pass_events(self, watcher: Watcher, data: bytes) -> bytes:
        self._account()
        now = self._monotonic()
        if self._last_at:
            self._gaps.observe(now - self._last_at)
        assert self._splitter is not None  # noqa: S101  made together with the watcher
        try:
            events = self._splitter.feed(data)
        except EventTooLargeError:
            watcher.failure = Failure("The engine sent an event that does not end.")
            return b""
        if not events:
            return b""
        out = watcher.see(events)
        if watcher.started:
            self._last_at = now
            if not self.first_at:
                self.first_at = now
        if self._rename is not None:
            out = self._rename(out)
        if self._kept is not None:
            self._kept.plain(out)
        return out

    def _hold(self, out: bytes) -> None:
        if out:
            self._held.append(out)
        if self.ready:
            self._wake()

    def _take_plain(self, data: bytes, *, last: bool) -> None:
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
            self._end_plain(self.body)
        elif self._held_bytes > self.hold_bytes:
            self._wake()

    def _end_plain(self, body: bytes) -> None:
        self._held = [body]
        self.ended = True
        head = self._head
        if self.status == 200 and head is not None and b"json" in head.content_type:
            self.failure = failure_of(body)
            self._usage = usage_of(body)
        self._wake()

    def _end(self, watcher: Watcher, out: bytes) -> None:
        tail = watcher.closing()
        if tail is None or not watcher.started:
            self._fail(_CUT, out)
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
        down = self._down
        if down is not None:
            down.detach()  # Its connection may carry another's request before this one is over.
            if out:
                down.write(out)  # Whole events from before the failure are part of the answer.
        elif out:
            self._held.append(out)
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

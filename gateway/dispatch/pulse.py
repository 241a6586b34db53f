"""What keeps a waiting client's connection alive, when no event comes for it?

A comment, which every reader of event streams skips (WHATWG HTML §9.2.6). Proxies, load balancers
and read time-outs on the way to the client count bytes: a long prefill, a queue or a resume must
not look like a dead connection to them.
"""

from __future__ import annotations

from gateway.dispatch.attempts import Attempts
from gateway.wire.types import Downstream

PING = b": ping\n\n"

STREAM_LINES = (
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
)
"""The head of a stream whose engine has not sent one yet."""


class Pulse:
    """The streams that are under way; swept now and then."""

    def __init__(self) -> None:
        self._streams: dict[Attempts, _Stream] = {}

    def __repr__(self) -> str:
        return f"<Pulse, {len(self._streams)} streams>"

    def add(self, attempts: Attempts, down: Downstream) -> None:
        """Look after a stream from now on."""
        self._streams[attempts] = _Stream(attempts, down)

    def remove(self, attempts: Attempts) -> None:
        """The stream has ended."""
        self._streams.pop(attempts, None)

    def sweep(self, now: float) -> None:
        """Send a comment to each client that has heard nothing for its cluster's `keepalive_s`."""
        for stream in self._streams.values():
            stream.beat(now)


class _Stream:
    __slots__ = ("_attempts", "_down", "_pinged_at")

    def __init__(self, attempts: Attempts, down: Downstream) -> None:
        self._attempts = attempts
        self._down = down
        self._pinged_at = attempts.record.started_at

    def beat(self, now: float) -> None:
        attempts, down = self._attempts, self._down
        after_s = attempts.plan.pool.owner.spec.timeouts.keepalive_s
        reply = attempts.reply
        last_at = self._pinged_at if reply is None else max(self._pinged_at, reply.last_at)
        if not after_s or now - last_at < after_s:
            return
        held = attempts.lease is not None  # Until a refusal is settled, and the next is waited for.
        if held and reply is not None and reply.ended and reply.failure is None:
            return  # All is said; the request is about to be recorded.
        record = attempts.record
        if down.started and not record.stream:
            return  # A stream was asked for, but what came is none.
        if not down.started and now >= attempts.by:
            return  # Its time is up, and it is about to be told so.
        self._pinged_at = now
        if not down.started:
            record.status, record.stream = 200, True
            down.start(200, b"%bx-request-id: %b\r\n" % (STREAM_LINES, record.request_id), None)
            attempts.relax()
        down.write(PING)  # Only whole events are passed on, so this stands between two.

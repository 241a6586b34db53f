"""How is an answer handed to a reader that pulls: an ASGI server, or a route of our own?

`QueuedDownstream` is the `Downstream` for everything that is not our own protocol. What the
engine sends waits in a bounded queue; a full one pauses the engine.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.wire.guard import Headers
from gateway.wire.types import Request, Serve, Source

HIGH_WATER_BYTES = 64 * 1024
"""Bytes in the queue at which the engine is paused; asyncio's own limit for a transport."""


class AbortedError(Exception):
    """The answer was given up in its middle."""


class QueuedDownstream:
    """One exchange whose answer is pulled: `head` once, then `pieces` to the end."""

    def __init__(self) -> None:
        self.started = False
        self._head: asyncio.Future[tuple[int, Headers]] = asyncio.get_running_loop().create_future()
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._ended = False
        self._aborted = False
        self._source: Source | None = None
        self._paused = False
        self._news = asyncio.Event()

    # The proxy core's side: `gateway.wire.types.Downstream`.

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Take a whole response."""
        self._begin(status, headers + b"content-length: %d\r\n" % len(body))
        self.finish(body)

    def start(self, status: int, headers: bytes, length: int | None) -> None:
        """Take the head of a response whose body follows."""
        framing = b"" if length is None else b"content-length: %d\r\n" % length
        self._begin(status, headers + framing)

    def attach(self, source: Source) -> None:
        """Note whom to pause."""
        self._source = source
        if self._paused:
            source.pause()

    def detach(self) -> None:
        """Let go of the source; another may follow."""
        self._source = None

    def write(self, data: bytes) -> None:
        """Take a piece of the body; pause the engine if the reader lags."""
        self._queue.append(data)
        self._queued_bytes += len(data)
        if self._queued_bytes > HIGH_WATER_BYTES and self._source and not self._paused:
            self._paused = True
            self._source.pause()
        self._news.set()

    def raw_writer(self) -> Callable[[bytes], None] | None:
        """Chunked coding is the server's business here."""
        return None

    def finish(self, data: bytes = b"") -> None:
        """Take the last piece."""
        self.detach()
        if data:
            self.write(data)
        self._ended = True
        self._news.set()

    def abort(self) -> None:
        """Give the answer up; the reader gets `AbortedError`."""
        self._aborted = True
        self._news.set()

    def _begin(self, status: int, lines: bytes) -> None:
        self.started = True
        if not self._head.done():
            fields = [line.partition(b": ") for line in lines.split(b"\r\n") if line]
            self._head.set_result((status, [(name, value) for name, _, value in fields]))

    # The reader's side.

    async def head(self) -> tuple[int, Headers]:
        """Wait for status and header fields."""
        return await self._head

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises `AbortedError` where it breaks off."""
        while True:
            while self._queue:
                piece = self._queue.popleft()
                self._queued_bytes -= len(piece)
                if self._paused and self._queued_bytes <= HIGH_WATER_BYTES // 2:
                    self._paused = False
                    if self._source is not None:
                        self._source.resume()
                yield piece
            if self._aborted:
                raise AbortedError
            if self._ended:
                return
            self._news.clear()
            await self._news.wait()


@asynccontextmanager
async def ask(serve: Serve, request: Request) -> AsyncIterator[QueuedDownstream]:
    """Send one request through the proxy core; leaving the context is the client's leaving."""
    down = QueuedDownstream()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(serve(request, down))
        try:
            yield down
        finally:
            task.cancel()

"""In which order does one connection serve its requests, and in which task?

One task a connection, for its requests come one after the other anyway: a task for each would
cost 1.5 µs more, and the client's leaving ends it just the same.
"""

from __future__ import annotations

import asyncio

from gateway.wire.types import Downstream, Request, Serve


class Turns:
    """Serves the requests that it is handed, each when the one before is done."""

    __slots__ = ("_loop", "_lost", "_next", "_owned", "_serve", "_task", "_waiting")

    def __init__(
        self, serve: Serve, loop: asyncio.AbstractEventLoop, owned: set[asyncio.Task[None]]
    ) -> None:
        """`owned` are the server's tasks, which it awaits when it shuts down."""
        self._serve = serve
        self._loop = loop
        self._owned = owned
        self._task: asyncio.Task[None] | None = None
        self._waiting: asyncio.Future[tuple[Request, Downstream]] | None = None
        self._next: tuple[Request, Downstream] | None = None
        self._lost = False

    def take(self, request: Request, down: Downstream) -> None:
        """Serve `request` once the one before it has been recorded."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.set_result((request, down))
            return
        self._next = (request, down)
        if self._task is None:
            self._task = self._loop.create_task(self._run())
            self._owned.add(self._task)

    def cancel(self) -> None:
        """Stop the request under way: its client has left."""
        if self._task is not None:
            self._task.cancel()

    def end(self) -> None:
        """Take no more; the task goes when it has recorded what it is at."""
        self._lost = True
        self._next = None
        if self._waiting is not None:
            self._waiting.cancel()
        if self._task is not None:
            self._owned.discard(self._task)

    async def _run(self) -> None:
        serve = self._serve
        while not self._lost:
            following, self._next = self._next, None
            if following is None:
                self._waiting = self._loop.create_future()
                following = await self._waiting
            await serve(*following)

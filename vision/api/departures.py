"""Has the client of a slow request left?

ASGI tells it only to somebody who waits for it, and one more task for each request would cost about
as much as reading the request. So a request is looked after only once it has lasted for
`PATIENCE_S`: what the others pay is a timer that is cancelled.

    entered --PATIENCE_S--> listening --client leaves--> gone: the request's task is cancelled
       |                        |
       +--------- left ---------+-----> over
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from starlette.types import Receive

from vision.api.exchange import ClientGone

PATIENCE_S = 0.05
"""Ten times what a small model takes under load; less than the shortest answer of a large one."""


class Departures:
    """Owns the tasks that listen; `run` has to be running for as long as requests come."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Own the listeners until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None

    def watch(self, receive: Receive) -> Watch:
        """Return a context in which a departure of the client raises `ClientGone`."""
        return Watch(self, receive)

    def later(self, watch: Watch) -> asyncio.TimerHandle:
        """Begin to listen when the request turns out to be slow."""
        return asyncio.get_running_loop().call_later(self._patience_s, self._listen, watch)

    def _listen(self, watch: Watch) -> None:
        if self._group is not None:
            watch.listener = self._group.create_task(watch.listen())


class Watch:
    """One request's; about 2 µs if it is quick."""

    __slots__ = ("_departures", "_gone", "_receive", "_task", "_timer", "listener")

    def __init__(self, departures: Departures, receive: Receive) -> None:
        self._departures = departures
        self._receive = receive
        self._gone = False
        self._task: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.listener: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = self._departures.later(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.listener is not None:
            self.listener.cancel()
        if self._gone and kind is asyncio.CancelledError and self._task is not None:
            self._task.uncancel()
            raise ClientGone from None

    async def listen(self) -> None:
        """Wait until the client has left, then stop its request."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self._gone = True
            self._task.cancel()

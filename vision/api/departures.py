"""Has the client of a slow request left?

ASGI tells it only to somebody who waits for it, and one more task for each request costs 7 µs. So
requests are looked after only once they are slow: a clock that ticks while there are any finds
those that it has met twice, and waits for their clients. A quick request is put into a set and
taken out again: 1 µs.

    young --tick--> old --tick--> listening --client leaves--> gone: the request's task is cancelled
      |              |                |
      +--------------+----- left -----+----> over
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

from starlette.types import Receive

from vision.api.exchange import ClientGone

TICK_S = 0.05
"""Ten times what a small model takes under load; less than the shortest answer of a large one."""


class Departures:
    """Owns the tasks that listen; `run` has to be running for as long as requests come."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self._tick_s = tick_s
        self._young: set[Watch] = set()
        self._old: set[Watch] = set()
        self._clock: asyncio.TimerHandle | None = None
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Own the listeners until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None
                if self._clock is not None:
                    self._clock.cancel()

    def watch(self, receive: Receive) -> Watch:
        """Return a context in which a departure of the client raises `ClientGone`."""
        return Watch(self, receive)

    def enter(self, watch: Watch) -> None:
        """Begin to count a request's ticks."""
        self._young.add(watch)
        if self._clock is None:
            self._wind()

    def leave(self, watch: Watch) -> None:
        """Forget a request."""
        self._young.discard(watch)
        self._old.discard(watch)

    def _wind(self) -> None:
        self._clock = asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        if self._group is not None:
            for watch in self._old:
                watch.listener = self._group.create_task(watch.listen())
        self._old, self._young = self._young, set()
        self._clock = None
        if self._old:
            self._wind()


class Watch:
    """One request's."""

    __slots__ = ("_departures", "_gone", "_receive", "_task", "listener")

    def __init__(self, departures: Departures, receive: Receive) -> None:
        self._departures = departures
        self._receive = receive
        self._gone = False
        self._task: asyncio.Task[Any] | None = None
        self.listener: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._departures.enter(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._departures.leave(self)
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

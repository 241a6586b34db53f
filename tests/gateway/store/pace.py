"""Loops that sleep, taken one sleep at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from tests.support.control import PATIENCE_S, ManualClock


class Pace:
    """Stands in for `asyncio.sleep`: the test says when a sleep is over, and the clock moves on."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.slept: list[float] = []
        self._asleep = asyncio.Event()
        self._awake = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._asleep.set()
        await self._awake.wait()
        self._awake.clear()
        self.clock.now += seconds

    async def asleep(self) -> None:
        """Wait until the loop sleeps."""
        await asyncio.wait_for(self._asleep.wait(), PATIENCE_S)

    async def go(self, times: int = 1) -> None:
        """End a sleep and wait for the next one."""
        for _ in range(times):
            await self.asleep()
            self._asleep.clear()
            self._awake.set()
            await self.asleep()

    @asynccontextmanager
    async def running(self, loop: Coroutine[Any, Any, None]) -> AsyncIterator[asyncio.Task[None]]:
        """Run the loop to its first sleep, and cancel it at the end."""
        task = asyncio.ensure_future(loop)
        try:
            await self.asleep()
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

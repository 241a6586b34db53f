"""Clients that leave while they wait."""

import asyncio
from typing import Any

import pytest

from vision.api.departures import Departures
from vision.api.exchange import ClientGone


class Client:
    """Tells whether somebody listens, and leaves on command."""

    def __init__(self) -> None:
        self.listening = asyncio.Event()
        self.left = asyncio.Event()
        self.cancelled = False

    async def receive(self) -> dict[str, Any]:
        self.listening.set()
        try:
            await self.left.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return {"type": "http.disconnect"}


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_slow_request_ends_when_its_client_leaves() -> None:
    departures, client = Departures(0.0), Client()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(departures.run())
        await ticks(1)

        async def request() -> None:
            with pytest.raises(ClientGone), departures.watch(client.receive):
                await asyncio.Event().wait()

        task = group.create_task(request())
        await client.listening.wait()
        client.left.set()
        await task
        assert task.cancelling() == 0
        running.cancel()


async def test_an_answer_ends_the_listening() -> None:
    departures, client, done = Departures(0.0), Client(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(departures.run())
        await ticks(1)

        async def request() -> str:
            with departures.watch(client.receive):
                await done.wait()
            return "answered"

        task = group.create_task(request())
        await client.listening.wait()
        done.set()
        assert await task == "answered"
        await ticks(2)
        assert client.cancelled
        running.cancel()


async def test_a_quick_request_is_not_listened_to() -> None:
    departures, client = Departures(3600.0), Client()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(departures.run())
        await ticks(1)
        with departures.watch(client.receive):
            await ticks(3)
        assert not client.listening.is_set()
        running.cancel()


async def test_a_cancellation_by_somebody_else_stays_one() -> None:
    departures, client = Departures(0.0), Client()

    async def request() -> None:
        with departures.watch(client.receive):
            await asyncio.Event().wait()

    task = asyncio.ensure_future(request())
    await ticks(3)  # Nobody runs `departures`: it only counts.
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not client.listening.is_set()

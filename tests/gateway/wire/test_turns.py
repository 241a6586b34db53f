"""One connection's requests are served in order, by one task, until the client has left."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.wire.turns import Turns
from tests.support.rig import eventually


class Core:
    """A proxy core that serves each request when the test says so."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[tuple[Any, bool]] = []
        self.go = asyncio.Semaphore(0)

    async def serve(self, request: Any, down: Any) -> None:
        self.begun.append(request)
        try:
            await self.go.acquire()
        except asyncio.CancelledError:
            self.ended.append((request, False))
            raise
        self.ended.append((request, True))


def turns(core: Core) -> tuple[Turns, set[asyncio.Task[None]]]:
    owned: set[asyncio.Task[None]] = set()
    return Turns(core.serve, asyncio.get_running_loop(), owned), owned


def request(name: str) -> Any:
    return name


async def test_requests_are_served_one_after_the_other_by_one_task() -> None:
    """Also when the next one comes before the last one has been recorded."""
    core = Core()
    served, owned = turns(core)
    served.take(request("a"), request("client"))
    await eventually(lambda: core.begun == ["a"])
    served.take(request("b"), request("client"))
    assert core.begun == ["a"]
    core.go.release()
    await eventually(lambda: core.begun == ["a", "b"])
    core.go.release()
    await eventually(lambda: len(core.ended) == 2)
    served.take(request("c"), request("client"))
    await eventually(lambda: core.begun[-1] == "c")
    assert len(owned) == 1
    served.cancel()
    served.end()


async def test_a_client_that_leaves_cancels_what_is_under_way() -> None:
    """And the server no longer waits for the connection's task."""
    core = Core()
    served, owned = turns(core)
    served.take(request("a"), request("client"))
    await eventually(lambda: core.begun == ["a"])
    (task,) = owned
    served.cancel()
    served.end()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert core.ended == [("a", False)]
    assert not owned


async def test_a_client_that_leaves_between_requests_ends_the_task() -> None:
    """Nothing waits for a request that cannot come."""
    core = Core()
    served, owned = turns(core)
    served.take(request("a"), request("client"))
    core.go.release()
    await eventually(lambda: core.ended == [("a", True)])
    (task,) = owned
    served.end()
    await asyncio.wait({task})
    assert task.done()


async def test_what_is_done_is_recorded_after_the_client_has_left() -> None:
    """The end alone does not cancel: the last request's record is still written."""
    core = Core()
    served, owned = turns(core)
    served.take(request("a"), request("client"))
    await eventually(lambda: core.begun == ["a"])
    (task,) = owned
    served.take(request("never"), request("client"))
    served.end()
    core.go.release()
    await asyncio.wait({task})
    assert (core.begun, core.ended) == (["a"], [("a", True)])

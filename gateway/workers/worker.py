"""What does a gateway do otherwise because it is one of several workers?

    bound --parent: go--> waiting --an endpoint is healthy, or 2 s--> listening

It listens late, so that a worker that was started again does not take connections before it knows
a healthy endpoint: the others take them meanwhile. When its parent is gone, it leaves.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from gateway.control.health import served
from gateway.control.operations import Alive, MainLoop
from gateway.control.view import GatewayView
from gateway.workers.front import ask_parent
from gateway.workers.inner import serve_inside
from gateway.workers.output import take_turns
from gateway.workers.own import own_routes, standing_of
from gateway.workers.ports import shared
from gateway.workers.seat import Seat

_LOG = logging.getLogger("sluice.workers")
R = TypeVar("R")

GO_S = 5.0
"""How long to wait for the parent's word; it is not needed to serve."""

SERVED_S = 2.0
"""How long to wait for a healthy endpoint. Without one a single process would be listening, too."""

LOOK_S = 0.02
"""Between two looks while waiting."""


class Worker:
    """This process' side."""

    def __init__(self, seat: Seat) -> None:
        """Standard output is shared from now on. Raises `OSError`."""
        self.seat = seat
        self.listening = False
        self._go = asyncio.Event()
        take_turns(seat.output_lock)

    def line_of(self, line_of: Callable[[R], str]) -> Callable[[R], str]:
        """Return what makes a line of the access log that says which worker wrote it."""
        end = f',"worker":{self.seat.number}}}\n'
        return lambda record: f"{line_of(record)[:-2]}{end}"

    def bind(self, host: str) -> socket.socket:
        """Return the clients' port. It does not listen. Raises `OSError`."""
        return shared(host, self.seat.port)

    def together(self, app: FastAPI, view: GatewayView) -> None:
        """Let the clients' port answer for all workers what only all know."""
        ask_parent(app, view, self.seat.parent_socket)

    @asynccontextmanager
    async def answer_parent(
        self, app: FastAPI, view: GatewayView, registry: CollectorRegistry, ways: Ways
    ) -> AsyncIterator[None]:
        """Serve the operators' app to the parent, and a few routes more. Raises `OSError`."""
        main, heart = ways
        app.include_router(
            own_routes(
                view,
                registry,
                main,
                lambda: standing_of(heart, self.listening),
                self._go.set,
            )
        )
        async with serve_inside(app, self.seat.socket):
            yield

    async def until_served(self, view: GatewayView, leaving: Callable[[], bool]) -> None:
        """Wait until it is worth listening, for some seconds at the most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(GO_S):
                await self._go.wait()
        for _ in range(round(SERVED_S / LOOK_S)):
            if leaving() or served(view.models(), view.endpoints()):
                return
            await asyncio.sleep(LOOK_S)

    async def until_orphaned(self, leave: Callable[[], None]) -> None:
        """Call `leave` when the parent has ended: standard input is its pipe, never written to."""
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        descriptor = sys.stdin.fileno()

        def look() -> None:
            if not os.read(descriptor, 64):
                loop.remove_reader(descriptor)
                gone.set()

        loop.add_reader(descriptor, look)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
        _LOG.error("the parent of this worker is gone; it leaves, too")
        leave()


Ways = tuple[MainLoop, Alive]
"""Into the main loop, and what is known of it from outside."""

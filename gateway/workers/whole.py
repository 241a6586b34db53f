"""What does the parent answer to its workers, for the clients that ask them?

The routes of one process (`gateway.control.health`), over what all of them see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import FastAPI
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import __version__
from gateway.control import health
from gateway.control.failures import install
from gateway.control.operations import MainLoop
from gateway.control.view import EndpointView, ModelView
from gateway.workers.own import Seen
from gateway.workers.roster import Roster, exposition
from gateway.workers.states import merged_models, merged_views


class Whole:
    """`gateway.control.view.GatewayView` over what was gathered last."""

    version = __version__

    def __init__(self) -> None:
        self.seen: Sequence[Seen] = ()
        self.metrics = b""

    @property
    def draining(self) -> bool:
        """Whether every worker is on its way out: one that is not takes requests."""
        return bool(self.seen) and all(one.draining for one in self.seen)

    @property
    def generation(self) -> int:
        """The newest that a worker has."""
        return max((one.generation for one in self.seen), default=1)

    async def closing(self) -> None:
        """Never return: nobody streams from here."""
        await asyncio.get_running_loop().create_future()

    def models(self) -> Sequence[ModelView]:
        """Return every name that a worker knows."""
        return merged_models(one.models for one in self.seen)

    def endpoints(self) -> Sequence[EndpointView]:
        """Return every endpoint; one is healthy if a worker would ask it."""
        return merged_views(one.endpoints for one in self.seen if not one.draining)

    def uptime_s(self) -> float:
        """Seconds since the oldest worker began to serve."""
        return max((one.uptime_s for one in self.seen), default=0.0)

    def metrics_text(self) -> tuple[bytes, str]:
        """Return the exposition of all metrics."""
        return self.metrics, CONTENT_TYPE_LATEST


def build_whole(roster: Roster, main: MainLoop) -> ASGIApp:
    """Return the app that a worker asks."""
    whole = Whole()
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.include_router(health.router(whole))
    install(app)
    return _Gathering(app, whole, roster, main)


class _Gathering:
    """Gathers anew before each answer."""

    def __init__(self, app: ASGIApp, whole: Whole, roster: Roster, main: MainLoop) -> None:
        self._app = app
        self._whole = whole
        self._roster = roster
        self._main = main

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; the listener takes nothing else."""
        if scope["path"] == "/metrics":
            self._whole.metrics = exposition(await self._main.run(self._roster.metrics))
        else:
            self._whole.seen = await self._main.run(self._roster.seen)
        await self._app(scope, receive, send)

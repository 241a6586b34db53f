"""What does a worker answer its parent, besides what operators may ask?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.responses import Response

from gateway.control.operations import Alive, MainLoop
from gateway.control.view import EndpointView, GatewayView, ModelView
from gateway.workers.samples import encoded


@dataclass(frozen=True, slots=True)
class Seen:
    """What a worker sees of the gateway."""

    models: Sequence[ModelView]
    endpoints: Sequence[EndpointView]
    draining: bool
    generation: int
    uptime_s: float

    @classmethod
    def of(cls, view: GatewayView) -> Seen:
        """Return what `view` says now."""
        return cls(view.models(), view.endpoints(), view.draining, view.generation, view.uptime_s())


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a worker is, as only its thread has to know."""

    listening: bool
    lag_s: float
    """How late its main loop is now."""


def own_routes(
    view: GatewayView,
    registry: CollectorRegistry,
    main: MainLoop,
    standing: Callable[[], Standing],
    go: Callable[[], None],
) -> APIRouter:
    """Return the routes; `go` is told that the worker may listen."""
    routes = APIRouter(prefix="/worker", include_in_schema=False)

    @routes.get("/standing")
    async def answer_standing() -> Response:
        """Answer without the main loop, which may be stuck."""
        return _json(standing())

    @routes.get("/seen")
    async def seen() -> Response:
        """Answer what this worker sees."""
        return _json(await main.read(lambda: Seen.of(view)))

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Answer what this worker alone has counted."""
        return Response(await main.read(lambda: encoded(registry)))

    @routes.post("/go")
    async def listen() -> Response:
        """Let it listen as soon as it can serve."""
        await main.read(go)
        return Response()

    return routes


def standing_of(heart: Alive, listening: bool) -> Standing:
    """Return where a worker stands; may be asked in any thread."""
    return Standing(listening, heart.lag_s())


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")

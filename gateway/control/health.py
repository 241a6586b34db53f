"""Is the gateway alive, ready, healthy, and which version of it is this?"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from gateway.control.view import EndpointView, GatewayView, ModelView


class Status(StrEnum):
    """What `/health` says first."""

    OK = "ok"
    DEGRADED = "degraded"
    """Something is served, but an endpoint is out or a model has none left."""
    UNAVAILABLE = "unavailable"
    DRAINING = "draining"


def served(models: Sequence[ModelView], endpoints: Sequence[EndpointView]) -> list[str]:
    """Return the ids of the models that a healthy endpoint serves, sorted."""
    offered = {name for endpoint in endpoints if endpoint.healthy for name in endpoint.models}
    return sorted({model.id for model in models} & offered)


def status_of(
    models: Sequence[ModelView], endpoints: Sequence[EndpointView], *, draining: bool
) -> Status:
    """Sum the gateway's state up in one word."""
    if draining:
        return Status.DRAINING
    available = served(models, endpoints)
    if not available:
        return Status.UNAVAILABLE
    whole = len(available) == len({model.id for model in models})
    if whole and all(endpoint.healthy for endpoint in endpoints):
        return Status.OK
    return Status.DEGRADED


def router(view: GatewayView) -> APIRouter:
    """Return the routes that probes, operators and Prometheus ask."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/health")
    async def health() -> Response:
        """State, models served and endpoints: 200 while anything new is served, else 503."""
        return _health(view)

    @routes.get("/livez")
    async def livez() -> Response:
        """Answer 200 as long as the process can answer at all."""
        return JSONResponse({"status": "alive"})

    @routes.get("/readyz")
    async def readyz() -> Response:
        """Answer 200 once a healthy endpoint serves a model; 503 before, and while draining."""
        if view.draining:
            return JSONResponse({"status": "draining"}, 503)
        if not served(view.models(), view.endpoints()):
            return JSONResponse({"status": "no model is served by a healthy endpoint"}, 503)
        return JSONResponse({"status": "ready"})

    @routes.get("/version")
    async def version() -> Response:
        """Answer the gateway's own version."""
        return JSONResponse({"version": view.version})

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Answer all metrics in Prometheus' exposition format."""
        body, content_type = view.metrics_text()
        return Response(body, headers={"content-type": content_type})

    return routes


def _health(view: GatewayView) -> Response:
    models, endpoints = view.models(), view.endpoints()
    status = status_of(models, endpoints, draining=view.draining)
    body = {
        "status": status,
        "models": served(models, endpoints),
        "endpoints": {
            "total": len(endpoints),
            "healthy": sum(endpoint.healthy for endpoint in endpoints),
            # Without the URLs: this port is public, and an engine behind it asks for no key.
            "list": [
                {
                    "id": endpoint.id,
                    "cluster": endpoint.cluster,
                    "healthy": endpoint.healthy,
                    "inflight": endpoint.inflight,
                    "models": list(endpoint.models),
                }
                for endpoint in endpoints
            ],
        },
        "generation": view.generation,
        "uptime_seconds": round(view.uptime_s(), 3),
    }
    return JSONResponse(body, 200 if status in {Status.OK, Status.DEGRADED} else 503)

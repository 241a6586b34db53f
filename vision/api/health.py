"""Is the service ready, and what do its numbers say?"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from vision.api import describe
from vision.api.exchange import encode_json
from vision.api.view import View
from vision.telemetry import Telemetry
from vision.versions import State


def router(view: View, telemetry: Telemetry) -> APIRouter:
    """Return the routes that probes and Prometheus ask."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/health", responses=describe.answers(describe.HEALTH, 503))
    async def health() -> Response:
        """Answer 200 once start-up loading is over; 503 before, and while draining."""
        entries = [entry for entry in view.entries() if entry.state is State.READY]
        status = "draining" if view.draining else "loading" if view.loading else "ok"
        on_gpu = any((entry.device or "").startswith("cuda") for entry in entries)
        body = {
            "status": status,
            "models_loaded": len({entry.name for entry in entries}),
            "gpu_available": on_gpu or telemetry.gpu_available,
            "uptime_seconds": round(view.uptime_s(), 3),
        }
        return Response(
            encode_json(body), 200 if status == "ok" else 503, media_type="application/json"
        )

    @routes.get("/metrics", responses=describe.METRICS)
    async def metrics() -> Response:
        """Answer all metrics in Prometheus' exposition format."""
        body, content_type = telemetry.exposition()
        return Response(body, headers={"content-type": content_type})

    return routes

"""Which routes does the service have over HTTP, as one ASGI app?

    /v1/predict, /predict, /v2/models/…/infer ──► plain ASGI
    everything else                           ──► FastAPI

The hot routes do not pass through the framework: a route of FastAPI's that does hardly anything
costs 270 µs where an app of plain ASGI costs 50, and a whole prediction of a small model 300.
"""

from __future__ import annotations

from random import Random
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from vision.api import describe_hot, health, models, rest
from vision.api.departures import Departures
from vision.api.failures import install
from vision.api.infer import PREFIX, SUFFIX, Infer
from vision.api.predict import PATHS, Limits, Predict
from vision.api.view import View
from vision.service import Service
from vision.telemetry import Telemetry


class Http:
    """The app that uvicorn hosts."""

    __slots__ = ("_infer", "_others", "_predict")

    def __init__(
        self,
        service: Service,
        view: View,
        telemetry: Telemetry,
        limits: Limits,
        departures: Departures,
    ) -> None:
        rng = Random()  # noqa: S311  names of traces, no secrets
        self._predict = Predict(service, limits, departures, rng)
        self._infer = Infer(service, limits.body_bytes, departures, rng)
        self._others = others(view, telemetry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to its route."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path in PATHS:
                await self._predict(scope, receive, send)
                return
            if path.startswith(PREFIX) and path.endswith(SUFFIX, len(PREFIX)):
                await self._infer(scope, receive, send)
                return
        await self._others(scope, receive, send)


def others(view: View, telemetry: Telemetry) -> FastAPI:
    """Return the app of all routes that are not hot; its OpenAPI page describes those, too."""
    app = FastAPI(
        title="Sluice vision service",
        version=view.version,
        docs_url=None,  # Both load scripts from a foreign host; the schema itself is served.
        redoc_url=None,
        redirect_slashes=False,  # A redirected POST loses its body in half of the clients.
    )
    app.include_router(health.router(view, telemetry))
    app.include_router(models.router(view))
    app.include_router(rest.router(view))
    install(app)
    page = app.openapi()
    page["paths"].update(describe_hot.HOT_PATHS)
    _without_framework_errors(page)
    return app


def _without_framework_errors(page: dict[str, Any]) -> None:
    """Drop the answer 422 that FastAPI adds wherever something could be validated: ours is 400."""
    for operations in page["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    page.get("components", {}).pop("schemas", None)

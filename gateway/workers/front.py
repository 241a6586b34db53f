"""What does a worker answer on the clients' port that only all of them together know?

`/health`, `/readyz` and `/metrics` are the parent's to answer; the connection has come to this
worker by chance. If the parent is silent, state is told as this worker sees it. Its own metrics are
not: counters that fall would be counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.control import health
from gateway.control.failures import install
from gateway.control.view import GatewayView
from gateway.errors import GatewayError
from gateway.workers.inner import Question, ask

ASKED: Mapping[str, float] = {"/health": 2.5, "/readyz": 2.5, "/metrics": 5.0}
"""Path → seconds for the parent, which waits 1 s for each worker itself."""


def ask_parent(app: FastAPI, view: GatewayView, parent: str) -> None:
    """Let the parent answer for all workers; `parent` is its socket."""
    alone = FastAPI(openapi_url=None, redirect_slashes=False)
    alone.include_router(health.router(view))
    install(alone)
    for path in ASKED:  # Before the app's own, which see this worker only.
        app.router.routes.insert(0, Route(path, _Asking(parent, alone), include_in_schema=False))


class _Asking:
    """An endpoint that hands the question on."""

    def __init__(self, parent: str, alone: ASGIApp) -> None:
        self._parent = parent
        self._alone = alone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the parent does. Raises `GatewayError` 503 for metrics without it."""
        request = Request(scope)
        path: str = request.url.path
        answer = await self._answer(path) if request.method == "GET" else None
        if answer is not None:
            await answer(scope, receive, send)
        elif path == "/metrics" and request.method == "GET":
            message = "The workers' metrics cannot be collected now."
            raise GatewayError(503, "gateway_busy", message, retry=True, retry_after_s=1)
        else:
            await self._alone(scope, receive, send)

    async def _answer(self, path: str) -> Response | None:
        try:
            answer = await ask(self._parent, Question("GET", path, limit_s=ASKED[path]))
        except (httpx.HTTPError, TimeoutError):
            return None
        if path not in {"/health", "/readyz"} and answer.status_code != 200:
            return None
        kind = answer.headers.get("content-type", "")
        return Response(answer.content, answer.status_code, {"content-type": kind})

"""Which routes does the gateway serve outside the data path, as one app?"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from fastapi import FastAPI
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.clock import Clock
from gateway.control import chat, chat_socket, feedback, generate, health, models
from gateway.control.edge import Edge
from gateway.control.failures import install, unknown_route, wrong_method
from gateway.control.feedback import Feedback, Nobody
from gateway.control.view import Ask, GatewayView
from gateway.wire.guard import Limits

MAX_BODY_BYTES = 32 * 1024 * 1024
"""The data path's own default; a long context with images is what needs it."""


def build(  # noqa: PLR0913 - parts of the gateway that nothing else brings together
    view: GatewayView,
    ask: Ask,
    *,
    clock: Clock,
    data_routes: Mapping[str, str],
    max_body_bytes: int = MAX_BODY_BYTES,
    origins: Collection[str] = (),
    scores: Feedback | None = None,
) -> FastAPI:
    """Return the app.

    `data_routes` are the data path's own (path → method): what of them comes here came with
    another method. `origins` are those whose pages may open the chat WebSocket besides the
    gateway's own ("*": any). `scores` is where feedback goes; without it no request is known.
    """
    app = FastAPI(
        title="Sluice",
        version=view.version,
        docs_url=None,  # Both load scripts from a foreign host; the schema itself is served.
        redoc_url=None,
        redirect_slashes=False,  # A redirected POST loses its body in half of the clients.
    )
    for path, method in data_routes.items():
        app.router.routes.append(Route(path, _DataRoute(method), include_in_schema=False))
    app.include_router(health.router(view))
    app.include_router(models.router(view))
    app.include_router(generate.router(ask, clock))
    app.include_router(chat_socket.router(view, ask, Limits(body_bytes=max_body_bytes), origins))
    app.include_router(chat.router(ask))
    app.include_router(feedback.router(scores or Nobody()))
    install(app)
    app.add_middleware(Edge, max_body_bytes=max_body_bytes)
    return app


class _DataRoute:
    """Stands where the data path has a route, so that no pattern of ours takes it."""

    def __init__(self, method: str) -> None:
        self._method = method

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 405; or 404 where the path came percent-encoded, which the data path refuses."""
        request = Request(scope)
        if request.method == self._method:
            raise unknown_route(request.url.path)
        await wrong_method(request.method, [self._method])(scope, receive, send)

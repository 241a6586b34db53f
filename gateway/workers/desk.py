"""Which routes do operators have where several workers are one gateway?

The parent serves them. What one process would say of itself is gathered from all workers, what it
would be told is told to all. Every other route is answered by one worker: what it shows is shared
(policies), or the same in each (the description of the routes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

import httpx
from fastapi import APIRouter, FastAPI, Query
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway import __version__
from gateway.control.admin import MAX_BODY_BYTES, STUCK_S
from gateway.control.admin_guard import Guard
from gateway.control.admin_models import RegistrationBody, StatusBody
from gateway.control.edge import Edge
from gateway.control.failures import install
from gateway.control.operations import MainLoop
from gateway.workers import together
from gateway.workers.desk_models import (
    SharedConfig,
    SharedEndpoint,
    SharedEndpoints,
    SharedReload,
    WorkerBody,
)
from gateway.workers.inner import Question
from gateway.workers.roster import Roster, exposition

FORWARDED_S = 30.0
"""For a route that one worker answers."""

Cluster = Annotated[
    str | None, Query(description="Needed where several clusters have an endpoint of this id.")
]


@dataclass(frozen=True, slots=True)
class Parent:
    """What the routes may do with the parent."""

    drain: Callable[[], None]
    """Begin the end of all workers."""
    now: Callable[[], float]
    lag_s: Callable[[], float]
    """How late the parent's loop is; may be asked in any thread."""


def build_desk(roster: Roster, main: MainLoop, parent: Parent, token: str | None) -> FastAPI:
    """Return the operators' app; with `token` it is required on every route but `/livez`."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(_process(roster, main, parent))
    app.include_router(_endpoints(roster, main))
    app.include_router(_config(roster, main))
    app.include_router(_others(roster, main))
    install(app)
    app.add_middleware(Guard, token=token)
    app.add_middleware(Edge, max_body_bytes=MAX_BODY_BYTES)
    app.version = __version__
    return app


def _process(roster: Roster, main: MainLoop, parent: Parent) -> APIRouter:
    routes = APIRouter()

    @routes.get("/livez")
    async def livez() -> Response:
        """Answer 200 while the parent runs: workers that are stuck are its to end."""
        lag_s = parent.lag_s()
        stuck = lag_s >= STUCK_S
        body = {"status": "stuck" if stuck else "alive", "event_loop_lag_s": round(lag_s, 6)}
        return JSONResponse(body, 503 if stuck else 200)

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Answer the metrics of all workers."""
        body = exposition(await main.run(roster.metrics))
        return Response(body, headers={"content-type": CONTENT_TYPE_LATEST})

    @routes.get("/admin/workers")
    async def workers() -> dict[str, list[WorkerBody]]:
        """List the workers."""
        states = await main.read(lambda: roster.states(parent.now()))
        return {"workers": [WorkerBody.of(one) for one in states]}

    @routes.post("/admin/drain", status_code=202)
    async def drain() -> StatusBody:
        """End all workers as SIGTERM does."""

        async def work() -> None:
            parent.drain()
            await roster.tell(Question("POST", "/admin/drain"))

        await main.run(work)
        return StatusBody(status="draining")

    return routes


def _endpoints(roster: Roster, main: MainLoop) -> APIRouter:
    routes = APIRouter(prefix="/admin/endpoints")

    async def told(question: Question, name: str, cluster: str | None) -> SharedEndpoint:
        """Tell all workers of an endpoint, and return how it is then."""
        known = await together.find_endpoint(roster, name, cluster)
        async with roster.commands:
            together.check(await roster.tell(question))
        return await together.find_endpoint(roster, name, known.cluster)

    def drained(name: str, cluster: str | None, verb: str) -> Question:
        return Question("POST", together.path_of(name, cluster, verb))

    @routes.get("")
    async def endpoints() -> SharedEndpoints:
        """List every endpoint."""
        return SharedEndpoints(endpoints=await main.run(lambda: together.all_endpoints(roster)))

    @routes.post("/{endpoint:path}/drain")
    async def drain(endpoint: str, cluster: Cluster = None) -> SharedEndpoint:
        """Let no worker send it further requests."""
        question = drained(endpoint, cluster, "/drain")
        return await main.run(lambda: told(question, endpoint, cluster))

    @routes.post("/{endpoint:path}/undrain")
    async def undrain(endpoint: str, cluster: Cluster = None) -> SharedEndpoint:
        """Let every worker send it requests again."""
        question = drained(endpoint, cluster, "/undrain")
        return await main.run(lambda: told(question, endpoint, cluster))

    @routes.get("/{endpoint:path}")
    async def endpoint(endpoint: str, cluster: Cluster = None) -> SharedEndpoint:
        """Show one endpoint."""
        return await main.run(lambda: together.find_endpoint(roster, endpoint, cluster))

    @routes.post("", status_code=201)
    async def register(body: RegistrationBody) -> SharedEndpoint:
        """Let an endpoint join in every worker, or stay."""
        return await main.run(lambda: together.register(roster, body))

    @routes.delete("/{endpoint:path}")
    async def remove(endpoint: str, cluster: Cluster = None) -> StatusBody:
        """End a registration in every worker."""

        async def work() -> None:
            async with roster.commands:
                together.check(
                    await roster.tell(Question("DELETE", together.path_of(endpoint, cluster)))
                )

        await main.run(work)
        return StatusBody(status="removed")

    return routes


def _config(roster: Roster, main: MainLoop) -> APIRouter:
    routes = APIRouter(prefix="/admin")

    @routes.post("/reload")
    async def reload() -> SharedReload:
        """Take the file over in every worker; 400 says where it cannot be."""
        return await main.run(lambda: together.reload(roster))

    @routes.get("/config")
    async def config() -> SharedConfig:
        """Say which configuration is in effect."""

        return await main.run(lambda: together.config_of(roster))

    return routes


def _others(roster: Roster, main: MainLoop) -> APIRouter:
    routes = APIRouter()

    @routes.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def forward(request: Request) -> Response:
        """Let one worker answer."""
        kept = ("content-type", "accept", "x-request-id")
        query = f"?{request.url.query}" if request.url.query else ""
        question = Question(
            request.method,
            quote(request.url.path) + query,
            await request.body(),
            tuple((name, request.headers[name]) for name in kept if name in request.headers),
            FORWARDED_S,
        )

        async def work() -> httpx.Response:
            for number in [one.number for one in roster.members if one.answers]:
                answers = await roster.ask(question, {number})
                # What may have been done is not asked of a second worker.
                if answers or request.method != "GET":
                    break
            else:
                answers = {}
            return answers.popitem()[1] if answers else together.check(answers)

        answer = await main.run(work)
        names = ("content-type", "content-security-policy", "allow", "retry-after")
        fields = {name: answer.headers[name] for name in names if name in answer.headers}
        return Response(answer.content, answer.status_code, fields)

    return routes

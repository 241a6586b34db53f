"""Which routes do operators have, on the listener that is theirs alone?

They run in a thread of their own. All but `/livez` cross into the main loop, and say 503 when that
does not answer; `/livez` is what tells then that the process is alive and its loop is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, FastAPI, Query
from starlette.responses import HTMLResponse, JSONResponse, Response

from gateway import __version__
from gateway.control import admin_docs, admin_policies
from gateway.control.admin_guard import Guard
from gateway.control.admin_models import (
    Alive,
    ConfigBody,
    EndpointBody,
    EndpointList,
    RegistrationBody,
    ReloadBody,
    StatusBody,
)
from gateway.control.admin_policies import Explain, Policies
from gateway.control.edge import Edge
from gateway.control.failures import install
from gateway.control.operations import Alive as Heart
from gateway.control.operations import EndpointState, MainLoop, Operations
from gateway.errors import GatewayError, bad_request

MAX_BODY_BYTES = 1024 * 1024
"""The largest body is a request that is to be explained."""

STUCK_S = 30.0
"""A main loop that is silent for so long will not come back: the process should be restarted."""

Cluster = Annotated[
    str | None, Query(description="Needed where several clusters have an endpoint of this id.")
]


def build_admin(
    operations: Operations,
    main: MainLoop,
    heart: Heart,
    token: str | None = None,
    policies: Policies | None = None,
    explainer: Explain | None = None,
) -> FastAPI:
    """Return the app; with `token` it is required on every route but `/livez`.

    Without `policies` and `explainer` it has no routes for policies.
    """
    app = FastAPI(
        title="Sluice admin API",
        description="State and steering of one gateway process.",
        version=__version__,
        docs_url=None,  # Both load scripts from a foreign host; the page below is our own.
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(_livez(heart))
    app.include_router(_endpoints(operations, main))
    app.include_router(_membership(operations, main))
    app.include_router(_process(operations, main))
    if policies is not None and explainer is not None:
        app.include_router(admin_policies.router(policies, explainer, main))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """Show this description as a page."""
        headers = {"content-security-policy": admin_docs.POLICY}
        return HTMLResponse(admin_docs.page(app.openapi()), headers=headers)

    install(app)
    app.add_middleware(Guard, token=token)
    app.add_middleware(Edge, max_body_bytes=MAX_BODY_BYTES)
    return app


def find(endpoints: Sequence[EndpointState], name: str, cluster: str | None) -> EndpointState:
    """Return the endpoint of that id. Raises `GatewayError`: 404 for none, 409 for several."""
    found = [one for one in endpoints if one.id == name and cluster in (None, one.cluster)]
    if not found:
        shown = name if len(name) <= 200 else name[:200] + "…"
        raise GatewayError(404, "endpoint_not_found", f"There is no endpoint `{shown}`.")
    if len(found) > 1:
        names = ", ".join(one.cluster for one in found)
        message = f"Several clusters have this endpoint; add ?cluster= with one of: {names}."
        raise GatewayError(409, "ambiguous_endpoint", message, param="cluster")
    return found[0]


def _known(operations: Operations, name: str, cluster: str | None) -> EndpointState:
    return find(operations.endpoints(), name, cluster)


def _livez(heart: Heart) -> APIRouter:
    routes = APIRouter()

    @routes.get("/livez", response_model=Alive, responses={503: {"model": Alive}})
    async def livez() -> Response:
        """Answer 200 while the main loop has run within the last 30 s; needs no token."""
        lag_s = heart.lag_s()
        stuck = lag_s >= STUCK_S
        body = {"status": "stuck" if stuck else "alive", "event_loop_lag_s": round(lag_s, 6)}
        return JSONResponse(body, 503 if stuck else 200)

    return routes


def _endpoints(operations: Operations, main: MainLoop) -> APIRouter:
    routes = APIRouter(prefix="/admin/endpoints")

    def drained(name: str, cluster: str | None, draining: bool) -> EndpointBody:
        one = _known(operations, name, cluster)
        operations.set_draining(one.cluster, one.id, draining)
        return EndpointBody.of(_known(operations, name, one.cluster))

    @routes.get("")
    async def endpoints() -> EndpointList:
        """List every endpoint with its state, breaker, load and latency."""
        states = await main.read(operations.endpoints)
        return EndpointList(endpoints=[EndpointBody.of(one) for one in states])

    # Before the routes without a suffix: an id is a path and would take the suffix for its own.
    @routes.post("/{endpoint:path}/drain")
    async def drain(endpoint: str, cluster: Cluster = None) -> EndpointBody:
        """Send it no further requests; those under way finish."""
        return await main.read(lambda: drained(endpoint, cluster, True))

    @routes.post("/{endpoint:path}/undrain")
    async def undrain(endpoint: str, cluster: Cluster = None) -> EndpointBody:
        """Send it requests again, by slow start."""
        return await main.read(lambda: drained(endpoint, cluster, False))

    @routes.get("/{endpoint:path}")
    async def endpoint(endpoint: str, cluster: Cluster = None) -> EndpointBody:
        """Show one endpoint."""
        return EndpointBody.of(await main.read(lambda: _known(operations, endpoint, cluster)))

    return routes


def _membership(operations: Operations, main: MainLoop) -> APIRouter:
    routes = APIRouter(prefix="/admin/endpoints")

    @routes.post("", status_code=201)
    async def register(body: RegistrationBody) -> EndpointBody:
        """Let an endpoint join a cluster for `ttl_s` seconds; the same again renews it."""

        def work() -> EndpointBody:
            return EndpointBody.of(
                _known(operations, operations.register(body.value()), body.cluster)
            )

        return await main.read(work)

    @routes.delete("/{endpoint:path}")
    async def remove(endpoint: str, cluster: Cluster = None) -> StatusBody:
        """End a registration; what the endpoint works on finishes."""

        def work() -> StatusBody:
            operations.remove(_known(operations, endpoint, cluster).cluster, endpoint)
            return StatusBody(status="removed")

        return await main.read(work)

    return routes


def _process(operations: Operations, main: MainLoop) -> APIRouter:
    routes = APIRouter()

    @routes.post("/admin/drain", status_code=202)
    async def drain() -> StatusBody:
        """End the process as SIGTERM does: readiness 503 now, then drain, then exit."""
        await main.read(operations.drain)
        return StatusBody(status="draining")

    @routes.post("/admin/reload")
    async def reload() -> ReloadBody:
        """Take over the configuration file; 400 says why it cannot be, and changes nothing."""
        done = await main.run(operations.reload)
        if done.problems:
            raise bad_request("\n".join(done.problems))
        return ReloadBody.model_validate(done)

    @routes.get("/admin/config")
    async def config() -> ConfigBody:
        """Say which configuration is in effect, and why the last reload failed, if it did."""
        return ConfigBody.of(await main.read(operations.config))

    @routes.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Answer all metrics in Prometheus' exposition format."""
        body, content_type = await main.read(operations.metrics_text)
        return Response(body, headers={"content-type": content_type})

    return routes

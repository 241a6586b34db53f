"""Which routes of the Open Inference Protocol v2 are served over REST, besides `infer`?

Loading and unloading change what the server serves: they are refused unless it runs with
`--control explicit`. There are no keys here: who reaches the listener may call them, so bind it to
an address that only operators and the gateway reach (the gateway passes no `/v2` route on).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from vision.api import describe
from vision.api.exchange import encode_json, read_body
from vision.api.parse import read_json, version_of
from vision.api.view import EXTENSIONS, NAME, View

MAX_BODY_BYTES = 64 * 1024
"""Of the repository's requests: a few words."""

ModelName = Annotated[str, Path(description="As in the repository.", examples=["digits"])]
Version = Annotated[
    str,
    Path(
        description="A positive whole number.",
        examples=["1"],
        json_schema_extra={"pattern": describe.PATH_SCHEMAS["version"]["pattern"]},
    ),
]


class IndexRequest(msgspec.Struct):
    """The body of an index request, which may be absent."""

    ready: bool = False


class ControlRequest(msgspec.Struct):
    """The body of load and unload, which may be absent; the parameters of others are ignored."""

    parameters: dict[str, object] | None = None


_INDEX = msgspec.json.Decoder(IndexRequest)
_CONTROL = msgspec.json.Decoder(ControlRequest)


def router(view: View) -> APIRouter:
    """Return the routes; each answers one JSON object, errors as `{"error": message}`."""
    routes = APIRouter(prefix="/v2", tags=["open inference protocol"])
    _add_health(routes, view)
    _add_models(routes, view)
    _add_repository(routes, view)
    return routes


def _json(value: object, status: int = 200) -> Response:
    return Response(encode_json(value), status, media_type="application/json")


def _add_health(routes: APIRouter, view: View) -> None:
    @routes.get("", responses=describe.answers(describe.SERVER_METADATA))
    async def server_metadata() -> Response:
        """Name, version and extensions of the server."""
        return _json({"name": NAME, "version": view.version, "extensions": EXTENSIONS})

    @routes.get("/health/live", responses=describe.answers(describe.LIVE))
    async def live() -> Response:
        """Answer 200 as long as the process can answer at all."""
        return _json({"live": True})

    @routes.get("/health/ready", responses=describe.answers(describe.READY, 503))
    async def ready() -> Response:
        """Answer 200 once start-up loading is over; 503 before, and while draining."""
        return _json({"ready": view.ready}, 200 if view.ready else 503)


def _add_models(routes: APIRouter, view: View) -> None:
    metadata_answers = describe.answers(describe.MODEL_METADATA) | describe.v2_errors(400, 404, 503)
    ready_answers = describe.answers(describe.MODEL_READY, 503) | describe.v2_errors(400, 404)

    async def metadata(name: str, version: int | None) -> Response:
        return _json(asdict(await view.metadata(name, version)))

    def ready(name: str, version: int | None) -> Response:
        there = view.is_ready(name, version)
        return _json({"name": name, "ready": there}, 200 if there else 503)

    @routes.get("/models/{model}", responses=metadata_answers)
    async def model_metadata(model: ModelName) -> Response:
        """Inputs, outputs and versions of a model; a model with preprocessing takes here what
        its preprocessing would make of an image.
        """
        return await metadata(model, None)

    @routes.get("/models/{model}/versions/{version}", responses=metadata_answers)
    async def version_metadata(model: ModelName, version: Version) -> Response:
        """Inputs and outputs of one version."""
        return await metadata(model, version_of(version))

    @routes.get("/models/{model}/ready", responses=ready_answers)
    async def model_ready(model: ModelName) -> Response:
        """Answer 200 if the model can be asked now, else 503."""
        return ready(model, None)

    @routes.get("/models/{model}/versions/{version}/ready", responses=ready_answers)
    async def version_ready(model: ModelName, version: Version) -> Response:
        """Answer 200 if this version can be asked now, else 503."""
        return ready(model, version_of(version))


def _add_repository(routes: APIRouter, view: View) -> None:
    body = describe.optional_body(describe.CONTROL_REQUEST)
    control = describe.answers({"type": "object"}) | describe.v2_errors(400, 404, 413, 503)

    @routes.post(
        "/repository/index",
        responses=describe.answers(describe.INDEX) | describe.v2_errors(400, 413),
        openapi_extra=describe.optional_body(describe.INDEX_REQUEST),
    )
    async def index(request: Request) -> Response:
        """List every version that the repository knows, and how it stands."""
        content = await _body(request)
        only_ready = bool(content) and read_json(_INDEX, content).ready
        return _json(view.index(only_ready=only_ready))

    @routes.post("/repository/models/{model}/load", responses=control, openapi_extra=body)
    async def load(model: ModelName, request: Request) -> Response:
        """Load a model, or take up its new versions; only with `--control explicit`."""
        await _control_body(request)
        await view.load(model)
        return _json({})

    @routes.post("/repository/models/{model}/unload", responses=control, openapi_extra=body)
    async def unload(model: ModelName, request: Request) -> Response:
        """Stop serving a model; only with `--control explicit`."""
        await _control_body(request)
        await view.unload(model)
        return _json({})


async def _body(request: Request) -> bytes:
    return await read_body(request.receive, dict(request.scope["headers"]), MAX_BODY_BYTES)


async def _control_body(request: Request) -> None:
    content = await _body(request)
    if content:
        read_json(_CONTROL, content)

"""Which models does the service serve, in OpenAI's words?"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from vision.api import describe
from vision.api.exchange import encode_json
from vision.api.view import NAME, View
from vision.errors import ModelNotFound


def router(view: View) -> APIRouter:
    """Return OpenAI's list and single model; the gateway's discovery reads the list."""
    routes = APIRouter(prefix="/v1/models", tags=["models"])

    @routes.get("", responses=describe.answers(describe.MODEL_LIST))
    async def models() -> Response:
        """List every model with a version that can be asked now, sorted by name."""
        body = {"object": "list", "data": [_entry(name) for name in view.names()]}
        return Response(encode_json(body), media_type="application/json")

    @routes.get("/{model}", responses=describe.answers(describe.MODEL) | describe.errors(404))
    async def model(model: str) -> Response:
        """Return one model."""
        if model not in view.names():
            raise ModelNotFound(f"The model {model[:100]!r} does not serve here.", param="model")
        return Response(encode_json(_entry(model)), media_type="application/json")

    return routes


def _entry(name: str) -> dict[str, object]:
    # OpenAI's `created` says when a model was trained; a repository does not know.
    return {"id": name, "object": "model", "created": 0, "owned_by": NAME}

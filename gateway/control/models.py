"""Which models may a client name, and what did their engines say about them?"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway.control.failures import unknown_route
from gateway.control.view import GatewayView, ModelView
from gateway.errors import model_not_found


def entry(model: ModelView) -> dict[str, object]:
    """Return OpenAI's model object; its kind and the engine's fields follow OpenAI's four."""
    own: dict[str, object] = {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
    }
    if model.kind is not None:
        own["kind"] = model.kind
    return own | {key: value for key, value in model.metadata.items() if key not in own}


def router(view: GatewayView) -> APIRouter:
    """Return the list of models and the single one; both know models with no endpoint left."""
    routes = APIRouter(tags=["models"])

    @routes.get("/v1/models")
    async def models() -> Response:
        """List every model, sorted by id."""
        known = sorted(view.models(), key=lambda model: model.id)
        return JSONResponse({"object": "list", "data": [entry(model) for model in known]})

    @routes.get("/v1/models/{model_id:path}")
    async def model(model_id: str, request: Request) -> Response:
        """Return one model; its id may contain slashes."""
        if not model_id:
            raise unknown_route(request.url.path)
        for known in view.models():
            if known.id == model_id:
                return JSONResponse(entry(known))
        raise model_not_found(model_id)

    return routes

"""What do readers of `/openapi.json` learn about answers?

Values only: JSON Schemas as they are published. `vision.api.describe_hot` has what the hot routes
take.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "number"}
_BOOLEAN: Final[Schema] = {"type": "boolean"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}


def object_of(properties: Mapping[str, Schema], *optional: str) -> Schema:
    """Return an object's schema; all of its properties are required but the `optional` ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def array_of(items: Schema, **more: object) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items, **more}


def nullable(schema: Schema) -> Schema:
    """Return the schema, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


PATH_SCHEMAS: Final[dict[str, Schema]] = {
    "model": {"type": "string", "minLength": 1},
    "version": {"type": "string", "pattern": "^[1-9][0-9]{0,16}$"},
}
"""What stands in paths."""

# Answers of the routes that FastAPI serves.

_TENSOR: Final = object_of(
    {"name": STRING, "datatype": STRING, "shape": array_of({"type": "integer"})}
)
SERVER_METADATA: Final = object_of(
    {"name": STRING, "version": STRING, "extensions": array_of(STRING)}
)
LIVE: Final = object_of({"live": _BOOLEAN})
READY: Final = object_of({"ready": _BOOLEAN})
MODEL_METADATA: Final = object_of(
    {
        "name": STRING,
        "versions": array_of(STRING),
        "platform": STRING,
        "inputs": array_of(_TENSOR),
        "outputs": array_of(_TENSOR),
    }
)
MODEL_READY: Final = object_of({"name": STRING, "ready": _BOOLEAN})
INDEX: Final = array_of(
    object_of({"name": STRING, "version": STRING, "state": STRING, "reason": STRING})
)
HEALTH: Final = object_of(
    {
        "status": {"enum": ["ok", "loading", "draining"]},
        "models_loaded": _COUNT,
        "gpu_available": _BOOLEAN,
        "uptime_seconds": NUMBER,
    }
)
MODEL: Final = object_of(
    {"id": STRING, "object": {"const": "model"}, "created": _COUNT, "owned_by": STRING}
)
MODEL_LIST: Final = object_of({"object": {"const": "list"}, "data": array_of(MODEL)})
METRICS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}
}
INDEX_REQUEST: Final = object_of({"ready": _BOOLEAN}, "ready")
CONTROL_REQUEST: Final = object_of({"parameters": nullable({"type": "object"})}, "parameters")

ERROR: Final = object_of(
    {
        "error": object_of(
            {
                "message": STRING,
                "type": STRING,
                "param": nullable(STRING),
                "code": nullable(STRING),
            }
        )
    }
)
V2_ERROR: Final = object_of({"error": STRING})

_REASONS: Final = {
    400: "The request is not what the route or the model takes.",
    404: "No such model, or no such version of it.",
    413: "The body, an image or the number of items is over its cap.",
    415: "The content type or coding is none that the route reads.",
    429: "The model's queue is full; come again after Retry-After.",
    500: "The model failed on this input.",
    503: "Not ready: loading, unloaded or draining.",
    504: "The time was up before the model ran.",
}


def answers(schema: Schema, *also: int) -> dict[int | str, dict[str, Any]]:
    """Return the answer 200 of a JSON route; `also` are statuses with the same body."""
    content = {"application/json": {"schema": schema}}
    told: dict[int | str, dict[str, Any]] = {
        200: {"description": "The answer.", "content": content}
    }
    return told | {one: {"description": _REASONS[one], "content": content} for one in also}


def errors(*statuses: int, schema: Schema = ERROR) -> dict[int | str, dict[str, Any]]:
    """Return the answers that tell an error."""
    content = {"application/json": {"schema": schema}}
    return {one: {"description": _REASONS[one], "content": content} for one in statuses}


def v2_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the answers that tell an error in the protocol's shape."""
    return errors(*statuses, schema=V2_ERROR)


def optional_body(schema: Schema) -> dict[str, Any]:
    """Return the description of a JSON body that may be absent."""
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": schema}}}}

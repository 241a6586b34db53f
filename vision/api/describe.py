"""What do readers of `/openapi.json` learn about answers and about the two hot routes?

Values only: JSON Schemas as they are published. The hot routes are read by msgspec and
`vision.decoding`; what stands here is checked against them by the tests that fuzz the service.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

Schema = dict[str, Any]

_STRING: Final[Schema] = {"type": "string"}
_NUMBER: Final[Schema] = {"type": "number"}
_BOOLEAN: Final[Schema] = {"type": "boolean"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}


def _object(properties: Mapping[str, Schema], *optional: str) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def _array(items: Schema, **more: object) -> Schema:
    return {"type": "array", "items": items, **more}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


# Answers of the routes that FastAPI serves.

_TENSOR: Final = _object(
    {"name": _STRING, "datatype": _STRING, "shape": _array({"type": "integer"})}
)
SERVER_METADATA: Final = _object(
    {"name": _STRING, "version": _STRING, "extensions": _array(_STRING)}
)
LIVE: Final = _object({"live": _BOOLEAN})
READY: Final = _object({"ready": _BOOLEAN})
MODEL_METADATA: Final = _object(
    {
        "name": _STRING,
        "versions": _array(_STRING),
        "platform": _STRING,
        "inputs": _array(_TENSOR),
        "outputs": _array(_TENSOR),
    }
)
MODEL_READY: Final = _object({"name": _STRING, "ready": _BOOLEAN})
INDEX: Final = _array(
    _object({"name": _STRING, "version": _STRING, "state": _STRING, "reason": _STRING})
)
HEALTH: Final = _object(
    {
        "status": {"enum": ["ok", "loading", "draining"]},
        "models_loaded": _COUNT,
        "gpu_available": _BOOLEAN,
        "uptime_seconds": _NUMBER,
    }
)
MODEL: Final = _object(
    {"id": _STRING, "object": {"const": "model"}, "created": _COUNT, "owned_by": _STRING}
)
MODEL_LIST: Final = _object({"object": {"const": "list"}, "data": _array(MODEL)})
METRICS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}
}
INDEX_REQUEST: Final = _object({"ready": _BOOLEAN}, "ready")
CONTROL_REQUEST: Final = _object({"parameters": _nullable({"type": "object"})}, "parameters")

ERROR: Final = _object(
    {
        "error": _object(
            {
                "message": _STRING,
                "type": _STRING,
                "param": _nullable(_STRING),
                "code": _nullable(_STRING),
            }
        )
    }
)
V2_ERROR: Final = _object({"error": _STRING})

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


# The hot routes.

_DATA: Final[Schema] = {
    "description": "Row by row: flat, or nested as the shape says.",
    "type": "array",
    "items": {},
}
_DATATYPES: Final[Schema] = {
    "enum": [
        *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "FP32", "FP64"),
    ]
}
_SHAPE: Final = _array({"type": "integer", "minimum": 1}, minItems=1)
_VERSION: Final[Schema] = {
    "description": "A positive whole number; null for the newest that serves.",
    "anyOf": [
        {"type": "string", "pattern": "^[1-9][0-9]{0,16}$"},
        {"type": "integer", "minimum": 1, "maximum": 10**17},
        {"type": "null"},
    ],
}
_TOP_K: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 1_000_000}
_PNG: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAARUlEQVR4nCXGQRVAMAAA0M9znwZE0IAGNLEGIsgg"
    "AU2myUjAYaf/K9Z2GZ6+xhOv+wVbChrjJFoOujPnEfjm4p5DSZrhB4Y6EAlqM+StAAAAAElFTkSuQmCC"
)
_ITEM: Final[Schema] = {
    "description": "An image, or tensors by name.",
    "anyOf": [
        {
            "type": "object",
            "properties": {
                "image": {
                    "type": "string",
                    "description": "base64, a data URL, or an http(s) URL that the service "
                    "may fetch.",
                }
            },
            "required": ["image"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "description": "One row of each of the model's inputs, without a batch axis.",
            "additionalProperties": {
                "anyOf": [
                    {"type": "array", "items": {}},
                    _object({"shape": _SHAPE, "datatype": _DATATYPES, "data": _DATA}),
                ]
            },
            "minProperties": 1,
        },
    ],
}
_PREDICT_BODY: Final[Schema] = {
    "type": "object",
    "properties": {
        "model": {"type": "string", "minLength": 1},
        "version": _VERSION,
        "inputs": {"anyOf": [_ITEM, _array(_ITEM, minItems=1, maxItems=64)]},
        "parameters": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"top_k": _nullable(_TOP_K)},
                    "additionalProperties": False,
                },
                {"type": "null"},
            ]
        },
    },
    "required": ["model", "inputs"],
    "additionalProperties": False,
    "example": {"model": "digits", "inputs": {"image": _PNG}, "parameters": {"top_k": 3}},
}
_PREDICTIONS: Final = _array(
    {
        "type": "object",
        "description": "{class, confidence}, with `box` for detection; {embedding}; or {outputs}.",
    }
)
_TOLD: Final = {
    "model": _STRING,
    "version": _STRING,
    "latency_ms": _NUMBER,
    "trace_id": _STRING,
}
_PREDICT_ANSWER: Final[Schema] = {
    "anyOf": [
        _object({"predictions": _PREDICTIONS, **_TOLD}),
        _object(
            {"results": _array({"anyOf": [_object({"predictions": _PREDICTIONS}), ERROR]}), **_TOLD}
        ),
    ]
}
_TIMEOUT: Final[Schema] = {
    "name": "x-request-timeout-ms",
    "in": "header",
    "required": False,
    "description": "How long the client waits.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 86_400_000},
}
_TRACE: Final[Schema] = {
    "name": "x-request-id",
    "in": "header",
    "required": False,
    "description": "Comes back; and is the trace's id if there is no `traceparent`.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
}
PATH_SCHEMAS: Final[dict[str, Schema]] = {
    "model": {"type": "string", "minLength": 1},
    "version": {"type": "string", "pattern": "^[1-9][0-9]{0,16}$"},
}
"""What stands in paths."""

_ALL_ERRORS: Final = (400, 404, 413, 415, 429, 500, 503, 504)


def _predict(identity: str) -> dict[str, Any]:
    form = {
        "type": "object",
        "properties": {
            "model": {"type": "string", "minLength": 1},
            "version": PATH_SCHEMAS["version"],
            "top_k": _TOP_K,
            "image": _array(
                {"type": "string", "contentMediaType": "application/octet-stream"},
                minItems=1,
                maxItems=64,
            ),
        },
        "required": ["model", "image"],
        "additionalProperties": False,
    }
    return {
        "tags": ["predictions"],
        "operationId": identity,
        "summary": "Ask a model",
        "description": "As JSON, as a form with images, or with an image as the body; then "
        "`model`, `version` and `top_k` stand in the query. One item is answered with "
        "`predictions`, several with `results`: 200 if any succeeded.",
        "parameters": [_TIMEOUT, _TRACE],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _PREDICT_BODY},
                "multipart/form-data": {"schema": form},
            },
        },
        "responses": {
            str(status): told
            for status, told in (answers(_PREDICT_ANSWER) | errors(*_ALL_ERRORS)).items()
        },
    }


_PARAMETERS: Final[Schema] = {"type": "object", "additionalProperties": True}
_INFER_BODY: Final = _object(
    {
        "id": _STRING,
        "parameters": _PARAMETERS,
        "inputs": _array(
            _object(
                {
                    "name": {"type": "string", "minLength": 1},
                    "shape": _SHAPE,
                    "datatype": _DATATYPES,
                    "parameters": _PARAMETERS,
                    "data": _DATA,
                },
                "parameters",
            ),
            minItems=1,
        ),
        "outputs": _array(
            _object({"name": _STRING, "parameters": _PARAMETERS}, "parameters"), minItems=1
        ),
    },
    *("id", "parameters", "outputs"),
)
_INFER_ANSWER: Final = _object(
    {
        "model_name": _STRING,
        "model_version": _STRING,
        "id": _STRING,
        "outputs": _array(
            _object({"name": _STRING, "shape": _SHAPE, "datatype": _DATATYPES, "data": _DATA})
        ),
    },
    "id",
)


def _infer(identity: str, *path: str) -> dict[str, Any]:
    names = [
        {"name": name, "in": "path", "required": True, "schema": PATH_SCHEMAS[name]}
        for name in path
    ]
    return {
        "tags": ["open inference protocol"],
        "operationId": identity,
        "summary": "Run a model on tensors",
        "description": "The batch axis comes first. A model with preprocessing takes here what its "
        "preprocessing would make of an image. With the header Inference-Header-Content-Length the "
        "body is JSON of that length and the tensors' bytes behind it (the binary data extension).",
        "parameters": [*names, _TIMEOUT, _TRACE],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _INFER_BODY}},
        },
        "responses": {
            str(status): told
            for status, told in (answers(_INFER_ANSWER) | v2_errors(*_ALL_ERRORS)).items()
        },
    }


HOT_PATHS: Final[Schema] = {
    "/v1/predict": {"post": _predict("predict")},
    "/predict": {"post": _predict("predict_short")},
    "/v2/models/{model}/infer": {"post": _infer("infer", "model")},
    "/v2/models/{model}/versions/{version}/infer": {
        "post": _infer("infer_version", "model", "version")
    },
}
"""The routes that no framework describes; in OpenAPI's words."""

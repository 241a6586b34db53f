"""What do readers of `/openapi.json` learn about the hot routes?

Values only. The routes themselves read with msgspec and `vision.decoding`; what stands here is
checked against them by the tests that fuzz the service.
"""

from __future__ import annotations

from typing import Any, Final

from vision.api.describe import (
    ERROR,
    NUMBER,
    PATH_SCHEMAS,
    STRING,
    Schema,
    answers,
    array_of,
    errors,
    nullable,
    object_of,
    v2_errors,
)

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
_SHAPE: Final = array_of({"type": "integer", "minimum": 1}, minItems=1)
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
                    object_of({"shape": _SHAPE, "datatype": _DATATYPES, "data": _DATA}),
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
        "inputs": {"anyOf": [_ITEM, array_of(_ITEM, minItems=1, maxItems=64)]},
        "parameters": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {"top_k": nullable(_TOP_K)},
                    "additionalProperties": False,
                },
                {"type": "null"},
            ]
        },
        "user": {
            "description": "Who asks; a gateway in front may send users to the same endpoint or "
            "arm. The service does not look at it.",
            "anyOf": [{"type": "string"}, {"type": "null"}],
        },
    },
    "required": ["model", "inputs"],
    "additionalProperties": False,
    "example": {"model": "digits", "inputs": {"image": _PNG}, "parameters": {"top_k": 3}},
}
_PREDICTIONS: Final = array_of(
    {
        "type": "object",
        "description": "{class, confidence}, with `box` for detection; {embedding}; or {outputs}.",
    }
)
_TOLD: Final = {
    "model": STRING,
    "version": STRING,
    "latency_ms": NUMBER,
    "trace_id": STRING,
}
_PREDICT_ANSWER: Final[Schema] = {
    "anyOf": [
        object_of({"predictions": _PREDICTIONS, **_TOLD}),
        object_of(
            {
                "results": array_of({"anyOf": [object_of({"predictions": _PREDICTIONS}), ERROR]}),
                **_TOLD,
            }
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
_ALL_ERRORS: Final = (400, 404, 413, 415, 429, 500, 503, 504)


def _predict(identity: str) -> dict[str, Any]:
    form = {
        "type": "object",
        "properties": {
            "model": {"type": "string", "minLength": 1},
            "version": PATH_SCHEMAS["version"],
            "top_k": _TOP_K,
            "image": array_of(
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
_INFER_BODY: Final = object_of(
    {
        "id": STRING,
        "parameters": _PARAMETERS,
        "inputs": array_of(
            object_of(
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
        "outputs": array_of(
            object_of({"name": STRING, "parameters": _PARAMETERS}, "parameters"), minItems=1
        ),
    },
    *("id", "parameters", "outputs"),
)
_INFER_ANSWER: Final = object_of(
    {
        "model_name": STRING,
        "model_version": STRING,
        "id": STRING,
        "outputs": array_of(
            object_of({"name": STRING, "shape": _SHAPE, "datatype": _DATATYPES, "data": _DATA})
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

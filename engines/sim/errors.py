"""How does vLLM say no?

Bodies as observed on vLLM 0.32: `{"error": {"message", "type", "param", "code"}}` with an integer
code, FastAPI's `{"detail": ...}` for routing, a bare string for 401, Anthropic's shape for an
unknown model on `/v1/messages`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
SHUTTING_DOWN = "cannot schedule new futures after shutdown"
BUSY = (
    "The engine is currently busy and cannot accept new requests. "
    "Please try again later or on a different instance."
)


class ApiError(Exception):
    """An answer other than 200: its status and whole JSON body."""

    def __init__(
        self, status: int, body: Mapping[str, object], headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body
        self.headers = headers


def error_body(status: int, kind: str, message: str, param: str | None = None) -> dict[str, object]:
    """Return vLLM's error object, keys in its order."""
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


def bad_request(message: str, param: str | None = None) -> ApiError:
    """A request that is well-formed but cannot be served."""
    return ApiError(400, error_body(400, "BadRequestError", message, param))


def bad_parameter(message: str, param: str, value: object = None) -> ApiError:
    """A sampling parameter out of range; the message repeats its name and, unless None, its
    value.
    """
    tail = f"(parameter={param})" if value is None else f"(parameter={param}, value={value})"
    return bad_request(f"{message} {tail}", param)


def invalid(lines: list[str], param: str | None) -> ApiError:
    """A body that does not fit the schema: pydantic's errors, one line each, always status 400."""
    count = f"{len(lines)} validation error{'s' if len(lines) > 1 else ''}"
    message = "\n  ".join([f"{count}:", *lines])
    return ApiError(400, error_body(400, "Bad Request", message, param))


def model_not_found(model: str, served: tuple[str, ...]) -> ApiError:
    """A model name that is not served here."""
    message = f"The model `{model}` does not exist. Valid aliases: {', '.join(served)}."
    return ApiError(404, error_body(404, "NotFoundError", message, "model"))


def pooling_model_not_found(model: str) -> ApiError:
    """The same on the pooling routes, which word it differently."""
    message = f"The model `{model}` does not exist."
    return ApiError(404, error_body(404, "NotFoundError", message))


def prompt_too_long(max_model_len: int) -> ApiError:
    """A prompt that leaves no room; vLLM stops counting one token past the limit."""
    seen = max_model_len + 1
    return bad_parameter(
        f"This model's maximum context length is {max_model_len} tokens. However, your prompt "
        f"contains at least {seen} input tokens, which exceeds this limit even without any "
        "output tokens. Please reduce the length of the input prompt.",
        "input_tokens",
        seen,
    )


def busy() -> ApiError:
    """The waiting queue is full."""
    return ApiError(503, error_body(503, "Service Unavailable", BUSY))


def internal(message: str = ENGINE_DEAD) -> ApiError:
    """The engine behind the API server is gone."""
    return ApiError(500, error_body(500, "InternalServerError", message))


def unauthorized() -> ApiError:
    """A wrong or missing API key."""
    return ApiError(401, {"error": "Unauthorized"})


def not_found() -> ApiError:
    """An unknown route."""
    return ApiError(404, {"detail": "Not Found"})


def method_not_allowed(allowed: str) -> ApiError:
    """A known route with another method."""
    return ApiError(405, {"detail": "Method Not Allowed"}, (("allow", allowed),))


def of_status(status: int) -> ApiError:
    """Return the error of an injected status, named after HTTP's reason phrase."""
    phrase = HTTPStatus(status).phrase
    message = BUSY if status == 503 else f"Injected fault: {status} {phrase}."
    return ApiError(status, error_body(status, phrase, message))


def anthropic(error: ApiError) -> ApiError:
    """Return `error` in the shape that `/v1/messages` uses for everything but schema errors."""
    inner = error.body.get("error")
    if not isinstance(inner, dict) or inner["type"] == "Bad Request":
        return error
    body = {"type": "error", "error": {"type": inner["type"], "message": inner["message"]}}
    return ApiError(error.status, body, error.headers)


def stream_event(message: str = ENGINE_DEAD) -> bytes:
    """Return the SSE event of a failure inside a 200 (vLLM writes it with spaces, unlike its
    other events).
    """
    return b"data: " + json.dumps(internal(message).body).encode() + b"\n\n"

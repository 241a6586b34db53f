"""What may a client be told went wrong, with which status, code and headers?"""

from __future__ import annotations

import json

from gateway.model import ErrorShape, Kind


class GatewayError(Exception):
    """An answer that is an error: the one type that crosses from any stage to the client.

    `retry` tells openai-python's retry logic what to do (`x-should-retry`): False after the
    gateway has already spent its own attempts, None to leave the SDK's default.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry: bool | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry = retry
        self.retry_after_s = retry_after_s

    @property
    def type(self) -> str:
        """OpenAI's error type; clients branch on it next to the status."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def body(self, shape: ErrorShape = ErrorShape.OPENAI) -> bytes:
        """Return the JSON body; all four OpenAI keys are always present."""
        if shape is ErrorShape.ANTHROPIC:
            # https://docs.anthropic.com/en/api/errors: type and message, nested.
            kind = "not_found_error" if self.status == 404 else _ANTHROPIC_TYPES[self.type]
            value: dict[str, object] = {
                "type": "error",
                "error": {"type": kind, "message": self.message},
            }
        else:
            value = {
                "error": {
                    "message": self.message,
                    "type": self.type,
                    "param": self.param,
                    "code": self.code,
                }
            }
        return json.dumps(value, separators=(",", ":")).encode()

    def event(self, shape: ErrorShape = ErrorShape.OPENAI) -> bytes:
        """Return the SSE frame that ends a stream honestly: an error, and no `[DONE]` after it."""
        prefix = b"event: error\n" if shape is ErrorShape.ANTHROPIC else b""
        return prefix + b"data: " + self.body(shape) + b"\n\n"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the header fields that go with the body, content type included."""
        fields = [(b"content-type", b"application/json")]
        if self.retry is not None:
            fields.append((b"x-should-retry", b"true" if self.retry else b"false"))
        if self.retry_after_s is not None:
            fields.append((b"retry-after", b"%d" % self.retry_after_s))
        return fields


_ANTHROPIC_TYPES = {
    "authentication_error": "authentication_error",
    "rate_limit_error": "rate_limit_error",
    "invalid_request_error": "invalid_request_error",
    "server_error": "api_error",
}


def bad_request(message: str, param: str | None = None) -> GatewayError:
    """The body or the head is not what the API asks for."""
    return GatewayError(400, "invalid_request_error", message, param=param)


def model_not_found(model: str) -> GatewayError:
    """No cluster serves this name."""
    shown = model if len(model) <= 200 else model[:200] + "…"
    return GatewayError(
        404, "model_not_found", f"The model `{shown}` does not exist.", param="model"
    )


def wrong_route(model: str, kind: Kind, path: str) -> GatewayError:
    """The model is there, but it is of another kind than those that answer on this path."""
    if kind is Kind.VISION:
        words = "is a vision model: ask for it at /v1/predict"
    else:
        words = f"is no vision model, and {path} is for those"
    return GatewayError(400, "wrong_route", f"The model `{model}` {words}.", param="model")


def no_healthy_upstream(model: str, retry_after_s: int = 2) -> GatewayError:
    """The model is known, but no endpoint that serves it may be tried now.

    The default is one probe interval: before that nothing can have changed.
    """
    return GatewayError(
        503,
        "no_healthy_upstream",
        f"No healthy endpoint serves `{model}` at the moment.",
        retry=True,
        retry_after_s=retry_after_s,
    )


def overloaded(message: str, retry_after_s: int) -> GatewayError:
    """The gateway refuses for load, before an endpoint has seen the request."""
    return GatewayError(503, "overloaded", message, retry=True, retry_after_s=retry_after_s)


def upstream_error(message: str) -> GatewayError:
    """Every attempt failed; the gateway has retried where it may, so the client should not."""
    return GatewayError(502, "upstream_error", message, retry=False)


def upstream_overloaded(message: str) -> GatewayError:
    """Every engine refused for load; another moment may do, but not the next."""
    return GatewayError(503, "overloaded", message, retry=False, retry_after_s=1)


def upstream_timeout(message: str) -> GatewayError:
    """A timer of ours ran out while the engine was silent."""
    return GatewayError(504, "upstream_timeout", message, retry=False)


def shutting_down() -> GatewayError:
    """The gateway is being ended before the answer was; another one may take the request."""
    return GatewayError(503, "overloaded", "The gateway is shutting down.", retry=True)


def internal_error() -> GatewayError:
    """A defect of ours; the log has the details, the client must not."""
    return GatewayError(500, "internal_error", "The gateway failed on this request.")

"""What can go wrong with a prediction, whose fault is it, and what does the client read?

Every error that a client sees is a `VisionError`; its class says the status, its `code` the case.
Pure: values only.
"""

from __future__ import annotations

from typing import ClassVar


class VisionError(Exception):
    """An answer that is not a prediction.

    `status` is the HTTP status, `code` the stable name of the case, `param` the path of the input
    that is at fault (`inputs[2].image`), `retry_after_s` when to come again, None if
    that is no use.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's error object with all four keys; `/v2` routes answer `{"error": message}`."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class BadInput(VisionError):
    """The request or one of its items is not what the model takes; sending it again is no use.

    Codes: `invalid_json`, `invalid_request`, `missing_model`, `invalid_image`, `image_too_large`
    (pixels), `invalid_base64`, `invalid_tensor`, `invalid_value` (NaN, infinity),
    `unsupported_input`, `url_refused` (the fetcher does not go there), `url_failed` (it did not get
    an image there).
    """

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_request"


class TooLarge(VisionError):
    """The body, an image's bytes or the number of items is over its cap."""

    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class UnsupportedMedia(VisionError):
    """The content type is none that this route reads."""

    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class RouteNotFound(VisionError):
    """Nothing is served at this path."""

    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class MethodNotAllowed(VisionError):
    """The path is there, for other methods."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class ModelNotFound(VisionError):
    """The repository has no such model, or no such version of it."""

    status = 404
    type = "invalid_request_error"
    default_code = "model_not_found"


class ModelNotReady(VisionError):
    """The model is there but does not serve: it is loading, was unloaded, or failed to load."""

    status = 503
    default_code = "model_not_ready"


class QueueFull(VisionError):
    """The model's bounded queue has no room."""

    status = 429
    type = "rate_limit_error"
    default_code = "queue_full"


class DeadlineExceeded(VisionError):
    """The request's time ran out before its batch began."""

    status = 504
    default_code = "deadline_exceeded"


class ExecutionFailed(VisionError):
    """The runtime failed on this item, also when it was run alone."""

    status = 500
    default_code = "execution_failed"


class OperatorError(Exception):
    """A fault of the installation or the repository, told to the operator, never to a client."""


class ConfigError(OperatorError):
    """A `config.yaml` is not valid; one line for each problem, each with file and key."""


class LoadError(OperatorError):
    """A version's file cannot be loaded; the message says which file and why."""


class MissingLibrary(LoadError):
    """A runtime's library is not installed; the message names the extra that brings it."""

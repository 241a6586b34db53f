"""Which response does a failure become, so that all of them have OpenAI's shape?"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import GatewayError, bad_request


def error_response(error: GatewayError) -> Response:
    """Return the response that tells `error`."""
    response = Response(error.body(), error.status)
    response.raw_headers += error.headers()
    return response


def unknown_route(path: str) -> GatewayError:
    """Nothing is served at `path`."""
    shown = path if len(path) <= 200 else path[:200] + "…"
    return GatewayError(404, "not_found", f"Unknown route: {shown}")


def wrong_method(method: str, allowed: Sequence[str]) -> Response:
    """Return the 405, with the Allow field that RFC 9110 §15.5.6 demands."""
    names = set(allowed)
    if "GET" in names:
        names.add("HEAD")  # The edge answers it for every GET route.
    allow = ", ".join(sorted(names))
    message = f"The method {method[:20]} is not allowed here; allowed: {allow}."
    response = error_response(GatewayError(405, "method_not_allowed", message))
    response.headers["allow"] = allow
    return response


def invalid(error: ValidationError) -> GatewayError:
    """Return the 400 for a body that does not fit its model."""
    return _first_of(error.errors(include_url=False, include_context=False))


def install(app: FastAPI) -> None:
    """Let `app` answer its own refusals in the one shape."""
    app.add_exception_handler(GatewayError, _gateway_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _gateway_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, GatewayError)  # noqa: S101  by registration; narrows for the checker
    return error_response(error)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  as above
    if error.status_code == 404:
        return error_response(unknown_route(request.url.path))
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        return wrong_method(request.method, [name for name in allow.split(", ") if name])
    code = "invalid_request_error" if error.status_code < 500 else "internal_error"
    return error_response(GatewayError(error.status_code, code, str(error.detail)))


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  as above
    if isinstance(error.body, bytes):
        # FastAPI reads no JSON where the content type is another, as curl -d's is by default.
        words = "The body must be JSON, sent with `content-type: application/json`."
        return error_response(bad_request(words, "body"))
    return error_response(_first_of(error.errors()))


def _first_of(details: Sequence[ErrorDetails]) -> GatewayError:
    """Name the first problem: OpenAI's shape has room for one."""
    first = details[0]
    param = ".".join(str(step) for step in first["loc"]) or None
    where = f"`{param}`: " if param else ""
    # Before the words of our own validators pydantic sets its own.
    return bad_request(f"{where}{first['msg'].removeprefix('Value error, ')}.", param)

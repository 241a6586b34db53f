"""Which response does a failure become, in the routes that FastAPI serves?

`/v2` answers the protocol's `{"error": message}`, everything else OpenAI's object.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from vision.api.exchange import broken, encode_json, error_fields
from vision.errors import BadInput, MethodNotAllowed, RouteNotFound, VisionError


def body_of(error: VisionError, path: str) -> bytes:
    """Return the error's body in the shape of its route's family."""
    if path.startswith("/v2"):
        return encode_json({"error": error.message})
    return encode_json(error.body())


def install(app: FastAPI) -> None:
    """Let `app` answer its own refusals in these shapes."""
    app.add_exception_handler(VisionError, _vision_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _broken)


def unknown_route(path: str) -> RouteNotFound:
    """Nothing is served at `path`."""
    return RouteNotFound(f"Unknown route: {path if len(path) <= 200 else path[:200] + '…'}")


def _response(error: VisionError, request: Request) -> Response:
    response = Response(
        body_of(error, request.url.path), error.status, media_type="application/json"
    )
    response.raw_headers += error_fields(error)
    return response


async def _vision_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, VisionError)  # noqa: S101  by registration; narrows for the checker
    return _response(error, request)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  as above
    if error.status_code == 404:
        return _response(unknown_route(request.url.path), request)
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        message = f"The method {request.method[:20]} is not allowed here; allowed: {allow}."
        response = _response(MethodNotAllowed(message), request)
        response.headers["allow"] = allow
        return response
    return _response(BadInput(str(error.detail)), request)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  as above
    first = error.errors()[0]
    param = ".".join(str(step) for step in first["loc"]) or None
    return _response(BadInput(f"`{param}`: {first['msg']}.", param=param), request)


async def _broken(request: Request, error: Exception) -> Response:
    del error  # Starlette raises it again after the answer, and uvicorn logs it.
    return _response(broken(), request)

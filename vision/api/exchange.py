"""What do the hot routes need of HTTP: a capped body, a deadline, a trace id, one answer?

Plain ASGI and no request object: see `vision.api.http` for what the framework's would cost.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Mapping
from random import Random
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from vision.errors import BadInput, MethodNotAllowed, TooLarge, UnsupportedMedia, VisionError

Headers = Mapping[bytes, bytes]
Pairs = list[tuple[bytes, bytes]]

MAX_TIMEOUT_MS = 24 * 3600 * 1000
"""A longer deadline is as good as none."""

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")  # Visible ASCII: it comes back in a field and in logs.
_JSON = b"application/json"

encode_json = msgspec.json.Encoder().encode


class ClientGone(Exception):  # noqa: N818  what happened, and nobody's error
    """The client left before its request was whole."""


def header_map(scope: Scope) -> dict[bytes, bytes]:
    """Return the fields by lower-case name; of a repeated one the last."""
    return dict(scope["headers"])


def require_post(scope: Scope) -> None:
    """Raise `MethodNotAllowed` unless the method is POST."""
    method = scope["method"]
    if method != "POST":
        raise MethodNotAllowed(f"The method {method[:20]} is not allowed here; allowed: POST.")


def media_type(headers: Headers) -> bytes:
    """Return the content type without parameters, lower-case; empty without one."""
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


def require_plain(headers: Headers) -> None:
    """Raise `UnsupportedMedia` for a compressed body: its true size would escape the cap."""
    coding = headers.get(b"content-encoding")
    if coding is not None and coding.strip().lower() not in {b"", b"identity"}:
        raise UnsupportedMedia("A body with a content-encoding is not read; send it plain.")


def deadline_of(headers: Headers, now: float) -> float | None:
    """Return the time of the monotonic clock at which the client gives up; None if it never said.

    Raises `BadInput` for a value that is no whole number of milliseconds.
    """
    value = headers.get(b"x-request-timeout-ms")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 12:
        raise BadInput(
            "x-request-timeout-ms has to be a whole number of milliseconds.",
            param="x-request-timeout-ms",
        )
    timeout_ms = int(value)
    return None if timeout_ms > MAX_TIMEOUT_MS else now + timeout_ms / 1000


def trace_id_of(headers: Headers, rng: Random) -> str:
    """Return the trace's id from `traceparent`, else `x-request-id`, else a new one of `rng`."""
    parent = headers.get(b"traceparent")
    if parent is not None:
        match = _TRACEPARENT.fullmatch(parent)
        # All zeros is invalid: https://www.w3.org/TR/trace-context/#trace-id
        if match is not None and match[1].strip(b"0"):
            return match[1].decode()
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode()
    return f"{rng.getrandbits(128):032x}"


def request_id_of(headers: Headers, trace_id: str) -> bytes:
    """Return what the answer's `x-request-id` says: the client's own if it may be echoed."""
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return trace_id.encode()


async def read_body(receive: Receive, headers: Headers, max_bytes: int) -> bytes:
    """Return the whole body. Raises `TooLarge` and, if the client went away, `ClientGone`."""
    declared = headers.get(b"content-length")
    if declared is not None and int(declared) > max_bytes:
        raise too_large(max_bytes)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message["body"]  # The common case: everything came with the first read.
        if len(body) > max_bytes:
            raise too_large(max_bytes)
        return body
    parts = [part async for part in _parts(message, receive, max_bytes)]
    return b"".join(parts)


async def body_parts(receive: Receive, headers: Headers, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the body as it comes; raises as `read_body` does."""
    declared = headers.get(b"content-length")
    if declared is not None and int(declared) > max_bytes:
        raise too_large(max_bytes)
    async for part in _parts(await receive(), receive, max_bytes):
        yield part


async def _parts(
    message: Mapping[str, Any], receive: Receive, max_bytes: int
) -> AsyncIterator[bytes]:
    size = 0
    while True:
        if message["type"] != "http.request":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise too_large(max_bytes)
        yield part
        if not message.get("more_body"):
            return
        message = await receive()


def too_large(max_bytes: int) -> TooLarge:
    """Return the refusal of a body over the cap."""
    return TooLarge(f"The body is over {max_bytes} bytes.")


def broken() -> VisionError:
    """Return what a client is told of a defect of ours."""
    return VisionError("The service failed; its log says why.")


async def answer(send: Send, status: int, body: bytes, fields: Pairs) -> None:
    """Send a whole response; `fields` come beside its length."""
    fields.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def json_fields(request_id: bytes) -> Pairs:
    """Return the fields of a JSON answer."""
    return [(b"content-type", _JSON), (b"x-request-id", request_id)]


def error_fields(error: VisionError) -> Pairs:
    """Return the fields that an error adds."""
    fields: Pairs = []
    if error.retry_after_s is not None:
        fields.append((b"retry-after", b"%d" % error.retry_after_s))
    if isinstance(error, MethodNotAllowed):
        fields.append((b"allow", b"POST"))
    if isinstance(error, TooLarge):
        # The rest of the body may still be on its way; nobody is going to read it.
        fields.append((b"connection", b"close"))
    return fields


def monotonic() -> float:
    """Return the clock that deadlines are on: the lanes' own."""
    return time.monotonic()

"""Which header fields cross between a control route and the data path, and what do they identify?

Whose they are stands here, too. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from starlette.requests import HTTPConnection

from gateway.control.view import Headers
from gateway.wire.guard import HOP_BY_HOP

# Fields about the body that the client sent, not about the one that is sent on in its place.
_OF_THE_BODY = frozenset(
    {b"host", b"content-length", b"content-type", b"content-encoding", b"expect"}
)
# The host of this app writes these two itself.
_OF_THE_SERVER = frozenset({b"date", b"server"})

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
# W3C Trace Context §3.2: version 00 has exactly these four fields, later ones may append more.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)


def values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Return the values of every field called `name` (lower case)."""
    return [value for key, value in headers if key == name]


def address(connection: HTTPConnection) -> str:
    """Return where a client asks from; empty if that is not known."""
    return connection.client.host if connection.client else ""


def forwarded(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return a client's fields as they go with the JSON body that is asked in its name.

    Everything travels but hop-by-hop fields, those of a WebSocket handshake, and what described
    the client's own body.
    """
    kept = [
        field
        for field in _end_to_end(headers)
        if field[0] not in _OF_THE_BODY and not field[0].startswith(b"sec-websocket-")
    ]
    return [*kept, (b"content-type", b"application/json")]


def returned(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return an answer's fields as they go to the client."""
    return [field for field in _end_to_end(headers) if field[0] not in _OF_THE_SERVER]


def _end_to_end(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    fields = list(headers)
    named = {
        token.strip().lower()
        for value in values(fields, b"connection")
        for token in value.split(b",")
    }
    return [field for field in fields if field[0] not in HOP_BY_HOP and field[0] not in named]


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the last valid `x-request-id`, which is the one that the data path takes too."""
    valid = [value for value in values(headers, b"x-request-id") if _REQUEST_ID.fullmatch(value)]
    return valid[-1].decode() if valid else None


def trace_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the trace id of the one valid `traceparent`; None without one, or with two."""
    found = values(headers, b"traceparent")
    match = _TRACEPARENT.fullmatch(found[0]) if len(found) == 1 else None
    if match is None or (match[1] == b"00" and match[3] is not None):
        return None
    return match[2].decode()

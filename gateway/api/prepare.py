"""What does a request ask for, and what is sent upstream in its place?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from gateway.api.body import Facts, ask_for_usage, read_json, rename_model
from gateway.api.form import ModelSearch, boundary_of, find_model, only_boundary_of, only_model
from gateway.api.query import model_of, with_model
from gateway.model import Body
from gateway.plan.table import Plan
from gateway.wire.types import Request

_JSON = Body.JSON


@dataclass(slots=True)
class Outgoing:
    """One request as an engine gets it."""

    data: bytes
    """Head and body; with `rest` the head and the beginning of the body."""
    strips_usage: bool = False
    """Whether the usage chunk of the stream is our own wish, not the client's."""
    rest: AsyncIterator[bytes] | None = None
    """The body's further pieces, ready for the wire."""


def media_of(request: Request) -> Body:
    """Return what the request brings: JSON, a form or an image."""
    body = request.route.body
    if body is not Body.ANY:
        return body
    declared = request.head.content_type[:20].lower()
    if declared.startswith(b"image/"):
        return Body.IMAGE
    return Body.FORM if declared.startswith(b"multipart/form-data") else Body.JSON


async def read(request: Request, max_depth: int) -> Facts:
    """Read any request, awaiting only as much of a body that is still coming as that takes.

    Raises `GatewayError` 400.
    """
    if request.route.body is Body.FORM:
        return await read_form(request)
    return read_whole(request, max_depth)


def read_whole(request: Request, max_depth: int) -> Facts:
    """Read a request whose body is whole. Raises `GatewayError` 400.

    Where no tokens are generated, a field that asks for a stream or for choices is another's.
    """
    media = media_of(request)
    if media is Body.FORM:
        start, end = only_model(request.body, only_boundary_of(request.head.content_type))
        return Facts(model=request.body[start:end].decode())
    if media is Body.IMAGE:
        return Facts(model=model_of(request.head.query))
    facts = read_json(request.body, max_depth)
    if request.route.body is not _JSON:
        facts.stream = facts.n = None
    return facts


async def read_form(request: Request) -> Facts:
    """Read the model from a form, awaiting only as much of a streamed one as that takes.

    `request.body` grows by what was awaited. Raises `GatewayError` 400.
    """
    search = ModelSearch(boundary_of(request.head.content_type))
    body = bytearray(request.body)
    try:
        while True:
            span = search.find(body, whole=request.rest is None)
            if span is not None:
                return Facts(model=body[slice(*span)].decode())
            piece = None if request.rest is None else await anext(request.rest, None)
            if piece is None:
                request.rest = None
            else:
                body += piece
    finally:
        request.body = bytes(body)


def outgoing(
    request: Request, facts: Facts, plan: Plan, request_id: bytes, lines: bytes
) -> Outgoing:
    """Build the engine's request; `lines` are the request line and the fields it begins with.

    Nothing of `request` is changed, so that it can be built again for another endpoint.
    """
    if request.route.body is not _JSON:
        media = media_of(request)
        if media is Body.FORM:
            return _outgoing_form(request, facts, plan, request_id, lines)
        if media is Body.IMAGE:
            return _outgoing_image(request, facts, plan, request_id, lines)
    body = request.body
    if facts.model != plan.upstream_model:  # A fallback's own name is not the client's, either.
        body = rename_model(body, plan.upstream_model)
    strips = request.route.injects_usage and facts.stream is True and not facts.wants_usage
    if strips:
        body = ask_for_usage(body, facts)
    # The body has been checked to be JSON, so that `curl -d` may leave the content type out.
    data = (
        b"%b%bcontent-type: application/json\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (lines, request.head.forward, request_id, len(body), body)
    )
    return Outgoing(data, strips)


def _outgoing_form(
    request: Request, facts: Facts, plan: Plan, request_id: bytes, lines: bytes
) -> Outgoing:
    body, length = request.body, request.head.content_length
    if facts.model != plan.upstream_model:
        start, end = find_model(body, boundary_of(request.head.content_type))
        body = b"".join((body[:start], plan.upstream_model.encode(), body[end:]))
        if length is not None:
            length += len(body) - len(request.body)
    if request.rest is None:
        length = len(body)
    if length is None:
        framing = b"transfer-encoding: chunked"
        body = b"%x\r\n%b\r\n" % (len(body), body)
    else:
        framing = b"content-length: %d" % length
    head = b"%b%bcontent-type: %b\r\nx-request-id: %b\r\n%b\r\n\r\n" % (
        lines,
        request.head.forward,
        request.head.content_type,
        request_id,
        framing,
    )
    rest = request.rest if length is not None or request.rest is None else _chunked(request.rest)
    return Outgoing(head + body, rest=rest)


def _outgoing_image(
    request: Request, facts: Facts, plan: Plan, request_id: bytes, lines: bytes
) -> Outgoing:
    """Build a request whose model stands in the query, and whose body is the image."""
    query, body = request.head.query, request.body
    if facts.model != plan.upstream_model:
        query = with_model(query, plan.upstream_model)
    path, version, fields = lines.partition(b" HTTP/1.1\r\n")
    kind = request.head.content_type
    own = b"content-type: %b\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (
        kind,
        request_id,
        len(body),
    )
    return Outgoing(b"".join((path, b"?", query, version, fields, request.head.forward, own, body)))


async def _chunked(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        if piece:  # A chunk of none would be the last.
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"

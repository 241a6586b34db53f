"""What does a request ask for, and what is sent upstream in its place?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from gateway.api.body import Facts, ask_for_usage, rename_model
from gateway.api.form import ModelSearch, boundary_of, find_model
from gateway.plan.table import Plan
from gateway.wire.types import Request


@dataclass(slots=True)
class Outgoing:
    """One request as an engine gets it."""

    data: bytes
    """Head and body; with `rest` the head and the beginning of the body."""
    strips_usage: bool = False
    """Whether the usage chunk of the stream is our own wish, not the client's."""
    rest: AsyncIterator[bytes] | None = None
    """The body's further pieces, ready for the wire."""


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
    if request.route.multipart:
        return _outgoing_form(request, facts, plan, request_id, lines)
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


async def _chunked(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        if piece:  # A chunk of none would be the last.
            yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"

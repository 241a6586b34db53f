"""How does the plain `/v1/generate` of one prompt become a completion and back?"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from math import inf
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from gateway.clock import Clock
from gateway.control.answer import AnswerError, read_whole
from gateway.control.failures import invalid
from gateway.control.headers import address, forwarded, request_id, trace_id
from gateway.control.relay import Relayed, pass_on, read_all, read_chunks
from gateway.control.strict import read_object
from gateway.control.view import Answer, Ask

COMPLETIONS = "/v1/completions"


class Generate(BaseModel):
    """One prompt. What is left out is left to the engine's own default."""

    # Unknown fields are errors: a misspelt `max_token` would otherwise cost a full answer.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Annotated[str, Field(min_length=1)]
    prompt: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stream: bool = False


class Generated(BaseModel):
    """The answer to one prompt, and the last event of a streamed one."""

    generated_text: str
    tokens_generated: int | None
    """As the engine counted them; null when it did not say."""
    latency_ms: float
    """From the request's arrival here to its last token."""
    trace_id: str
    """The trace of the client's `traceparent`, else the request's id."""


def router(ask: Ask, clock: Clock) -> APIRouter:
    """Return the route; `clock` measures `latency_ms`."""
    routes = APIRouter(tags=["generate"])
    schema = {"content": {"application/json": {"schema": Generate.model_json_schema()}}}

    @routes.post(
        "/v1/generate",
        response_model=Generated,
        openapi_extra={"requestBody": {"required": True, **schema}},
    )
    async def generate(request: Request) -> Response:
        """Complete one prompt, as one JSON answer or as events of one token's text each."""
        report = _Report(request, clock, clock.monotonic())
        try:
            wanted = Generate.model_validate(read_object(await request.body()))
        except ValidationError as error:
            raise invalid(error) from None
        body = wanted.model_dump(exclude_none=True)
        if wanted.stream:
            body["stream_options"] = {"include_usage": True}
        headers = forwarded(request.headers.raw)
        exchange = ask(COMPLETIONS, headers, json.dumps(body).encode(), address(request))
        return Relayed(exchange, report.stream if wanted.stream else report.whole)

    return routes


@dataclass(frozen=True, slots=True)
class _Report:
    """Shows one completion in this route's words."""

    request: Request
    clock: Clock
    started_s: float

    async def whole(self, answer: Answer) -> ASGIApp:
        """Show the answer at once; an error as the data path worded it."""
        if answer.status != 200:
            return await pass_on(answer)
        said = read_whole(await read_all(answer))
        return _marked(JSONResponse(self._generated(answer, said.text, said.tokens)), answer)

    async def stream(self, answer: Answer) -> ASGIApp:
        """Show the answer as events; an error before the first one as the data path worded it."""
        if answer.status != 200:
            return await pass_on(answer)
        # An infinite grace: its default ends open streams at SIGTERM, in the middle and without
        # an error. How long a drain may take is the server's own setting.
        events = EventSourceResponse(
            self._events(answer),
            sep="\n",
            ping_message_factory=lambda: ServerSentEvent(comment="ping", sep="\n"),
            shutdown_grace_period=inf,
        )
        return _marked(events, answer)

    async def _events(self, answer: Answer) -> AsyncIterator[ServerSentEvent]:
        texts: list[str] = []
        tokens: int | None = None
        try:
            async for _, chunk in read_chunks(answer):
                tokens = chunk.tokens if chunk.tokens is not None else tokens
                if chunk.text:
                    texts.append(chunk.text)
                    yield _event({"token": chunk.text})
        except AnswerError as error:
            yield ServerSentEvent(error.body.decode(errors="replace"), event="error", sep="\n")
            return
        yield _event({"done": True, **self._generated(answer, "".join(texts), tokens)})

    def _generated(self, answer: Answer, text: str, tokens: int | None) -> dict[str, object]:
        headers = self.request.headers.raw
        trace = trace_id(headers) or request_id(answer.headers) or request_id(headers)
        return Generated(
            generated_text=text,
            tokens_generated=tokens,
            latency_ms=round((self.clock.monotonic() - self.started_s) * 1000, 3),
            trace_id=trace or "",
        ).model_dump()


def _marked(response: Response, answer: Answer) -> Response:
    """Let it say what the data path said of the answer's way: attempts, and where it came from."""
    response.raw_headers += [field for field in answer.headers if field[0].startswith(b"x-sluice-")]
    return response


def _event(value: dict[str, object]) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(value), sep="\n")

"""How is a chat asked for with the model in the path, as JSON or as nothing but text?"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from gateway.control.answer import AnswerError, read_whole
from gateway.control.failures import unknown_route
from gateway.control.headers import address, forwarded, returned
from gateway.control.relay import Relayed, pass_on, read_all, read_chunks
from gateway.control.strict import add_members, read_object
from gateway.control.view import Answer, Ask, CutError, Headers
from gateway.errors import bad_request

CHAT_COMPLETIONS = "/v1/chat/completions"


def router(ask: Ask) -> APIRouter:
    """Return the route."""
    routes = APIRouter(tags=["chat"])

    @routes.post("/v1/chat/{model:path}")
    async def chat(
        model: str, request: Request, stream: Annotated[bool | None, Query()] = None
    ) -> Response:
        """Take a JSON chat request, or a prompt as `text/plain`; answer as chat completions do.

        A prompt's answer is plain text where `Accept` names `text/plain`. `?stream=true` belongs
        to prompts; a JSON body says `stream` itself.
        """
        if not model:
            raise unknown_route(request.url.path)
        body = await request.body()
        show = pass_on
        if _is_text(request.headers.get("content-type", "")):
            body = _prompt(body, model, stream=bool(stream))
            if _accepts_text(request.headers.get("accept", "")):
                show = _text_stream if stream else _text
        elif stream is not None:
            raise bad_request("`stream` belongs into the JSON body.", "stream")
        else:
            body = with_model(body, model)
        headers = forwarded(request.headers.raw)
        return Relayed(ask(CHAT_COMPLETIONS, headers, body, address(request)), show)

    return routes


def with_model(body: bytes, model: str) -> bytes:
    """Return the JSON chat request `body` with `model` in it.

    Raises `GatewayError` 400 when it is no JSON object, or names another model.
    """
    chat = read_object(body)
    if "model" not in chat:
        return add_members(body, {"model": model})
    if chat["model"] != model:
        raise bad_request("The body's `model` is not the one in the path.", "model")
    return body


def _prompt(text: bytes, model: str, *, stream: bool) -> bytes:
    try:
        prompt = text.decode()
    except UnicodeDecodeError:
        raise bad_request("The prompt is not valid UTF-8.") from None
    if not prompt.strip():
        raise bad_request("The prompt is empty.")
    messages = [{"role": "user", "content": prompt}]
    return json.dumps({"model": model, "messages": messages, "stream": stream}).encode()


def _is_text(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "text/plain"


def _accepts_text(accept: str) -> bool:
    """Whether `text/plain` is named: `*/*` is what every client sends that did not choose."""
    for item in accept.lower().split(","):
        media_type, *params = (part.strip() for part in item.split(";"))
        if media_type == "text/plain":
            return not any(param.startswith("q=0") and not param.strip("q=0.") for param in params)
    return False


async def _text(answer: Answer) -> ASGIApp:
    """Show what the model said and nothing else; an error as the data path worded it."""
    if answer.status != 200:
        return await pass_on(answer)
    response = Response(read_whole(await read_all(answer)).text)
    response.raw_headers += _text_headers(answer)
    return response


async def _text_stream(answer: Answer) -> ASGIApp:
    """Show the text as it comes. Plain text has no room for an error: a failure cuts it."""
    if answer.status != 200:
        return await pass_on(answer)
    response = StreamingResponse(_texts(answer))
    response.raw_headers = _text_headers(answer)
    return response


def _text_headers(answer: Answer) -> Headers:
    kept = [
        field
        for field in returned(answer.headers)
        if field[0] not in {b"content-type", b"content-length"}
    ]
    return [*kept, (b"content-type", b"text/plain; charset=utf-8")]


async def _texts(answer: Answer) -> AsyncIterator[bytes]:
    try:
        async for _, chunk in read_chunks(answer):
            if chunk.text:
                yield chunk.text.encode()
    except AnswerError as error:
        raise CutError(str(error)) from None

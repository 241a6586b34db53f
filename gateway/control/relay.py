"""How is a request asked in a client's name, and dropped when the client leaves?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager

from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.control.answer import AnswerError, Chunk, StreamReader, cut_short
from gateway.control.headers import returned
from gateway.control.view import Answer, CutError

Show = Callable[[Answer], Awaitable[ASGIApp]]
"""Turns the data path's answer into the response that the client gets."""


class Relayed(Response):
    """Asks when it is sent, shows the answer, and stops asking as soon as the client is gone."""

    def __init__(self, exchange: AbstractAsyncContextManager[Answer], show: Show) -> None:
        super().__init__()
        self._exchange = exchange
        self._show = show

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay within one task; the other one does nothing but wait for the client to leave."""
        await _while_connected(receive, self._relay(scope, send))

    async def _relay(self, scope: Scope, send: Send) -> None:
        async with self._exchange as answer:
            response = await self._show(answer)
            # Only one may listen: on most servers a disconnect is told once.
            await response(scope, _never, send)


async def pass_on(answer: Answer) -> ASGIApp:
    """Show the answer as it is, piece by piece."""
    response = StreamingResponse(answer.body, answer.status)
    response.raw_headers = returned(answer.headers)
    return response


async def read_all(answer: Answer) -> bytes:
    """Return the whole body. Raises `CutError`."""
    return b"".join([piece async for piece in answer.body])


async def read_chunks(answer: Answer) -> AsyncGenerator[tuple[bytes, Chunk], None]:
    """Yield a streamed answer's chunks, as JSON text and decoded.

    Reads past the last one to the end of the body, because leaving earlier would be a cancel.
    Raises `AnswerError` when the answer ends in any other way than it should.
    """
    reader = StreamReader()
    try:
        async for piece in answer.body:
            for chunk in reader.feed(piece):
                yield chunk
    except CutError:
        raise AnswerError(cut_short().body()) from None
    reader.end()


async def _while_connected(receive: Receive, work: Coroutine[None, None, None]) -> None:
    """Run `work`, cancelled when the client leaves. Raises what `work` raises."""
    try:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(work)
            leaving = group.create_task(_left(receive))
            working.add_done_callback(lambda _: leaving.cancel())
            leaving.add_done_callback(lambda _: working.cancel())
    except BaseExceptionGroup as failures:
        # Callers know errors by their type; the first failure has cancelled the other task.
        raise failures.exceptions[0] from None


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _never() -> Message:
    message: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await message

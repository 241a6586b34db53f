"""How do the parent and its workers ask each other?

By HTTP over Unix sockets in a folder that is theirs alone. Each listener has a thread and a loop of
its own, as the operators' has, and for the same reason: it answers while the main loop is busy.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from starlette.types import ASGIApp

_LOG = logging.getLogger("sluice.workers")

END_S = 2.0
"""What an answer under way may still take when the listener ends."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request."""

    method: str
    path: str
    """With its query, escaped."""
    content: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    limit_s: float = 1.0
    """For the whole answer."""


async def ask(path: str, question: Question) -> httpx.Response:
    """Ask whoever listens at a socket. Raises `httpx.HTTPError` or `TimeoutError`.

    Costs 1.3 ms of CPU (timeit), with a connection for each question, so that none can be found
    closed. Nothing that clients ask often comes here.
    """
    # A context for TLS that is never used would take 20 ms.
    transport = httpx.AsyncHTTPTransport(uds=path, verify=False)
    async with (
        asyncio.timeout(question.limit_s),
        httpx.AsyncClient(
            transport=transport,
            timeout=question.limit_s,
            base_url="http://localhost",
            trust_env=False,
        ) as client,
    ):
        return await client.request(
            question.method,
            question.path,
            content=question.content,
            headers=list(question.headers),
        )


async def ask_all(
    paths: Iterable[tuple[int, str]], question: Question
) -> dict[int, httpx.Response]:
    """Ask several at once; return the answers of those that gave one, by number."""

    async def one(number: int, path: str) -> tuple[int, httpx.Response | None]:
        try:
            return number, await ask(path, question)
        except (httpx.HTTPError, TimeoutError) as error:
            _LOG.debug("worker %d does not answer: %r", number, error)
            return number, None

    answers = await asyncio.gather(*(one(*each) for each in paths))
    return {number: answer for number, answer in answers if answer is not None}


@asynccontextmanager
async def serve_inside(app: ASGIApp, path: str) -> AsyncIterator[None]:
    """Answer at a socket while the block runs. Raises `OSError` if it cannot be made."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        _listen(listener, path)
        thread = _Thread(app, listener)
        thread.start()
        try:
            yield
        finally:
            await asyncio.to_thread(thread.end)


def _listen(listener: socket.socket, path: str) -> None:
    Path(path).unlink(missing_ok=True)  # Of a worker that was killed.
    listener.bind(path)
    listener.listen()


class _Thread(threading.Thread):
    """A daemon: the process ends also if this does not."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        super().__init__(name="sluice-inner", daemon=True)
        self._listener = listener
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )

    def run(self) -> None:
        """Serve until `end`. Signals are the main thread's: uvicorn takes none in another."""
        with suppress(SystemExit):
            asyncio.run(self._server.serve(sockets=[self._listener]))

    def end(self) -> None:
        """Let it finish. Blocks, for 0.1 s as a rule."""
        self._server.should_exit = True
        self.join(timeout=END_S)

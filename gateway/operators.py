"""How do operators reach a gateway whose main loop may be busy, stuck or on its way out?

Their listener has a thread and an event loop of its own. It looks at nothing of the gateway's but
one number, the main loop's last heartbeat; everything else it asks for in the main loop.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn, TypeVar

from starlette.types import ASGIApp

from gateway.config.server import Admin, Server
from gateway.control.admin import MAX_BODY_BYTES
from gateway.errors import GatewayError
from gateway.host import Hooks, HostedServer, bind, make_server, url_of
from gateway.model import Route
from gateway.wire.downstream import Plane, sweep_connections
from gateway.wire.guard import Head, Limits
from gateway.wire.types import Downstream, Request

_LOG = logging.getLogger("sluice")
T = TypeVar("T")

BEAT_S = 0.1
"""Between two heartbeats: finer than any lag that matters, at the cost of ten wake-ups a second."""

ANSWER_S = 2.0
"""How long the main loop may take to answer. It sheds new work when it is half as late."""

WORK_S = 60.0
"""How long it may take for what is more than an answer: a reload with thousands of endpoints."""


class Heartbeat:
    """When the main loop last ran. Written by one thread and read by any."""

    __slots__ = ("_at", "_monotonic")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._at = monotonic()

    def lag_s(self) -> float:
        """Return how late the main loop is now, in seconds; it need not have come back."""
        return max(0.0, self._monotonic() - self._at - BEAT_S)

    async def beat_forever(self, on_tick: Callable[[float, float], object]) -> None:
        """Beat in the loop that runs this; `on_tick` gets when each was due, and when it came."""
        while True:
            due = self._monotonic() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self._at = self._monotonic()
            on_tick(due, self._at)


class Crossing:
    """`gateway.control.operations.MainLoop`: the way from another thread into a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, answer_s: float = ANSWER_S) -> None:
        self._loop = loop
        self._answer_s = answer_s

    async def read(self, work: Callable[[], T]) -> T:
        """Return what `work` returns there; it is not begun if the answer would come too late."""

        async def once() -> T:
            return work()

        return await self._cross(once, self._answer_s)

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `work` there, once it is known that somebody answers."""
        await self.read(lambda: None)
        return await self._cross(work, WORK_S)

    async def _cross(self, work: Callable[[], Coroutine[Any, Any, T]], limit_s: float) -> T:
        given_up = threading.Event()

        async def begin() -> T:
            # A cancel from another thread comes only after the first step of a coroutine.
            if given_up.is_set():
                raise asyncio.CancelledError
            return await work()

        crossing = begin()
        try:
            there: Future[T] = asyncio.run_coroutine_threadsafe(crossing, self._loop)
        except RuntimeError:  # The loop is closed; the thread outlives it by a moment.
            crossing.close()
            raise _busy() from None
        try:
            async with asyncio.timeout(limit_s):
                return await asyncio.wrap_future(there)
        except TimeoutError:
            given_up.set()
            raise _busy() from None


def _busy() -> GatewayError:
    message = "The gateway's main loop does not answer."
    return GatewayError(503, "gateway_busy", message, retry=True, retry_after_s=1)


@asynccontextmanager
async def serve_operators(admin: Admin, app: ASGIApp) -> AsyncIterator[str | None]:
    """Serve `app` in a thread of its own while the block runs; yields its URL.

    Raises `OSError` if the port cannot be had, unless it is the default one: then a warning is
    logged, and None yielded. Several gateways on one machine would else need a setting each.
    """
    try:
        listener = bind(admin.host, admin.port)
    except OSError as error:
        if "port" in admin.model_fields_set:
            raise
        _LOG.warning("no admin API: %s", error)
        yield None
        return
    thread = _Thread(listener, admin, app)
    thread.start()
    _LOG.info("admin API on %s", thread.url)
    try:
        yield thread.url
    finally:
        await asyncio.to_thread(thread.end)
        listener.close()


class _Thread(threading.Thread):
    """The operators' listener. A daemon: the process ends also if this does not."""

    def __init__(self, listener: socket.socket, admin: Admin, app: ASGIApp) -> None:
        super().__init__(name="sluice-admin", daemon=True)
        self._listener = listener
        self._app = app
        self._config = Server(
            host=admin.host,
            port=admin.port,
            max_body_bytes=MAX_BODY_BYTES,
            drain_delay_s=0,
            drain_s=1,
            admin=None,
        )
        self.url = url_of(listener, self._config)
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: HostedServer | None = None

    def run(self) -> None:
        """Serve until `end`."""
        try:
            asyncio.run(self._serve())
        except Exception:  # The thread's root: the gateway goes on without it, and says so.
            _LOG.exception("the admin API has failed")
        finally:
            self._ready.set()

    def end(self) -> None:
        """Let it finish what it is at, at most for some seconds. Blocks."""
        self._ready.wait()
        if self._loop is not None and self._server is not None:
            with suppress(RuntimeError):  # It has ended by itself.
                self._loop.call_soon_threadsafe(self._server.leave)
        self.join(timeout=5)

    async def _serve(self) -> None:
        limits = Limits(body_bytes=MAX_BODY_BYTES)
        plane = Plane({}, _no_route, _refused, limits)
        server = make_server(self._config, self._app, plane, Hooks(started=self._ready.set))
        self._loop, self._server = asyncio.get_running_loop(), server
        async with asyncio.TaskGroup() as group:
            sweeping = group.create_task(_sweep_forever(server))
            await server.serve(sockets=[self._listener])
            sweeping.cancel()


async def _sweep_forever(server: HostedServer) -> None:
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(1.0)
        sweep_connections(server.server_state.connections, loop.time())


async def _no_route(request: Request, down: Downstream) -> NoReturn:
    raise AssertionError("this listener has no data-plane routes")


def _refused(route: Route, head: Head, error: GatewayError, client: str) -> bytes:
    """Return the header lines of an answer to what was not even HTTP; nobody counts these."""
    return b"".join(b"%b: %b\r\n" % field for field in error.headers())

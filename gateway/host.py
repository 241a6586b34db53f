"""How does uvicorn host the gateway: its socket, its signals, its end?

    serving --leave--> leaving --delay over--> closing --nothing under way--> ended
                          |                       |                             ^
                          +------force or---------+--drain_s over--> forced ----+

Leaving, the listener is open and readiness says 503. Closing, what is under way finishes. Forced,
each request still under way is given one error, and a second later every connection is cut.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from gateway.config.server import Server
from gateway.wire.downstream import DataPlaneProtocol, Plane

_LOG = logging.getLogger("sluice")

BACKLOG = 4096
"""Connections that may wait while the loop is busy; the kernel's own cap is net.core.somaxconn."""

FORCE_S = 1.0
"""How long a last error may take to reach its client."""

DATE_S = 1.0
"""How often the Date field is renewed."""

Ready = Callable[[str], None]
"""Told the gateway's base URL once it accepts connections."""


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who hears how far the server is; each is called once at the most."""

    started: Callable[[], None] = _nothing
    """Connections are accepted."""
    leaving: Callable[[], None] = _nothing
    """New requests should go elsewhere; they are still served."""
    closing: Callable[[], None] = _nothing
    """No connection is accepted any more; idle ones should close."""
    force: Callable[[], None] = _nothing
    """Requests under way must be given their error now."""


class _Live(set[Any]):
    """What is under way; tells when it has become empty."""

    def __init__(self, on_empty: Callable[[], None]) -> None:
        super().__init__()
        self._on_empty = on_empty

    def discard(self, item: object) -> None:
        """Take one out. Costs 0.1 µs more than a plain set."""
        super().discard(item)
        if not self:
            self._on_empty()

    def remove(self, item: object) -> None:
        """Take one out; uvicorn's WebSockets do it this way."""
        super().remove(item)
        if not self:
            self._on_empty()


class HostedServer(uvicorn.Server):
    """uvicorn's server with an end of its own; signals are left to the program that embeds it."""

    def __init__(
        self, config: uvicorn.Config, plane: Plane, hooks: Hooks, delay_s: float, drain_s: float
    ) -> None:
        """`delay_s` is how long the listener stays open, `drain_s` what requests have after it."""
        super().__init__(config)
        self._plane = plane
        self._hooks = hooks
        self._delay_s = delay_s
        self._drain_s = drain_s
        self._hurried = False
        self._news = asyncio.Event()
        self.server_state.connections = _Live(self._news.set)
        self.server_state.tasks = _Live(self._news.set)

    def leave(self, *, at_once: bool = False) -> None:
        """Begin to go away, `at_once` without the delay. Again it only takes the delay away."""
        if not self.should_exit:
            self.should_exit = True
            self._plane.closing = True
            for connection in self.server_state.connections:
                if isinstance(connection, DataPlaneProtocol):
                    connection.announce_end()
            self._hooks.leaving()
        self._hurried = self._hurried or at_once
        self._news.set()

    def force(self) -> None:
        """Wait for nothing that is under way."""
        self.force_exit = True
        self.leave(at_once=True)

    async def stop_now(self) -> None:
        """Cut every connection, for a program that ends in the middle; else nothing is left."""
        if self.started:
            for server in self.servers:
                server.close()
        await self._cut()

    # What uvicorn calls.

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: uvicorn's own raises the signal again, which would end us first."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        if self.started:
            self._hooks.started()

    async def main_loop(self) -> None:
        """Serve until it is time to close the listener."""
        await self._until(lambda: self.should_exit)
        await self._until(lambda: self._hurried, self._delay_s)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener and let what is under way finish, as long as it may."""
        for server in self.servers:
            server.close()
        for one in sockets or ():
            one.close()
        await asyncio.sleep(0)  # A request that has arrived is read before its connection closes.
        self._hooks.closing()
        for connection in list(self.server_state.connections):
            if isinstance(connection, DataPlaneProtocol):  # The others are the app's to close.
                connection.shutdown()
        await self._until(lambda: self._idle or self.force_exit, self._drain_s)
        if not self._idle:
            _LOG.warning("ending %d connections", len(self.server_state.connections))
            self._hooks.force()
            await self._until(lambda: self._idle, FORCE_S)
            await self._cut()

    # Inside.

    @property
    def _idle(self) -> bool:
        return not self.server_state.connections and not self.server_state.tasks

    async def _cut(self) -> None:
        """Drop what is left. A client's going ends its task; so the tasks follow."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, DataPlaneProtocol):
                connection.transport.abort()
            else:
                connection.shutdown()  # A WebSocket's close frame: 1012, "service restart".
        await self._until(lambda: self._idle, FORCE_S)
        for task in list(self.server_state.tasks):
            task.cancel()
        await self._until(lambda: self._idle, FORCE_S)

    async def _until(self, true: Callable[[], bool], limit_s: float = math.inf) -> None:
        """Wait for a state, not longer than the limit; the Date field stays right meanwhile."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        while not true() and (left_s := end - loop.time()) > 0:
            await self.on_tick(0)
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, DATE_S)):
                    await self._news.wait()


def bind(host: str, port: int) -> socket.socket:
    """Open the listening socket, IPv4 or IPv6 as `host` says. Raises `OSError` naming both."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(f"Cannot listen on {host}:{port}: {error.strerror}.") from None
    return listener


def make_server(config: Server, app: ASGIApp, plane: Plane, hooks: Hooks) -> HostedServer:
    """Make the server whose connections are `DataPlaneProtocol`s."""
    protocol = functools.partial(DataPlaneProtocol, plane=plane)
    return HostedServer(
        uvicorn.Config(
            app,
            http=protocol,  # type: ignore[arg-type]  # called like the class that it wraps
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            backlog=BACKLOG,
            ws_max_size=config.max_body_bytes,
            ssl_certfile=config.tls.cert_file if config.tls else None,
            ssl_keyfile=config.tls.key_file if config.tls else None,
        ),
        plane,
        hooks,
        config.drain_delay_s,
        config.drain_s,
    )


def url_of(listener: socket.socket, config: Server) -> str:
    """Return the base URL that a client on this machine would use."""
    host, port = listener.getsockname()[:2]
    any_address = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  compared, not bound
    shown = any_address.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if config.tls else 'http'}://{shown}:{port}"


@asynccontextmanager
async def background_tasks() -> AsyncIterator[Callable[[Coroutine[Any, Any, None]], None]]:
    """Run coroutines beside the body and cancel them at its end."""
    tasks: list[asyncio.Task[None]] = []

    async with asyncio.TaskGroup() as group:

        def start(work: Coroutine[Any, Any, None]) -> None:
            tasks.append(group.create_task(work))

        try:
            yield start
        finally:
            for task in tasks:
                task.cancel()


@contextmanager
def handle_signals(
    server: HostedServer, hang_up: Callable[[], object] = _nothing
) -> Iterator[None]:
    """Let SIGINT and SIGTERM drain the server, SIGINT without the delay; a second one forces.

    SIGHUP calls `hang_up`, and does not end the process where nobody reads any more.
    """
    loop = asyncio.get_running_loop()
    heard = 0

    def stop(number: int) -> None:
        nonlocal heard
        heard += 1
        # Counted here: that the admin API has begun the drain makes no signal the second one.
        if heard > 1:
            server.force()
        else:
            server.leave(at_once=number == signal.SIGINT)

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    try:
        yield
    finally:
        for number in (*numbers, signal.SIGHUP):
            loop.remove_signal_handler(number)

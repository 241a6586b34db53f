"""How does uvicorn host the gateway: its socket, its signals, its end?"""

from __future__ import annotations

import asyncio
import functools
import math
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from gateway.config.server import Server
from gateway.wire.downstream import DataPlaneProtocol, Plane

BACKLOG = 4096
"""Connections that may wait while the loop is busy; the kernel's own cap is net.core.somaxconn."""

Ready = Callable[[str], None]
"""Told the gateway's base URL once it accepts connections."""


class HostedServer(uvicorn.Server):
    """uvicorn's server, its signals left to the program that embeds it."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        """`started` is called once the server accepts connections."""
        super().__init__(config)
        self._on_started = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: uvicorn's own raises the signal again, which would end us first."""
        yield

    async def stop_now(self) -> None:
        """Close the listener and every connection without waiting for answers under way."""
        self.force_exit = True
        if self.started:
            await self.shutdown()
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        if self.started:
            self._on_started()


def bind(host: str, port: int) -> socket.socket:
    """Open the listening socket, IPv4 or IPv6 as `host` says. Raises `OSError` naming both."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
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


def make_server(
    config: Server, app: ASGIApp, plane: Plane, started: Callable[[], None]
) -> HostedServer:
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
            timeout_graceful_shutdown=math.ceil(config.drain_s),
            ssl_certfile=config.tls.cert_file if config.tls else None,
            ssl_keyfile=config.tls.key_file if config.tls else None,
        ),
        started,
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
def handle_signals(server: uvicorn.Server, draining: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM drain the server; a second one ends it at once."""
    loop = asyncio.get_running_loop()

    def stop(number: int, frame: FrameType | None) -> None:
        draining()
        # uvicorn forces only on a second SIGINT; an impatient operator may send either.
        server.handle_exit(signal.SIGINT if server.should_exit else number, frame)

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stop, number, None)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)

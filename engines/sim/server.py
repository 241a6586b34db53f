"""How does the simulated engine start, listen, drain and stop?

Stopping follows vLLM 0.32. By default SIGTERM ends every stream with the in-band error and the end
mark, and everything else with a 500. With a shutdown time-out, requests in flight may finish for so
long; meanwhile the port stays open, `/health` still answers 200, and new requests get a 500.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from engines.sim.clock import WallClock
from engines.sim.engine import Engine
from engines.sim.http import Connection, Connections
from engines.sim.routes import Application
from engines.sim.settings import Settings

_log = logging.getLogger(__name__)

_FLUSH_S = 1.0
"""How long clients may take to read the last bytes when the server stops."""
_BACKLOG = 4096


class RunningServer:
    """A listening engine: where it listens, and how to stop it."""

    def __init__(
        self, app: Application, listener: asyncio.Server, connections: Connections
    ) -> None:
        self.app = app
        self._listener = listener
        self._connections = connections
        host, port = listener.sockets[0].getsockname()[:2]
        self.host: str = host
        self.port: int = port

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    async def stop(self) -> None:
        """Drain for the configured time, fail what is left, close."""
        timeout_s = self.app.settings.shutdown_timeout_s
        self.app.draining = True
        if timeout_s > 0:
            _log.info("draining for up to %s s", timeout_s)
            try:
                await asyncio.wait_for(self.app.engine.wait_idle(), timeout_s)
            except TimeoutError:
                _log.info("%d requests are still in flight", self.app.engine.load)
        self._listener.close()
        self.app.engine.fail_all()
        await self._connections.close_all(_FLUSH_S)


@asynccontextmanager
async def listening(settings: Settings) -> AsyncIterator[RunningServer]:
    """Serve until the block ends, then drain and stop. OSError when the address cannot be had."""
    loop = asyncio.get_running_loop()
    # Jitter and injected faults repeat with the seed; ids must differ between equal replicas.
    seed = f"{settings.served.seed}:{settings.port}"  # equal replicas should not fail in step
    chance = random.Random(seed)  # noqa: S311 - no secrets
    ids = random.Random()  # noqa: S311 - no secrets
    clock = WallClock()
    app = Application(settings, Engine(settings, chance), chance, ids, clock, clock.now_s())
    connections = Connections()
    listener = await loop.create_server(
        lambda: Connection(app.serve, connections, clock, settings.keep_alive_s),
        settings.host,
        settings.port,
        backlog=_BACKLOG,
    )
    server = RunningServer(app, listener, connections)
    try:
        yield server
    finally:
        await server.stop()


async def _told_within(event: asyncio.Event, timeout_s: float) -> bool:
    if timeout_s <= 0:
        return event.is_set()
    try:
        return await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False


async def run(settings: Settings, on_ready: Callable[[RunningServer], None]) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` is called once the port is open.

    The port opens after the configured start-up time, as vLLM's does when its model is loaded.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    _log.info("pretending to be loading a model for %s s", settings.startup_s)
    if await _told_within(stopped, settings.startup_s):
        return
    async with listening(settings) as server:
        _log.info("listening on %s:%d", server.host, server.port)
        on_ready(server)
        await stopped.wait()

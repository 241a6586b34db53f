"""Our own protocol in front of the real proxy core, with its connections at the test's hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from uvicorn.server import ServerState

from gateway.api.routes import ROUTES
from gateway.app import Gateway
from gateway.host import Hooks, make_server
from gateway.wire.downstream import DataPlaneProtocol, Plane, sweep_connections
from tests.support.control import ManualClock
from tests.support.engine import Engine, Script, response
from tests.support.rig import Rig, configure, eventually


@dataclass
class Wire(Rig):
    """A rig whose connections can be looked at and swept."""

    state: ServerState = field(default_factory=ServerState)

    @property
    def protocols(self) -> list[DataPlaneProtocol]:
        """The client connections now open."""
        return [one for one in self.state.connections if isinstance(one, DataPlaneProtocol)]

    def sweep_clients(self, seconds: float) -> None:
        """Let the client timers run out that would `seconds` from now."""
        now = asyncio.get_running_loop().time() + seconds
        sweep_connections(self.state.connections, now)


@asynccontextmanager
async def wire(
    *scripts: Script,
    cluster: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
) -> AsyncIterator[Wire]:
    """Listen with the protocol class; afterwards nothing may be in flight or left open."""
    clock = ManualClock()
    async with Engine(*(scripts or [[response()]])) as engine:
        config = configure(engine.url, cluster or {}, server or {})
        gateway = Gateway(config, clock)
        gateway.clusters["pool"].endpoints[0].probed(True, 100.0)
        running = Wire(engine, gateway, clock)
        limits = gateway._limits
        plane = Plane(ROUTES, gateway.proxy.serve, gateway.proxy.refuse, limits)
        hosted = make_server(config.server, gateway.app, plane, Hooks()).config
        hosted.load()
        listener = await asyncio.get_running_loop().create_server(
            lambda: DataPlaneProtocol(hosted, running.state, {}, plane=plane), "127.0.0.1", 0
        )
        running.port = listener.sockets[0].getsockname()[1]
        try:
            yield running
            await running.settled()
            await eventually(lambda: not running.state.tasks)
        finally:
            listener.close()
            for one in running.protocols:
                one.transport.abort()
            gateway.close()
        await eventually(lambda: not running.state.connections)
        await eventually(lambda: running.open_upstream == 0)

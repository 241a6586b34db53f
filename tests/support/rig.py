"""The real gateway between a scripted engine and raw clients, hosted in either of its two ways."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from enum import StrEnum
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.api.routes import ROUTES
from gateway.app import Gateway
from gateway.config.spec import Config
from gateway.wire.asgi import DataPlaneApp
from gateway.wire.guard import Limits
from tests.support.control import ManualClock
from tests.support.engine import Engine, Script, Turn, response
from tests.support.raw import PATIENCE_S, Answer, RawClient, post

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
ONCE: dict[str, Any] = {"retries": {"attempts": 1}, "resume": "off", "breaker": {"failures": 1000}}
"""What an engine's failure amounts to by itself, with nothing tried again."""
MODELS = {
    "m": {"cluster": "pool"},
    "renamed": {"cluster": "pool", "upstream_model": "engine/m", "aliases": ["alias"]},
}


class Host(StrEnum):
    """Who speaks HTTP to the clients."""

    PROTOCOL = "protocol"
    ASGI = "asgi"


@dataclass
class Rig:
    """A running gateway with what stands on both of its sides."""

    engine: Engine
    gateway: Gateway
    clock: ManualClock
    port: int = 0

    def client(self) -> RawClient:
        return RawClient(self.port)

    async def post(
        self,
        body: bytes | dict[str, Any] = CHAT,
        path: str = "/v1/chat/completions",
        fields: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request on a connection of its own."""
        async with self.client() as client:
            return await client.ask(post(body, path, fields))

    @property
    def inflight(self) -> int:
        return sum(one.inflight for one in self.gateway.clusters["pool"].endpoints)

    @property
    def open_upstream(self) -> int:
        clients = self.gateway.clusters["pool"].clients.values()
        return sum(client.open_connections for client in clients)

    def outcomes(self) -> dict[str, int]:
        """How the requests ended, by outcome."""
        text = self.gateway.view.metrics_text()[0].decode()
        found: dict[str, int] = {}
        for line in text.splitlines():
            if line.startswith("sluice_requests_total{"):
                labels, _, count = line.rpartition(" ")
                name = labels.partition('outcome="')[2].partition('"')[0]
                found[name] = found.get(name, 0) + int(float(count))
        return found

    def pass_time(self, seconds: float) -> None:
        """Move the clock and let the engine's timers run out that have to."""
        self.clock.now += seconds
        self.gateway.clusters["pool"].sweep(self.clock.now)

    async def settled(self) -> None:
        """Wait until no request is in flight, which a leak would never let happen."""
        await eventually(lambda: self.inflight == 0)


async def read_event(client: RawClient) -> bytes:
    """Read chunks until they make a whole event."""
    got = b""
    while not got.endswith(b"\n\n"):
        got += await client.piece()
    return got


async def ask_past_commit(
    rig: Rig, turn: Turn, request: dict[str, object], path: str = "/v1/chat/completions"
) -> bytes:
    """Send a request whose script waits at `turn` after its first event; return the body."""
    async with rig.client() as client:
        client.send(post(request, path))
        head = await client.head()
        assert head.status == 200
        body = await read_event(client)
        turn.go.set()
        while piece := await client.piece():
            body += piece
        return body


async def eventually(true: Any, patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition that nobody signals; fail if it does not come about."""
    async with asyncio.timeout(patience_s):
        while not true():  # noqa: ASYNC110  the condition is the state of code under test
            await asyncio.sleep(0.001)


def configure(url: str, cluster: dict[str, Any], server: dict[str, Any]) -> Config:
    # Probes and looks at the models are far apart: these tests count what an engine receives.
    rare = {"interval_s": 3600}
    return Config.model_validate(
        {
            "server": {"host": "127.0.0.1", "port": 0, "drain_s": 1, "admin": None, **server},
            "clusters": {
                "pool": {
                    "endpoints": [{"url": url}],
                    "health": {**rare, "metrics_path": None},
                    **ONCE,
                    **cluster,
                }
            },
            "models": MODELS,
            "logging": {"access": None},
            "discovery": rare,
        }
    )


@asynccontextmanager
async def rig(
    host: Host,
    *scripts: Script,
    cluster: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    base_path: str = "",
) -> AsyncIterator[Rig]:
    """Run a gateway; afterwards nothing may be in flight, no connection left, no error unheard."""
    clock = ManualClock()
    defects: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: defects.append(context))
    async with Engine(*(scripts or [[response()]])) as engine:
        config = configure(engine.url + base_path, cluster or {}, server or {})
        gateway = Gateway(config, clock)
        gateway.clusters["pool"].endpoints[0].probed(True, 0.0)
        running = Rig(engine, gateway, clock)
        host_it = _protocol if host is Host.PROTOCOL else _asgi
        async with host_it(gateway) as running.port:
            yield running
            await running.settled()
        await eventually(lambda: running.open_upstream == 0)
    assert not defects


@asynccontextmanager
async def _protocol(gateway: Gateway) -> AsyncIterator[int]:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    thresholds = gc.get_threshold()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(gateway.run(ready.set_result, signals=False))
        try:
            async with asyncio.timeout(PATIENCE_S):
                url = await ready
            yield int(url.rpartition(":")[2])
            await asyncio.sleep(
                0.002
            )  # uvicorn waits 0.1 s if a client's leaving is not yet heard.
        finally:
            running.cancel()
            gc.set_threshold(*thresholds)


@asynccontextmanager
async def _asgi(gateway: Gateway) -> AsyncIterator[int]:
    app = DataPlaneApp(gateway.app, ROUTES, gateway.proxy.serve, gateway.proxy.refuse, Limits())
    # uvicorn's own protocol, without its server, which looks only ten times a second for its end.
    config = uvicorn.Config(app, log_config=None, lifespan="off", server_header=False)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
    listener = await asyncio.get_running_loop().create_server(
        lambda: HttpToolsProtocol(config, state, {}), "127.0.0.1", 0
    )
    try:
        yield listener.sockets[0].getsockname()[1]
        await eventually(lambda: not state.tasks)
    finally:
        listener.close()
        for connection in list(state.connections):
            connection.transport.abort()  # type: ignore[union-attr]  # no WebSockets here
        gateway.close()
    await eventually(lambda: not state.connections)

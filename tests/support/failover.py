"""The real gateway between several scripted engines and raw clients, on a manual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

from gateway.app import Gateway
from gateway.config.spec import Config
from tests.support.control import ManualClock
from tests.support.engine import Engine, Script
from tests.support.raw import Answer, RawClient, post
from tests.support.rig import CHAT, _protocol, eventually

SETTLED_S = 3600.0
"""How long ago the endpoints became healthy: their slow start is over."""


@dataclass
class Failover:
    """A running gateway with engines behind its clusters."""

    gateway: Gateway
    clock: ManualClock
    engines: list[Engine]
    """Those of the cluster `pool`, in the order in which they are asked."""
    others: list[Engine]
    """Those of the cluster `other`."""
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
    def asked(self) -> list[int]:
        """How many requests each engine of `pool` has had."""
        return [len(engine.requests) for engine in self.engines]

    @property
    def inflight(self) -> int:
        clusters = self.gateway.clusters.values()
        held = sum(one.inflight for cluster in clusters for one in cluster.endpoints)
        return held + sum(cluster.gate.inflight for cluster in clusters)

    @property
    def open_upstream(self) -> int:
        """Connections to engines that are open now, idle ones included."""
        clusters = self.gateway.clusters.values()
        return sum(one.open_connections for each in clusters for one in each.clients.values())

    def pass_time(self, seconds: float) -> None:
        """Move the clock and let the timers run out that have to."""
        self.gateway.lag.limit(inf)  # Else the jump would be a late event loop.
        self.clock.now += seconds
        self.gateway.fleet.sweep(self.clock.now)
        self.gateway.proxy.pulse.sweep(self.clock.now)

    def metric(self, name: str, **labels: str) -> float:
        """Return one sample; 0 where there is none."""
        text = self.gateway.view.metrics_text()[0].decode()
        for line in text.splitlines():
            if line.startswith(f"{name}{{") and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                return float(line.rpartition(" ")[2])
        return 0.0


@asynccontextmanager
async def failover(
    *engines: Sequence[Script],
    others: Sequence[Sequence[Script]] = (),
    cluster: dict[str, Any] | None = None,
    models: dict[str, Any] | None = None,
    max_model_len: dict[str, int] | None = None,
    make: Callable[..., Engine] = Engine,
) -> AsyncIterator[Failover]:
    """Run a gateway whose model `m` is served by an engine for each list of scripts, in turn.

    `others` are the engines of the cluster `other`, whose model is `o`; `max_model_len` is what
    the first engine of a cluster says of its model. `make` makes an engine of each list. Afterwards
    nothing may be held.
    """
    clock = ManualClock()
    rare = {"interval_s": 3600, "metrics_path": None}
    defects: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: defects.append(context))
    async with AsyncExitStack() as stack:

        async def start(scripts: Sequence[Sequence[Script]]) -> list[Engine]:
            return [await stack.enter_async_context(make(*one)) for one in scripts]

        first, second = await start(engines), await start(others)
        common = {"health": rare, "balancer": "round_robin", "slow_start_s": 0, **(cluster or {})}
        clusters = {"pool": {"endpoints": [{"url": one.url} for one in first], **common}}
        if second:
            clusters["other"] = {"endpoints": [{"url": one.url} for one in second], **common}
        served = {"m": {"cluster": "pool"}} | ({"o": {"cluster": "other"}} if second else {})
        config = Config.model_validate(
            {
                "server": {"host": "127.0.0.1", "port": 0, "drain_s": 1, "admin": None},
                "clusters": clusters,
                "models": {**served, **(models or {})},
                "logging": {"access": None},
                "discovery": {"interval_s": 3600},
            }
        )
        gateway = Gateway(config, clock)
        for each in gateway.clusters.values():
            for endpoint in each.endpoints:
                endpoint.probed(True, clock.now - SETTLED_S)
        running = Failover(gateway, clock, first, second)
        async with _protocol(gateway) as running.port:
            for name, length in (max_model_len or {}).items():
                owner = gateway.clusters["pool" if name == "m" else "other"]
                await eventually(lambda owner=owner: len(owner.models) == len(owner.endpoints))
                owner.listed(owner.endpoints[0], [{"id": name, "max_model_len": length}])
            gateway.live.recompile()
            yield running
            await eventually(lambda: running.inflight == 0)
    assert not defects

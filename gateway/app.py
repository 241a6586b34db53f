"""How is a gateway put together from its configuration, run, and taken down?

The composition root: the only module that constructs. Everything else is handed what it needs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from random import Random

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from gateway.api.routes import ROUTES
from gateway.clock import Clock, SystemClock
from gateway.config.spec import Config
from gateway.control.app import build
from gateway.host import Ready, background_tasks, bind, handle_signals, make_server, url_of
from gateway.plan.compile import compile_table
from gateway.plan.table import Table
from gateway.proxy import Proxy
from gateway.telemetry.logs import AccessLog
from gateway.telemetry.metrics import LoopTasks, Metrics
from gateway.telemetry.record import Record, Recorder, line_of
from gateway.upstream.cluster import Cluster
from gateway.view import InProcess, View
from gateway.wire.downstream import Plane, sweep_connections
from gateway.wire.guard import Limits

_LOG = logging.getLogger("sluice")

UPSTREAM_SWEEP_S = 0.25
"""How finely engine timers are kept; the shortest default is 2 s."""

DOWNSTREAM_SWEEP_S = 1.0
"""How finely client timers are kept; the shortest default is 15 s."""


class Gateway:
    """One gateway process."""

    def __init__(self, config: Config, clock: Clock) -> None:
        """Build every part; nothing is opened but the access log. Raises `OSError` for files."""
        self.config = config
        self._clock = clock
        self._rng = Random()  # noqa: S311  request ids and jitter, nothing secret
        self.clusters = {
            name: Cluster(name, spec, clock.monotonic) for name, spec in config.clusters.items()
        }
        self.table = compile_table(config, self.clusters, Table({}))
        self.metrics = Metrics(self._inflight)
        self._log: AccessLog[Record] | None = (
            AccessLog(config.logging.access, line_of) if config.logging.access else None
        )
        server = config.server
        self._limits = Limits(
            header_bytes=server.max_header_bytes,
            headers=server.max_headers,
            body_bytes=server.max_body_bytes,
            json_depth=server.max_json_depth,
            head_timeout_s=server.head_timeout_s,
            body_timeout_s=server.body_timeout_s,
        )
        self.proxy = Proxy(
            lambda: self.table,
            Recorder(self.metrics, self._log, clock),
            clock,
            self._rng,
            server.max_json_depth,
        )
        self.view = View(lambda: self.table, self.clusters, self._registry(), clock)
        self.app = build(
            self.view,
            InProcess(self.proxy.serve, self._limits),
            clock=clock,
            data_routes={path.decode(): "POST" for path in ROUTES},
            max_body_bytes=server.max_body_bytes,
        )

    def _inflight(self) -> Iterator[tuple[str, str, int]]:
        for cluster in self.clusters.values():
            for endpoint in cluster.endpoints:
                yield cluster.name, endpoint.id, endpoint.inflight

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(self.metrics)
        registry.register(LoopTasks())
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        return registry

    def recompile(self) -> None:
        """Swap in the table of what the endpoints list now."""
        self.table = compile_table(self.config, self.clusters, self.table)
        _LOG.info("models: %s", ", ".join(sorted(self.table.plans)) or "none yet")

    async def run(self, ready: Ready | None = None, *, signals: bool = True) -> None:
        """Serve until told to stop. Raises `OSError` if the port cannot be had."""
        config = self.config.server
        listener = bind(config.host, config.port)
        plane = Plane(
            ROUTES, self.proxy.serve, self.proxy.refuse, self._limits, config.keep_alive_s
        )
        url = url_of(listener, config)

        def started() -> None:
            _LOG.info("listening on %s", url)
            if ready is not None:
                ready(url)

        server = make_server(config, self.app, plane, started)
        async with AsyncExitStack() as stack:
            if signals:  # First in, so that they are heard until everything else is down.
                stack.enter_context(handle_signals(server, self.view.drain))
            stack.callback(self.close)
            stack.callback(listener.close)
            start = await stack.enter_async_context(background_tasks())
            for cluster in self.clusters.values():
                http = await stack.enter_async_context(cluster.probe_client())
                health, discovery = cluster.spec.health, self.config.discovery
                for watch in cluster.watches(http, self._rng, self.recompile):
                    start(watch.probe_forever(health.path, health.interval_s, health.timeout_s))
                    start(watch.list_forever(discovery.interval_s, discovery.timeout_s))
            start(self._sweep_forever(server))
            tune_gc()
            try:
                await server.serve(sockets=[listener])
            finally:
                await server.stop_now()  # Nothing is left to stop, unless we were cancelled.

    def close(self) -> None:
        """Drop every connection and write the log out."""
        for cluster in self.clusters.values():
            cluster.close()
        if self._log is not None:
            self._log.close()

    async def _sweep_forever(self, server: uvicorn.Server) -> None:
        loop = asyncio.get_running_loop()
        next_downstream = 0.0
        while True:
            await asyncio.sleep(UPSTREAM_SWEEP_S)
            now = self._clock.monotonic()
            for cluster in self.clusters.values():
                cluster.sweep(now)
            if now >= next_downstream:
                next_downstream = now + DOWNSTREAM_SWEEP_S
                sweep_connections(server.server_state.connections, loop.time())


def tune_gc() -> None:
    """Keep the collector off what lives for ever, and rare for what does not.

    Requests hardly make cycles: reference counts free them. With the defaults (700, 10, 10) a
    full collection walks every live stream several times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def serve(config: Config) -> int:
    """Run a gateway until a signal ends it; return the exit code."""
    level = logging.getLevelNamesMapping()[config.logging.level.upper()]
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Every probe would be a line of it.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        gateway = Gateway(config, SystemClock())
        uvloop.run(gateway.run())
    except OSError as error:
        _LOG.error("%s", error)
        return 1
    return 0


async def run_endpoints(
    urls: Sequence[str], host: str, port: int, ready: Ready | None = None
) -> None:
    """Run a gateway in front of `urls` in this event loop, until a signal ends it.

    Raises `OSError` if the port cannot be had.
    """
    config = Config.from_endpoints(urls, host, port, access=None)
    await Gateway(config, SystemClock()).run(ready)

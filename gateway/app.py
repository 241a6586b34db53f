"""How is a gateway put together from its configuration, run, and taken down?

The composition root: the only module that constructs. Everything else is handed what it needs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from gateway.admit.lag import LoopLag
from gateway.api.routes import ROUTES
from gateway.clock import Clock, SystemClock
from gateway.config.reloads import ReloadResult
from gateway.config.spec import Config
from gateway.config.watch import FileSource, watch_forever
from gateway.control.admin import build_admin
from gateway.control.app import build
from gateway.dispatch.explanation import Explainer
from gateway.dispatch.mirror import Mirrors
from gateway.dispatch.shared import Shared
from gateway.errors import shutting_down
from gateway.gauges import Gauges
from gateway.host import (
    Hooks,
    HostedServer,
    Ready,
    background_tasks,
    bind,
    handle_signals,
    make_server,
    url_of,
)
from gateway.operators import Crossing, Heartbeat, serve_operators
from gateway.plan.live import Live
from gateway.plan.table import Table
from gateway.proxy import Proxy
from gateway.releases.member import Counted, Member
from gateway.releases.mirrored import Mirrored
from gateway.releases.overview import Overview
from gateway.releases.scores import Scores
from gateway.store.connect import store_at
from gateway.telemetry.arms import ArmTallies
from gateway.telemetry.generation import ConfigGauges
from gateway.telemetry.logs import AccessLog
from gateway.telemetry.metrics import LoopTasks, Metrics
from gateway.telemetry.record import Record, Recorder, line_of
from gateway.view import Commands, InProcess, Steering, View
from gateway.wire.downstream import Plane, sweep_connections
from gateway.wire.guard import Limits
from gateway.wire.types import UpstreamError
from gateway.workers.seat import Seat
from gateway.workers.worker import Worker

_LOG = logging.getLogger("sluice")

UPSTREAM_SWEEP_S = 0.1
"""How finely engines' and clients' time is kept: 500 connections take 0.2 % of a core."""

DOWNSTREAM_SWEEP_S = 1.0
"""How finely client timers are kept; the shortest default is 15 s."""


class Gateway:
    """One gateway process."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        source: FileSource | None = None,
        worker: Worker | None = None,
    ) -> None:
        """Build every part; nothing is opened but the access log. Raises `OSError` for files.

        `source` is where `config` came from, and where a reload reads another one. `worker` says
        which of several processes this is; None if it is the only one.
        """
        self._worker = worker
        self._clock = clock
        self._rng = Random()  # noqa: S311  request ids and jitter, nothing secret
        self.live = Live(config, source, clock, self._rng)
        self.fleet = self.live.fleet
        self.clusters = self.fleet.clusters
        self.heart = Heartbeat(clock.monotonic)
        self.lag = LoopLag(config.server.max_event_loop_lag_s)
        self.metrics = Metrics(self._inflight)
        self._log: AccessLog[Record] | None = (
            AccessLog(config.logging.access, line_of if worker is None else worker.line_of(line_of))
            if config.logging.access
            else None
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
        self.shared = Shared(lambda: self.live.table, self.metrics, clock, self._rng)
        self._recorder = Recorder(self.metrics, self._log, clock)
        mirrored = Mirrored()
        self.mirrors = Mirrors(self.shared, self.lag, mirrored.heard)
        self.releases = Member(
            store_at(config.store, clock),
            lambda: self.live.rules,
            Counted(self._recorder.tallies, mirrored),
            clock,
            self._rng,
        )
        self.live.rules_changed = self.releases.follow
        shared = None if config.store == "memory:" else self.releases.shared
        self.scores = Scores(self._recorder.remembered, shared)
        self.proxy = Proxy(
            self.shared,
            self._recorder,
            self._rng,
            server.max_json_depth,
            shows_route=server.route_header,
        )
        self.proxy.mirrors = self.mirrors
        self.registry = self._registry()
        self.view = View(
            lambda: self.table, self.clusters, self.registry, clock, lambda: self.generation
        )
        self.app = build(
            self.view,
            InProcess(self.proxy.serve, self._limits),
            clock=clock,
            data_routes={path.decode(): "POST" for path in ROUTES},
            max_body_bytes=server.max_body_bytes,
            scores=self.scores,
        )
        if worker is not None:
            worker.together(self.app, self.view)
            self._recorder.generation = self.live.reloads.begin_at(worker.seat.generation)

    def _inflight(self) -> Iterator[tuple[str, str, int]]:
        for cluster in self.clusters.values():
            for endpoint in cluster.endpoints:
                yield cluster.name, endpoint.id, endpoint.inflight

    def _registry(self) -> CollectorRegistry:
        registry = CollectorRegistry()
        registry.register(self.metrics)
        registry.register(Gauges(self.clusters, self.lag, self._clock.monotonic))
        registry.register(self.mirrors)
        registry.register(LoopTasks())
        registry.register(ConfigGauges(lambda: self.generation, lambda: self.live.reloads.ok))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        return registry

    @property
    def config(self) -> Config:
        """The configuration in effect."""
        return self.live.config

    @property
    def tallies(self) -> ArmTallies:
        """What each arm of a policy has done in this process."""
        return self._recorder.tallies

    @property
    def table(self) -> Table:
        """Every name that clients may use now."""
        return self.live.table

    @property
    def generation(self) -> int:
        """The number of the configuration in effect; 1 is the first."""
        return self.live.reloads.generation

    async def reload(self) -> ReloadResult:
        """Take over the configuration file as it is now; count and return what came of it."""
        result = await self.live.reload()
        self.metrics.count("sluice_config_reloads", result.result)
        self._recorder.generation = self.generation
        return result

    async def _reload_at(self, hung_up: asyncio.Event) -> None:
        while True:
            await hung_up.wait()
            hung_up.clear()
            _LOG.info("SIGHUP: reading the configuration again")
            await self.reload()

    async def run(self, ready: Ready | None = None, *, signals: bool = True) -> None:
        """Serve until told to stop. Raises `OSError` if the port cannot be had."""
        config, worker = self.config.server, self._worker
        listener = bind(config.host, config.port) if worker is None else worker.bind(config.host)
        plane = Plane(
            ROUTES, self.proxy.serve, self.proxy.refuse, self._limits, config.keep_alive_s
        )
        url = url_of(listener, config)

        def started() -> None:
            if worker is None:
                _LOG.info("listening on %s", url)
            else:
                worker.listening = True  # The parent says so when all are.
            if ready is not None:
                ready(url)

        def closing() -> None:
            self.view.close()
            self.mirrors.stop()

        hooks = Hooks(started, self.view.drain, closing, self.force)
        server = make_server(config, self.app, plane, hooks)
        hung_up = asyncio.Event()
        async with AsyncExitStack() as stack:
            if signals:  # First in, so that they are heard until everything else is down.
                stack.enter_context(handle_signals(server, hung_up.set))
            stack.callback(self.close)
            await stack.enter_async_context(self.mirrors)
            stack.callback(listener.close)
            await stack.enter_async_context(self._operators(server))
            start = await stack.enter_async_context(background_tasks())
            start(self.heart.beat_forever(self._tick))
            start(self.releases.run())
            start(self.scores.pull_forever())
            await stack.enter_async_context(self.live.watches)
            self.live.follow()
            source = self.live.source
            if source is not None and config.watch:
                start(watch_forever(source, self.reload))
            start(self._reload_at(hung_up))
            start(self._sweep_forever(server))
            await self.releases.catch_up()
            tune_gc()
            if worker is not None:
                start(worker.until_orphaned(server.leave))
                await worker.until_served(self.view, lambda: server.should_exit)
            try:
                await server.serve(sockets=[listener])
            finally:
                await server.stop_now()  # Nothing is left to stop, unless we were cancelled.

    @asynccontextmanager
    async def _operators(self, server: HostedServer) -> AsyncIterator[None]:
        """Serve the operators' listener, if there is to be one; as a worker, the parent."""
        admin, worker = self.config.server.admin, self._worker
        source = self.live.source
        steering = Steering(
            self.view,
            self.clusters,
            self.live.reloads,
            Commands(self.live.register, self.live.remove, self.reload, server.leave),
            self._clock.monotonic,
            str(source.file) if source is not None else None,
        )
        crossing = Crossing(asyncio.get_running_loop())
        overview = Overview(self.releases, lambda: self.live.rules)
        explainer = Explainer(lambda: self.table, self._clock.monotonic, self._limits)
        if worker is not None:
            app = build_admin(steering, crossing, self.heart, None, overview, explainer)
            ways = crossing, self.heart
            async with worker.answer_parent(app, self.view, self.registry, ways):
                yield
        elif admin is not None:
            token = admin.token.get_secret_value() if admin.token is not None else None
            app = build_admin(steering, crossing, self.heart, token, overview, explainer)
            async with serve_operators(admin, app):
                yield
        else:
            yield

    def force(self) -> None:
        """End every request under way with its error: the gateway waits no longer."""
        self.shared.stop()
        self._fail()

    def _fail(self) -> None:
        self.fleet.fail(UpstreamError(shutting_down().message))

    def close(self) -> None:
        """Drop every connection and write the log out."""
        self.fleet.close()
        if self._log is not None:
            self._log.close()

    def _tick(self, due: float, at: float) -> None:
        """Shed new work while the event loop runs too late."""
        if self.lag.tick(due, at):
            _LOG.warning(
                "the event loop is %.1f s late: %s",
                self.lag.peak_s,
                "new requests are refused" if self.lag.shedding else "it takes new requests again",
            )
        self.shared.shed_s = self.lag.retry_after_s() if self.lag.shedding else 0

    async def _sweep_forever(self, server: uvicorn.Server) -> None:
        loop = asyncio.get_running_loop()
        next_downstream = 0.0
        while True:
            await asyncio.sleep(UPSTREAM_SWEEP_S)
            now = self._clock.monotonic()
            self.mirrors.sweep()
            for gone in self.fleet.sweep(now):
                self.metrics.forget(*gone)
            if self.shared.stopping:
                self._fail()  # What had not come to an engine when all the others were ended.
            self.live.refresh()
            if now >= next_downstream:
                next_downstream = now + DOWNSTREAM_SWEEP_S
                self.proxy.pulse.sweep(now)
                sweep_connections(server.server_state.connections, loop.time())


def tune_gc() -> None:
    """Keep the collector off what lives for ever, and rare for what does not.

    Requests hardly make cycles: reference counts free them. With the defaults (700, 10, 10) a
    full collection walks every live stream several times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def serve(config: Config, source: FileSource | None = None, seat: Seat | None = None) -> int:
    """Run a gateway until a signal ends it; return the exit code.

    `source` is the file that `config` came from, if it is to be read again; `seat` is this
    process' place if it is one of several workers.
    """
    level = logging.getLevelNamesMapping()[config.logging.level.upper()]
    who = "" if seat is None else f" worker {seat.number}"
    logging.basicConfig(
        level=level,
        stream=sys.stderr,
        format=f"%(asctime)s %(levelname)s{who} %(name)s: %(message)s",
    )
    # Every probe would be a line of it.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        worker = None if seat is None else Worker(seat)
        gateway = Gateway(config, SystemClock(), source, worker)
        uvloop.run(gateway.run())
    except OSError as error:
        _LOG.error("%s", error)
        return 1
    return 0


async def run_endpoints(
    urls: Sequence[str],
    host: str,
    port: int,
    ready: Ready | None = None,
    *,
    vision: Sequence[str] = (),
) -> None:
    """Run a gateway in front of `urls` in this event loop, until a signal ends it.

    `vision` are the URLs of vision services. Raises `OSError` if the port cannot be had.
    """
    config = Config.from_endpoints(urls, host, port, access=None, vision=vision)
    # Nobody who looks at its readiness has to turn away first.
    server = config.server.model_copy(update={"drain_delay_s": 0})
    await Gateway(config.model_copy(update={"server": server}), SystemClock()).run(ready)

"""What do the control routes see of a running gateway, and how do they ask through it?

The implementations of the interfaces in `gateway.control.view`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from gateway import __version__
from gateway.api.routes import ROUTES
from gateway.clock import Clock
from gateway.config.reloads import ReloadResult, Reloads
from gateway.control.operations import ConfigState, EndpointState, Registration, Reloaded
from gateway.control.view import Answer, CutError, EndpointView, ModelView
from gateway.plan.table import Table
from gateway.upstream.cluster import Cluster
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.fleet import Term
from gateway.wire.guard import Headers, Limits, read_head
from gateway.wire.queued import AbortedError, QueuedDownstream, ask
from gateway.wire.types import Request, Serve

_LOG = logging.getLogger("sluice")

# What /v1/models entries have beside an engine's own fields; those win where it gave them.
_OWN_FIELDS = frozenset({"id", "object", "created", "owned_by"})


class View:
    """`gateway.control.view.GatewayView` over the real parts."""

    version = __version__

    def __init__(
        self,
        table: Callable[[], Table],
        clusters: Mapping[str, Cluster],
        registry: CollectorRegistry,
        clock: Clock,
        generation: Callable[[], int],
    ) -> None:
        self._table = table
        self._generation = generation
        self._clusters = clusters
        self._registry = registry
        self._clock = clock
        self._started_at = clock.monotonic()
        self._created = int(clock.wall())
        self.draining = False
        self._closing = asyncio.Event()

    @property
    def generation(self) -> int:
        """The number of the configuration in effect."""
        return self._generation()

    def drain(self) -> None:
        """Say from now on that the gateway is going away."""
        self.draining = True

    def close(self) -> None:
        """Let `closing` return."""
        self._closing.set()

    async def closing(self) -> None:
        """Return when the listener has closed and connections should end."""
        await self._closing.wait()

    def models(self) -> Sequence[ModelView]:
        """Return every name that clients may use, aliases included."""
        views: list[ModelView] = []
        for name, entry in self._table().entries.items():
            metadata = entry.metadata
            kept = {key: value for key, value in metadata.items() if key not in _OWN_FIELDS}
            created, owner = metadata.get("created"), metadata.get("owned_by")
            views.append(
                ModelView(
                    name,
                    created if isinstance(created, int) else self._created,
                    owner if isinstance(owner, str) else "sluice",
                    kept,
                    entry.kind,
                )
            )
        return views

    def endpoints(self) -> Sequence[EndpointView]:
        """Return every endpoint of every cluster."""
        now = self._clock.monotonic()
        names: dict[tuple[str, str], list[str]] = {}
        for name, plan in self._table().plans.items():
            for endpoint in plan.pool.endpoints:
                names.setdefault((plan.pool.cluster, endpoint.id), []).append(name)
        return [
            EndpointView(
                endpoint.id,
                cluster.name,
                endpoint.url,
                endpoint.available(now),
                endpoint.inflight,
                tuple(names.get((cluster.name, endpoint.id), ())),
            )
            for cluster in self._clusters.values()
            for endpoint in cluster.endpoints
        ]

    def uptime_s(self) -> float:
        """Seconds since the gateway was made."""
        return self._clock.monotonic() - self._started_at

    def metrics_text(self) -> tuple[bytes, str]:
        """Return the exposition of all metrics."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


class InProcess:
    """`gateway.control.view.Ask`: the data path for the gateway's own routes."""

    def __init__(self, serve: Serve, limits: Limits) -> None:
        self._serve = serve
        self._limits = limits

    def __call__(
        self, path: str, headers: Headers, body: bytes, client: str
    ) -> AbstractAsyncContextManager[Answer]:
        """Send one POST to a data-plane route. Raises `GatewayError` for a bad head."""
        return self._ask(path, headers, body, client)

    @asynccontextmanager
    async def _ask(
        self, path: str, headers: Headers, body: bytes, client: str
    ) -> AsyncIterator[Answer]:
        # The host is ours: the client's own was checked on its way in.
        head = read_head([(b"host", b"in-process"), *headers], self._limits)
        request = Request(ROUTES[path.encode()], head, body, client)
        async with ask(self._serve, request) as down:
            status, fields = await down.head()
            yield Answer(status, fields, _pieces(down))


async def _pieces(down: QueuedDownstream) -> AsyncIterator[bytes]:
    try:
        async for piece in down.pieces():
            yield piece
    except AbortedError:
        raise CutError from None


@dataclass(frozen=True, slots=True)
class Commands:
    """What operators may have done; `gateway.app` says how."""

    register: Callable[[str, str, Term], str]
    remove: Callable[[str, str], None]
    reload: Callable[[], Coroutine[Any, Any, ReloadResult]]
    drain: Callable[[], None]


class Steering:
    """`gateway.control.operations.Operations` over the real parts."""

    def __init__(
        self,
        view: View,
        clusters: Mapping[str, Cluster],
        reloads: Reloads,
        commands: Commands,
        monotonic: Callable[[], float],
        file: str | None,
    ) -> None:
        self.metrics_text = view.metrics_text
        self.drain = commands.drain
        self._clusters = clusters
        self._reloads = reloads
        self._commands = commands
        self._monotonic = monotonic
        self._file = file

    def endpoints(self) -> Sequence[EndpointState]:
        """Return every endpoint of every cluster."""
        now = self._monotonic()
        return [
            _state_of(cluster, endpoint, now)
            for cluster in self._clusters.values()
            for endpoint in cluster.endpoints
        ]

    def set_draining(self, cluster: str, endpoint: str, draining: bool) -> None:
        """Take an endpoint out, or back in; nothing if it is no longer there."""
        found = self._clusters[cluster]
        for one in found.endpoints:
            if one.id == endpoint and draining:
                one.drain()
            elif one.id == endpoint:
                one.undrain(self._monotonic())
                found.gate.poke()  # Who waits for a place may have it there.
        _LOG.info("endpoint %s is %s", endpoint, "draining" if draining else "no longer draining")

    def register(self, registration: Registration) -> str:
        """Let an endpoint join or stay; return its id. Raises `GatewayError`."""
        term = Term(registration.weight, registration.max_inflight, registration.ttl_s)
        return self._commands.register(registration.cluster, registration.url, term)

    def remove(self, cluster: str, endpoint: str) -> None:
        """End a registration. Raises `GatewayError`."""
        self._commands.remove(cluster, endpoint)

    async def reload(self) -> Reloaded:
        """Take over the configuration file as it is now."""
        done = await self._commands.reload()
        changes = tuple(str(change) for change in done.changes)
        return Reloaded(done.result, done.generation, changes, done.problems)

    def config(self) -> ConfigState:
        """Return which configuration is in effect."""
        reloads = self._reloads
        return ConfigState(reloads.generation, self._file, reloads.loaded_at, reloads.last.problems)


def _state_of(cluster: Cluster, endpoint: Endpoint, now: float) -> EndpointState:
    expires_at = cluster.registered.expires_at(endpoint.id)
    return EndpointState(
        id=endpoint.id,
        cluster=cluster.name,
        url=endpoint.url,
        state=endpoint.state(now),
        health=endpoint.health,
        breaker=endpoint.breaker.state,
        ejected=now < endpoint.ejected_until,
        draining=endpoint.draining,
        ramp=round(endpoint.ramp(now), 3),
        weight=endpoint.weight,
        inflight=endpoint.inflight,
        max_inflight=endpoint.max_inflight,
        load=round(endpoint.load(now), 3),
        first_token_ms=_ms(endpoint.latency(True, now)),
        whole_ms=_ms(endpoint.latency(False, now)),
        models=endpoint.models,
        expires_in_s=None if expires_at is None else round(expires_at - now, 3),
    )


def _ms(seconds: float) -> float | None:
    return round(1000 * seconds, 3) if seconds else None

"""Who looks after which endpoint, while endpoints come and go?

Two tasks for each endpoint: one probes, one lists models. `follow` starts and ends them, so that
each endpoint has the two that its configuration asks for, and no task outlives its endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any, Self

import httpx

from gateway.config.cluster import Health
from gateway.config.spec import Discovery
from gateway.upstream.cluster import Cluster
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.health import ModelEntry, Watch
from gateway.upstream.trust import Trust

_Key = tuple[str, Endpoint]


@dataclass(frozen=True, slots=True)
class _Access:
    """The HTTP client of a cluster's watches, and what it was made for."""

    http: httpx.AsyncClient
    trust: Trust
    key: object


@dataclass(frozen=True, slots=True)
class _Pair:
    """The tasks of one endpoint, and what they were started with."""

    tasks: tuple[asyncio.Task[None], ...]
    health: Health
    discovery: Discovery
    http: httpx.AsyncClient


class Watches:
    """All tasks that look after endpoints. Enter it to have a place for them to run in."""

    def __init__(
        self, rng: Random, monotonic: Callable[[], float], on_models: Callable[[], None]
    ) -> None:
        """`on_models` hears when what an endpoint lists has changed."""
        self._rng = rng
        self._monotonic = monotonic
        self._on_models = on_models
        self._group = asyncio.TaskGroup()
        self._pairs: dict[_Key, _Pair] = {}
        self._access: dict[str, _Access] = {}
        self._open = False

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self._open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every task and close every HTTP client."""
        self.follow((), Discovery())
        self._open = False
        # The tasks have been told to end, but the one that closes the HTTP clients must come to it,
        # even if the gateway's own task is being cancelled.
        await self._group.__aexit__(None, None, None)

    def follow(self, clusters: Iterable[Cluster], discovery: Discovery) -> None:
        """Bring the tasks in line with the clusters as they are now; before and after, nothing."""
        if not self._open:
            return
        ended: list[asyncio.Task[None]] = []
        pairs, access = self._pairs, self._access
        self._pairs, self._access = {}, {}
        for cluster in clusters:
            found = self._access[cluster.name] = self._reach(cluster, access)
            for endpoint in cluster.endpoints:
                key = (cluster.name, endpoint)
                pair = pairs.pop(key, None)
                wanted = (cluster.spec.health, discovery, found.http)
                if pair is not None and (pair.health, pair.discovery, pair.http) == wanted:
                    self._pairs[key] = pair
                    continue
                if pair is not None:
                    ended.extend(pair.tasks)
                self._pairs[key] = self._start(cluster, endpoint, discovery, found.http)
        for pair in pairs.values():
            ended.extend(pair.tasks)
        for task in ended:
            task.cancel()
        kept = {one.http for one in self._access.values()}
        gone = [one.http for one in access.values() if one.http not in kept]
        if gone:
            self._group.create_task(_close(gone, ended))

    def _reach(self, cluster: Cluster, access: dict[str, _Access]) -> _Access:
        known, key = access.get(cluster.name), cluster.spec.api_key
        if known is not None and known.trust is cluster.trust and known.key == key:
            return known
        return _Access(cluster.probe_client(), cluster.trust, key)

    def _start(
        self, cluster: Cluster, endpoint: Endpoint, discovery: Discovery, http: httpx.AsyncClient
    ) -> _Pair:
        def listed(endpoint: Endpoint, entries: list[ModelEntry]) -> None:
            if cluster.listed(endpoint, entries):
                self._on_models()

        health = cluster.spec.health
        watch = Watch(endpoint, http, self._rng, self._monotonic, listed, health.metrics_path)
        start = self._group.create_task
        tasks = (
            start(watch.probe_forever(health.path, health.interval_s, health.timeout_s)),
            start(watch.list_forever(discovery.interval_s, discovery.timeout_s)),
        )
        return _Pair(tasks, health, discovery, http)


async def _close(clients: list[httpx.AsyncClient], users: list[asyncio.Task[Any]]) -> None:
    """Close HTTP clients once the tasks that used them have ended."""
    if users:
        await asyncio.wait(users)
    for client in clients:
        await client.aclose()

"""What does one configured cluster consist of at run time, and what of it lives on over a reload?

The gate, the endpoints with all that is known of them, and their connections are kept, by the
endpoints' ids. An endpoint that goes starts no further request; its idle connections close at
once and its streams go on to their end.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from urllib.parse import urlsplit

import httpx

from gateway.admit.gate import Gate
from gateway.admit.queue import Queue
from gateway.config.cluster import Cluster as ClusterSpec
from gateway.upstream.balancer import BALANCERS, Balancer, BalancerSpec
from gateway.upstream.breaker import BreakerSpec
from gateway.upstream.discovery import Discovery, Members, Registered, Static, merge, settle
from gateway.upstream.endpoint import Endpoint, EndpointSpec, Peers
from gateway.upstream.health import ModelEntry
from gateway.upstream.outlier import Outliers, OutlierSpec
from gateway.upstream.pool import Pool, room
from gateway.upstream.trust import Trust, trust_of
from gateway.wire.types import UpstreamError
from gateway.wire.upstream import Address, Client


@dataclass(frozen=True, slots=True)
class _Leaving:
    """Connections that nothing new should go to."""

    endpoint: Endpoint
    client: Client
    until: float
    """By then every request that knows of them has reached its total time-out."""


class Cluster:
    """The endpoints of a cluster with their connections; pools are views of it."""

    def __init__(
        self,
        name: str,
        spec: ClusterSpec,
        monotonic: Callable[[], float],
        rng: Random | None = None,
        trust: Trust | None = None,
    ) -> None:
        """Raises `OSError` for a CA bundle that cannot be used, unless `trust` is given."""
        self.name = name
        self.spec = spec
        self.trust = trust or trust_of(spec, None)
        self.peers = Peers(Outliers(outlier_spec(spec)))
        self.endpoints: list[Endpoint] = []
        self.clients: dict[str, Client] = {}
        """By the endpoints' ids."""
        self.models: dict[str, list[ModelEntry]] = {}
        """What each endpoint (by id) last listed."""
        self.registered = Registered()
        self._monotonic = monotonic
        self._rng = rng or Random()  # noqa: S311  choices among equals, nothing secret
        self._sources: tuple[Discovery, ...] = ()
        self._answers: tuple[Members, ...] = ()
        self._members: Members = ()
        self._leaving: list[_Leaving] = []
        self._whole: Pool | None = None
        self._parts: dict[tuple[str, ...], Pool] = {}
        queue: Queue[Future[None]] = Queue(spec.queue.size, spec.queue.timeout_s)
        self.gate = Gate(name, spec.max_inflight, queue, None, self._rng)
        self.configure(spec, self.trust)

    def __repr__(self) -> str:
        return f"<Cluster {self.name}, {len(self.endpoints)} endpoints>"

    # Pools.

    def whole(self) -> Pool:
        """Return the pool of all endpoints: one object, whose members follow the cluster's.

        So a balancer's memory outlives a change, and a request that waits for its turn finds the
        endpoints that there are then.
        """
        if self._whole is None:
            self._whole = Pool(self, self.endpoints, self._balancer(), self._rng)
        return self._whole

    def part(self, endpoints: Sequence[Endpoint]) -> Pool:
        """Return the pool of some of the endpoints; the same one as long as they all stay."""
        key = tuple(endpoint.id for endpoint in endpoints)
        pool = self._parts.get(key)
        if pool is None:
            pool = self._parts[key] = Pool(self, endpoints, self._balancer(), self._rng)
        return pool

    # Configuration and membership.

    def configure(self, spec: ClusterSpec, trust: Trust) -> None:
        """Take over a new configuration, at once and without failing; state stays."""
        was, self.spec, self.trust = self.spec, spec, trust
        self.peers.outliers.spec = outlier_spec(spec)
        if (was.balancer, was.session) != (spec.balancer, spec.session):
            for pool in (self._whole, *self._parts.values()):
                if pool is not None:
                    pool.balancer = self._balancer()
        if not spec.registration:
            self.registered = Registered()
        self._sources = (Static(spec), self.registered)
        self._answers = ()
        self._adopt(self._settled(self._monotonic()))
        self.gate.limit(spec.max_inflight, spec.queue.size, spec.queue.timeout_s)

    def refresh(self, now: float) -> bool:
        """Ask the sources again; return whether the members changed. O(sources) if not."""
        answers = tuple(source.members(now) for source in self._sources)
        if all(map(lambda one, other: one is other, answers, self._answers)):
            return False
        members = self._settled(now)
        if members == self._members:
            return False
        self._adopt(members)
        self.gate.poke()
        return True

    def retire(self) -> None:
        """Let all endpoints go: the cluster is no longer configured."""
        self._sources = ()
        self._adopt(())

    @property
    def busy(self) -> bool:
        """Whether connections of endpoints that went are still in use."""
        return bool(self._leaving)

    def _settled(self, now: float) -> Members:
        self._answers = tuple(source.members(now) for source in self._sources)
        answer = merge(self._answers)
        return settle(self._members, answer, allow_empty=self.spec.allow_empty)

    def _adopt(self, members: Members) -> None:
        known = {endpoint.url: endpoint for endpoint in self.endpoints}
        clients, each = self.clients, endpoint_spec(self.spec)
        self._members, self.endpoints, self.clients = members, [], {}
        for member in members:
            endpoint, address = known.pop(member.url, None), self._address(member.url)
            if endpoint is None:
                endpoint = Endpoint(
                    member.url, member.weight, each, self.peers, member.max_inflight
                )
                client = Client(address, self._monotonic)
            else:
                endpoint.configure(member.weight, member.max_inflight, each)
                client = self._readdressed(endpoint, clients[endpoint.id], address)
            self.endpoints.append(endpoint)
            self.clients[endpoint.id] = client
        for endpoint in known.values():
            endpoint.drain()
            endpoint.retire()
            self._let_go(endpoint, clients[endpoint.id])
        self.models = {
            name: entries for name, entries in self.models.items() if name in self.clients
        }
        capped = any(endpoint.max_inflight for endpoint in self.endpoints)
        self.gate.room = self._room if capped else None
        self._rejoin()

    def _rejoin(self) -> None:
        """Bring the pools in line with the endpoints."""
        if self._whole is not None:
            if self._whole.endpoints and self.endpoints:
                self._whole.endpoints = tuple(self.endpoints)
                self._whole.key = (self.name, *self.clients)
                self.peers.revision += 1
            else:
                self._whole = None
        present = set(self.endpoints)
        self._parts = {
            key: pool for key, pool in self._parts.items() if present.issuperset(pool.endpoints)
        }

    def _readdressed(self, endpoint: Endpoint, client: Client, address: Address) -> Client:
        """Return the client for a new address of the same endpoint."""
        old = client.address
        if (old.credentials, old.tls) == (address.credentials, address.tls):
            client.address = address  # Times and limits: good from the next exchange on.
            return client
        # A connection that was opened in the old trust must not serve in the new one.
        self._let_go(endpoint, client)
        return Client(address, self._monotonic)

    def _let_go(self, endpoint: Endpoint, client: Client) -> None:
        now = self._monotonic()
        client.address = replace(client.address, max_idle=0)
        while (idle := client.take(now)) is not None:
            idle.close()
        self._leaving.append(_Leaving(endpoint, client, now + client.address.total_s))

    # Time and end.

    def sweep(self, now: float) -> list[str]:
        """Let each timer run out that has to; return the ids of the endpoints that are gone."""
        for client in self._all_clients():
            client.sweep(now)
        self.gate.sweep(now)
        gone = {one.endpoint.id for one in self._leaving}
        self._leaving = [one for one in self._leaving if _in_use(one, now)]
        gone -= {one.endpoint.id for one in self._leaving}
        return [name for name in gone if name not in self.clients]

    def fail(self, error: UpstreamError) -> None:
        """End every exchange under way with `error`, and every wait for a place."""
        for client in self._all_clients():
            client.fail(error)
        self.gate.end()

    def close(self) -> None:
        """Drop every connection."""
        for client in self._all_clients():
            client.close()

    def probe_client(self) -> httpx.AsyncClient:
        """Make the HTTP client for probes and discovery, which are no part of the data path."""
        key = self.spec.api_key
        headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        verify = self.trust.tls or False
        return httpx.AsyncClient(headers=headers, verify=verify, trust_env=False)

    def listed(self, endpoint: Endpoint, entries: list[ModelEntry]) -> bool:
        """Note which models an endpoint lists; return whether that is news."""
        if endpoint.id not in self.clients:
            return False
        endpoint.models = tuple(entry["id"] for entry in entries)  # It may be new, its id not.
        is_news = self.models.get(endpoint.id) != entries
        self.models[endpoint.id] = entries
        return is_news

    def _all_clients(self) -> list[Client]:
        return [*self.clients.values(), *(one.client for one in self._leaving)]

    def _balancer(self) -> Balancer:
        spec = BalancerSpec(self.spec.session.max_load)
        return BALANCERS[self.spec.balancer](spec, self._rng)

    def _room(self) -> int:
        return room(self.endpoints, self._monotonic())

    def _address(self, url: str) -> Address:
        parts = urlsplit(url)
        timeouts = self.spec.timeouts
        key = self.spec.api_key
        credentials = (
            b"authorization: Bearer %b\r\n" % key.get_secret_value().encode() if key else b""
        )
        return Address(
            host=parts.hostname or "",
            port=parts.port or (443 if parts.scheme == "https" else 80),
            base_path=parts.path.rstrip("/"),
            credentials=credentials,
            tls=self.trust.tls if parts.scheme == "https" else None,
            connect_s=timeouts.connect_s,
            first_byte_s=timeouts.first_token_s,
            idle_s=timeouts.idle_s,
            total_s=timeouts.total_s,
            max_idle=self.spec.max_idle_connections,
        )


def _in_use(one: _Leaving, now: float) -> bool:
    if one.client.open_connections:
        return True
    # One may be about to dial, in an attempt that was begun before.
    return one.endpoint.inflight > 0 and now < one.until


def endpoint_spec(spec: ClusterSpec) -> EndpointSpec:
    """Return what the configuration says of each endpoint."""
    breaker = spec.breaker
    return EndpointSpec(
        rise=spec.health.rise,
        fall=spec.health.fall,
        slow_start_s=spec.slow_start_s,
        breaker=BreakerSpec(breaker.failures, breaker.open_s, breaker.max_open_s),
    )


def outlier_spec(spec: ClusterSpec) -> OutlierSpec:
    """Return what the configuration says of outliers."""
    outliers = spec.outliers
    return OutlierSpec(
        failures=outliers.failures,
        min_success=outliers.min_success,
        min_requests=outliers.min_requests,
        eject_s=outliers.eject_s,
        max_eject_s=outliers.max_eject_s,
        max_ejected_percent=outliers.max_ejected_percent,
    )

"""What does one configured cluster consist of at run time?"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from random import Random
from urllib.parse import urlsplit

import httpx

from gateway.admit.gate import Gate
from gateway.admit.queue import Queue
from gateway.config.cluster import Cluster as ClusterSpec
from gateway.config.cluster import Endpoint as Replica
from gateway.upstream.balancer import BALANCERS, BalancerSpec
from gateway.upstream.breaker import BreakerSpec
from gateway.upstream.endpoint import Endpoint, EndpointSpec, Peers
from gateway.upstream.health import ModelEntry, Watch
from gateway.upstream.outlier import Outliers, OutlierSpec
from gateway.upstream.pool import Pool, room
from gateway.wire.upstream import Address, Client


class Cluster:
    """The endpoints of a cluster with their connections; pools are views of it."""

    def __init__(
        self,
        name: str,
        spec: ClusterSpec,
        monotonic: Callable[[], float],
        rng: Random | None = None,
    ) -> None:
        self.name = name
        self.spec = spec
        self._monotonic = monotonic
        self._rng = rng or Random()  # noqa: S311  choices among equals, nothing secret
        self._tls = tls_context(spec) if _needs_tls(spec) else None
        self.peers = Peers(Outliers(outlier_spec(spec)))
        each = endpoint_spec(spec)
        self.endpoints = [
            Endpoint(one.url, one.weight, each, self.peers, one.max_inflight)
            for one in spec.endpoints
        ]
        self.gate = Gate(
            name,
            spec.max_inflight,
            Queue(spec.queue.size, spec.queue.timeout_s),
            self._room if any(one.max_inflight for one in spec.endpoints) else None,
            self._rng,
        )
        self.clients = {
            endpoint.id: Client(self._address(one), monotonic)
            for endpoint, one in zip(self.endpoints, spec.endpoints, strict=True)
        }
        self.models: dict[str, list[ModelEntry]] = {}
        """What each endpoint (by id) last listed."""

    def pool(self, endpoints: list[Endpoint] | None = None) -> Pool:
        """Make a pool of some of the endpoints, or of all."""
        return Pool(
            self,
            self.endpoints if endpoints is None else endpoints,
            BALANCERS[self.spec.balancer](BalancerSpec(self.spec.session.max_load), self._rng),
            self._rng,
        )

    def _room(self) -> int:
        return room(self.endpoints, self._monotonic())

    def probe_client(self) -> httpx.AsyncClient:
        """Make the HTTP client for probes and discovery, which are no part of the data path."""
        key = self.spec.api_key
        headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        verify: ssl.SSLContext | bool = self._tls if self._tls is not None else False
        return httpx.AsyncClient(headers=headers, verify=verify, trust_env=False)

    def watches(
        self, http: httpx.AsyncClient, rng: Random, on_change: Callable[[], None]
    ) -> list[Watch]:
        """Make a watch for each endpoint; `on_change` hears when what they serve has changed."""

        def listed(endpoint: Endpoint, entries: list[ModelEntry]) -> None:
            if self.models.get(endpoint.id) != entries:
                self.models[endpoint.id] = entries
                endpoint.models = tuple(entry["id"] for entry in entries)
                on_change()

        metrics_path = self.spec.health.metrics_path
        return [
            Watch(endpoint, http, rng, self._monotonic, listed, metrics_path)
            for endpoint in self.endpoints
        ]

    def sweep(self, now: float) -> None:
        """Let every timer of every connection run out that has to."""
        for client in self.clients.values():
            client.sweep(now)

    def close(self) -> None:
        """Drop every connection."""
        for client in self.clients.values():
            client.close()

    def _address(self, endpoint: Replica) -> Address:
        url = urlsplit(endpoint.url)
        timeouts = self.spec.timeouts
        key = self.spec.api_key
        credentials = (
            b"authorization: Bearer %b\r\n" % key.get_secret_value().encode() if key else b""
        )
        return Address(
            host=url.hostname or "",
            port=url.port or (443 if url.scheme == "https" else 80),
            base_path=url.path.rstrip("/"),
            credentials=credentials,
            tls=self._tls if url.scheme == "https" else None,
            connect_s=timeouts.connect_s,
            first_byte_s=timeouts.first_token_s,
            idle_s=timeouts.idle_s,
            total_s=timeouts.total_s,
            max_idle=self.spec.max_idle_connections,
        )


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


def _needs_tls(spec: ClusterSpec) -> bool:
    return any(endpoint.url.startswith("https://") for endpoint in spec.endpoints)


def tls_context(spec: ClusterSpec) -> ssl.SSLContext:
    """Make the context for a cluster's https endpoints. Raises `OSError` for a bad CA bundle."""
    context = ssl.create_default_context(cafile=spec.tls.ca_file)
    if not spec.tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context

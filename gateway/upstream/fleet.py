"""Which clusters are there, as the configuration and the registrations of the moment have it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from pydantic import ValidationError

from gateway.config.cluster import Cluster as ClusterSpec
from gateway.config.cluster import Endpoint as EndpointSpec
from gateway.config.conflicts import nearest
from gateway.config.explain import words
from gateway.config.names import endpoint_id
from gateway.errors import GatewayError, bad_request
from gateway.upstream.cluster import Cluster
from gateway.upstream.discovery import Member
from gateway.upstream.trust import Trust, trust_of
from gateway.wire.types import UpstreamError

MAX_REGISTERED = 10_000
"""Registrations in all clusters together: a client that loops must not fill the memory."""

MIN_TTL_S, MAX_TTL_S = 1.0, 86_400.0
"""The shortest and longest term of a registration."""

DEFAULT_TTL_S = 30.0
"""A registration's term if it names none: time for two lost renewals at one each 10 s."""


@dataclass(frozen=True, slots=True)
class Term:
    """What an endpoint says of itself when it registers."""

    weight: float = 1.0
    max_inflight: int | None = None
    ttl_s: float = DEFAULT_TTL_S
    """Seconds that the registration is good for."""


_USUAL = Term()


class Fleet:
    """Every cluster, and those that are on their way out."""

    def __init__(
        self, specs: Mapping[str, ClusterSpec], monotonic: Callable[[], float], rng: Random
    ) -> None:
        """Raises `OSError` for a CA bundle that cannot be used."""
        self.clusters: dict[str, Cluster] = {}
        """By name, in the configuration's order. One object for the fleet's life."""
        self._monotonic = monotonic
        self._rng = rng
        self._going: list[Cluster] = []
        self.apply(specs, self.prepare(specs))

    # Configuration.

    def prepare(self, specs: Mapping[str, ClusterSpec]) -> dict[str, Trust]:
        """Do all of a change that can fail, before any of it takes effect. Raises `OSError`."""
        known = self.clusters
        return {
            name: trust_of(spec, known[name].trust if name in known else None)
            for name, spec in specs.items()
        }

    def apply(self, specs: Mapping[str, ClusterSpec], trusts: Mapping[str, Trust]) -> None:
        """Take over a configuration that has been prepared: all of it, in one turn of the loop."""
        before = dict(self.clusters)
        self.clusters.clear()
        for name, spec in specs.items():
            cluster = before.pop(name, None)
            if cluster is None:
                cluster = Cluster(name, spec, self._monotonic, self._rng, trusts[name])
            else:
                cluster.configure(spec, trusts[name])
            self.clusters[name] = cluster
        for cluster in before.values():
            cluster.retire()
            self._going.append(cluster)

    # Registration.

    def register(self, cluster: str, url: str, term: Term = _USUAL) -> str:
        """Let an endpoint join a cluster for `term.ttl_s`, or stay for as long again.

        Returns its id. It is there with the next `refresh`. Raises `GatewayError`: 400 for values
        that no configuration could have, 404 for an unknown cluster, 409 where the cluster takes
        no registrations, lists the endpoint itself, or there are too many.
        """
        found = self._open(cluster)
        spec = _validated({"url": url, "weight": term.weight, "max_inflight": term.max_inflight})
        if not MIN_TTL_S <= term.ttl_s <= MAX_TTL_S:
            message = f"ttl_s must be from {MIN_TTL_S:g} to {MAX_TTL_S:g}."
            raise bad_request(message, "ttl_s")
        member = Member(spec.url, spec.weight, spec.max_inflight)
        self._refuse_static(found, member.id)
        total = sum(len(one.registered) for one in self.clusters.values())
        if member.id not in found.registered and total >= MAX_REGISTERED:
            message = f"There are {MAX_REGISTERED} registered endpoints; no more are taken."
            raise GatewayError(409, "too_many_endpoints", message)
        found.registered.register(member, term.ttl_s, self._monotonic())
        return member.id

    def remove(self, cluster: str, endpoint: str) -> None:
        """End a registration. It is gone with the next `refresh`; what it works on goes on.

        Raises `GatewayError`: 404 if it is not registered, 409 if it comes from the file, or if
        it is the cluster's last and the configuration does not let a cluster become empty.
        """
        found = self._open(cluster)
        self._refuse_static(found, endpoint)
        if endpoint not in found.registered:
            raise _not_registered(endpoint, cluster)
        if [one.id for one in found.endpoints] == [endpoint] and not found.spec.allow_empty:
            message = f"`{endpoint}` is the last endpoint of `{cluster}`; drain it instead."
            raise GatewayError(409, "last_endpoint", message)
        found.registered.remove(endpoint)

    def _open(self, name: str) -> Cluster:
        cluster = self.clusters.get(name)
        if cluster is None:
            hint = nearest(name, list(self.clusters))
            message = f"There is no cluster of that name{hint}."
            raise GatewayError(404, "cluster_not_found", message, param="cluster")
        if not cluster.spec.registration:
            message = f"The cluster `{name}` takes no registrations (`registration: true` would)."
            raise GatewayError(409, "registration_disabled", message, param="cluster")
        return cluster

    def _refuse_static(self, cluster: Cluster, endpoint: str) -> None:
        if any(endpoint_id(one.url) == endpoint for one in cluster.spec.endpoints):
            message = f"`{endpoint}` is listed in the configuration file."
            raise GatewayError(409, "endpoint_is_static", message)

    # Time and end.

    def refresh(self, now: float) -> list[Cluster]:
        """Let members come and go as the sources say; return the clusters that changed."""
        return [cluster for cluster in self.clusters.values() if cluster.refresh(now)]

    def sweep(self, now: float) -> list[tuple[str, str]]:
        """Let every timer run out that has to. To be called a few times a second.

        Returns the cluster and the id of each endpoint that is gone: it left, and what it was
        working on has ended.
        """
        gone = [
            (cluster.name, name)
            for cluster in (*self.clusters.values(), *self._going)
            for name in cluster.sweep(now)
        ]
        if self._going:
            self._going = [cluster for cluster in self._going if cluster.busy]
        return [one for one in gone if not self._has(*one)]

    def _has(self, cluster: str, endpoint: str) -> bool:
        """Whether an endpoint of that id is there, perhaps in a new cluster of the same name."""
        return cluster in self.clusters and endpoint in self.clusters[cluster].clients

    def fail(self, error: UpstreamError) -> None:
        """End every exchange under way with `error`, and every wait for a place."""
        for cluster in (*self.clusters.values(), *self._going):
            cluster.fail(error)

    def close(self) -> None:
        """Drop every connection."""
        for cluster in (*self.clusters.values(), *self._going):
            cluster.close()


def _validated(fields: dict[str, object]) -> EndpointSpec:
    try:
        return EndpointSpec.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise bad_request(f"{name} {words(first)}.", name) from None


def _not_registered(endpoint: str, cluster: str) -> GatewayError:
    shown = endpoint if len(endpoint) <= 200 else endpoint[:200] + "…"
    message = f"`{shown}` is not registered in `{cluster}`."
    return GatewayError(404, "endpoint_not_found", message)

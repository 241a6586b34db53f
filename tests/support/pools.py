"""Pools without a cluster around them."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from gateway.admit.gate import Gate
from gateway.admit.queue import Queue
from gateway.config.cluster import Cluster as ClusterSpec
from gateway.upstream.balancer import BALANCERS, BalancerSpec
from gateway.upstream.endpoint import Endpoint, EndpointSpec, Peers
from gateway.upstream.pool import Pool
from gateway.wire.upstream import Address, Client

NOW = 1000.0
"""Monotonic seconds; the endpoints have been healthy for a while by then."""


@dataclass
class FakeOwner:
    """What a pool needs of a cluster."""

    spec: ClusterSpec
    clients: dict[str, Client]
    name: str = "c"
    gate: Gate = field(default_factory=lambda: Gate("c", 99, Queue(1, 1.0), None, Random(1)))


def pool_of(count: int, *, balancer: str = "round_robin", **cluster: Any) -> Pool:
    """Make a pool of endpoints that became healthy long ago."""
    peers = Peers()
    endpoints = [Endpoint(f"http://e{n}:1", 1.0, EndpointSpec(), peers) for n in range(count)]
    for endpoint in endpoints:
        endpoint.probed(True, NOW - 100)
    spec = ClusterSpec.model_validate({"endpoints": [{"url": "http://e:1"}], **cluster})
    clients = {one.id: Client(Address("e", 1), lambda: NOW) for one in endpoints}
    rule = BALANCERS[balancer](BalancerSpec(), Random(5))
    return Pool(FakeOwner(spec, clients), endpoints, rule, Random(5))

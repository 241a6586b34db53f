"""Which endpoint serves this request, and what does it owe us until the request has ended?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

from gateway.errors import no_healthy_upstream
from gateway.upstream.balancer import Balancer
from gateway.upstream.endpoint import Endpoint
from gateway.wire.upstream import Client


class Lease:
    """One request's claim on one endpoint; held until its stream has ended, also on cancel."""

    __slots__ = ("client", "endpoint")

    def __init__(self, endpoint: Endpoint, client: Client) -> None:
        self.endpoint = endpoint
        self.client = client

    def __enter__(self) -> Lease:
        self.endpoint.inflight += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.endpoint.inflight -= 1


class Pool:
    """The endpoints of a cluster that serve one model."""

    def __init__(
        self,
        cluster: str,
        endpoints: Sequence[Endpoint],
        clients: Mapping[str, Client],
        balancer: Balancer,
        *,
        forward_authorization: bool = False,
    ) -> None:
        self.cluster = cluster
        self.forward_authorization = forward_authorization
        """Whether the client's own Authorization is for the engines."""
        self.endpoints = tuple(endpoints)
        self.key = (cluster, *(endpoint.id for endpoint in endpoints))
        """What makes two pools the same: their balancer's memory is kept over a new table."""
        self._clients = clients
        self._balancer = balancer

    def __repr__(self) -> str:
        return f"<Pool {self.cluster}, {len(self.endpoints)} endpoints>"

    def pick(self, model: str) -> Lease:
        """Choose an endpoint for one request. Raises `GatewayError` 503 when none is available."""
        endpoint = self._balancer.pick(self.endpoints)
        if endpoint is None:
            raise no_healthy_upstream(model)
        return Lease(endpoint, self._clients[endpoint.id])

"""Which endpoint serves this request, and what does it owe us until the request has ended?

Endpoints are chosen from the first of these sets that has one with room:

1. available, and not asking to be left alone;
2. available;
3. in panic, when fewer than `panic_percent` of the pool are available: ejected ones, too; and when
   none is available, those whose probes fail, too. Their breakers still rule, so a dead pool is
   tried once in a while, and its return is noticed by traffic as well.

Never: who is drained, asleep, leaving, or was never well.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from math import ceil, inf, isfinite
from random import Random
from typing import Protocol

from gateway.admit.gate import Gate
from gateway.config.cluster import Cluster as ClusterSpec
from gateway.errors import GatewayError, no_healthy_upstream
from gateway.model import Outcome
from gateway.upstream.balancer import Balancer
from gateway.upstream.breaker import State
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.peers import Peers
from gateway.upstream.ramp import choose
from gateway.upstream.traits import Traits
from gateway.wire.upstream import Client

_LOG = logging.getLogger("sluice.pool")

_CLOSED = State.CLOSED  # To reach it through its class takes 0.1 µs in Python 3.11.

MAX_RETRY_AFTER_S = 60
"""The longest that clients are told to wait; openai-python obeys no more than this."""


class PoolFull(GatewayError):  # noqa: N818  a refusal, which is no defect
    """Every endpoint that may be tried has its `max_inflight` requests.

    The gate lets such a request wait, but where the cluster's other endpoints have room that do not
    serve its model. Its client is told to wait as if it stood in the queue.
    """

    def __init__(self, model: str, retry_after_s: int) -> None:
        super().__init__(
            503,
            "overloaded",
            f"Every endpoint that serves `{model}` is full.",
            retry=True,
            retry_after_s=retry_after_s,
        )


def room(endpoints: Sequence[Endpoint], now: float) -> int:
    """Return how many more requests the available endpoints take; without end as `sys.maxsize`.

    Without end also when none is available: such requests are not to wait, the pool tells them.
    O(endpoints).
    """
    left, found = 0, False
    for endpoint in endpoints:
        if endpoint.available(now):
            if endpoint.max_inflight is None:
                return sys.maxsize
            left += max(0, endpoint.max_inflight - endpoint.inflight)
            found = True
    return left if found else sys.maxsize


class Lease:
    """One attempt's claim on one endpoint; held until its stream has ended, also on cancel."""

    __slots__ = ("_started_at", "_stream", "_ticket", "client", "endpoint", "panic")

    def __init__(
        self, endpoint: Endpoint, client: Client, stream: bool, now: float, panic: bool
    ) -> None:
        """Claim the endpoint; `close` is owed from here on."""
        self.endpoint = endpoint
        self.client = client
        self.panic = panic
        """Whether it was chosen in panic: not all of the pool's endpoints are well."""
        self._stream = stream
        self._started_at = now
        self._ticket = endpoint.start(now)

    def committed(self, now: float) -> None:
        """Note that an answer has begun: a stream's first token, or a whole answer."""
        endpoint = self.endpoint
        if endpoint.breaker.state is not _CLOSED:
            ticket, self._ticket = self._ticket, endpoint.commit(self._ticket, now)
            if ticket != self._ticket:
                _LOG.info("endpoint %s: breaker closed", endpoint.id)
        average = endpoint.first_token if self._stream else endpoint.whole
        average.observe(now - self._started_at, now)

    def close(self, outcome: Outcome, now: float) -> None:
        """Give the endpoint back and tell it how the attempt ended. Exactly once."""
        change = self.endpoint.finish(self._ticket, outcome, now)
        if change is not None:
            level = logging.WARNING if change.is_bad else logging.INFO
            _LOG.log(level, "endpoint %s: %s", self.endpoint.id, change)


class Owner(Protocol):
    """What a pool has of its cluster; read anew each time, for a reload may replace it."""

    @property
    def name(self) -> str:
        """The cluster's name."""

    @property
    def spec(self) -> ClusterSpec:
        """The cluster's configuration."""

    @property
    def clients(self) -> Mapping[str, Client]:
        """The connections of each endpoint, by its id."""

    @property
    def gate(self) -> Gate:
        """Admission to the cluster."""


class Pool:
    """The endpoints of a cluster that serve one model."""

    __slots__ = (
        "_candidates",
        "_panic",
        "_peers",
        "_ramped_at",
        "_revision",
        "_rng",
        "_stale_at",
        "_usable",
        "balancer",
        "cluster",
        "endpoints",
        "key",
        "owner",
    )

    def __init__(
        self, owner: Owner, endpoints: Sequence[Endpoint], balancer: Balancer, rng: Random
    ) -> None:
        """`endpoints` share one `Peers`, that of the cluster. `rng` is for slow start."""
        self.cluster = owner.name
        self.endpoints = tuple(endpoints)
        self.key = (owner.name, *(endpoint.id for endpoint in endpoints))
        """What makes two pools the same: their balancer's memory is kept over a new table."""
        self.balancer = balancer
        self.owner = owner
        """Whose `spec`, `gate` and `clients` are those of the moment."""
        self._rng = rng
        self._peers = endpoints[0].peers if endpoints else Peers()
        if any(endpoint.peers is not self._peers for endpoint in endpoints):
            raise ValueError("a pool's endpoints are of one cluster")
        # Cached from the endpoints' states. Good for one revision, and until time alone would
        # change it.
        self._revision = -1
        self._stale_at = -inf
        self._candidates: tuple[Endpoint, ...] = ()  # Not asking to be left alone, with room.
        self._usable: tuple[Endpoint, ...] = ()
        self._panic = False
        self._ramped_at = -inf

    def __repr__(self) -> str:
        return f"<Pool {self.cluster}, {len(self.endpoints)} endpoints>"

    def pick(
        self,
        model: str,
        traits: Traits,
        now: float,
        tried: Collection[Endpoint] = (),
    ) -> Lease | None:
        """Choose an endpoint and claim it for one attempt; None if all that are left were tried.

        Raises `GatewayError` 503 `no_healthy_upstream` when none may be tried at all, and
        `PoolFull` when those that may be have no room. Costs 2 µs with `p2c` while no endpoint
        changes; O(endpoints) after a change, and where an endpoint reaches its `max_inflight`.
        """
        if self._revision != self._peers.revision or now >= self._stale_at:
            self._refresh(now)
        candidates: Sequence[Endpoint] = self._candidates
        if tried or not candidates:
            candidates = self._untried(model, now, tried)
            if not candidates:
                return None
        if now < self._ramped_at:
            endpoint = choose(self.balancer, candidates, traits, now, self._rng)
        else:
            endpoint = self.balancer.pick(candidates, traits, now)
        return Lease(endpoint, self.owner.clients[endpoint.id], traits.stream, now, self._panic)

    def available(self, now: float) -> int:
        """Return how many endpoints may be tried, panic aside."""
        return sum(endpoint.available(now) for endpoint in self.endpoints)

    def _untried(self, model: str, now: float, tried: Collection[Endpoint]) -> Sequence[Endpoint]:
        """Return whom to choose from when the usual candidates do not do."""
        if not self._usable:
            raise self._nobody(model, now)
        best = [endpoint for endpoint in self._candidates if endpoint not in tried]
        if best:
            return best
        left = [endpoint for endpoint in self._usable if endpoint not in tried]
        room = [endpoint for endpoint in left if endpoint.has_room()]
        if left and not room:
            raise PoolFull(model, self.owner.gate.retry_after_s(now))
        return room

    def _refresh(self, now: float) -> None:
        self._revision = self._peers.revision
        endpoints = self.endpoints
        usable = [endpoint for endpoint in endpoints if now >= endpoint.blocked_until]
        self._panic = False
        in_service = sum(endpoint.in_service(now) for endpoint in endpoints)
        if len(usable) * 100 < in_service * self.owner.spec.outliers.panic_percent:
            self._panic = True
            usable = [one for one in endpoints if now >= one.blocked_in_panic()]
        if not usable:
            usable = [one for one in endpoints if now >= one.blocked_at_worst()]
            self._panic = bool(usable)
        self._usable = tuple(usable)
        self._candidates = tuple(
            one for one in usable if now >= one.shunned_until and one.has_room()
        )
        self._stale_at = min((one.next_change(now) for one in endpoints), default=inf)
        self._ramped_at = max((one.ramped_at for one in usable), default=-inf)

    def _nobody(self, model: str, now: float) -> GatewayError:
        """Return the error that says when an endpoint may be back, where time alone decides it."""
        wait_s = min((one.blocked_until - now for one in self.endpoints), default=inf)
        if not isfinite(wait_s):
            return no_healthy_upstream(model)
        return no_healthy_upstream(model, min(max(ceil(wait_s), 1), MAX_RETRY_AFTER_S))

"""What is known of one replica: where it is, how busy it is, how fast it is?

Whether it may be tried is the question of `gateway.upstream.standing`, which this builds on.

Pure: callers pass outcomes and times; nothing here probes, logs or counts metrics.
"""

from __future__ import annotations

from math import exp, inf
from urllib.parse import urlsplit

from gateway.model import Outcome
from gateway.upstream.breaker import State as BreakerState
from gateway.upstream.latency import TAU_S, PeakEwma
from gateway.upstream.load import STALE_S, EngineLoad, extra_load
from gateway.upstream.peers import Peers
from gateway.upstream.standing import Change, EndpointSpec, Health, Standing, State

__all__ = ["Change", "Endpoint", "EndpointSpec", "Health", "Peers", "State"]

_SUCCESS, _RETRYABLE, _FAILURE = Outcome.SUCCESS, Outcome.RETRYABLE, Outcome.FAILURE
_CLOSED = BreakerState.CLOSED


class Endpoint(Standing):
    """One replica of a cluster."""

    __slots__ = (
        "_extra",
        "_scraped_at",
        "first_token",
        "id",
        "inflight",
        "max_inflight",
        "models",
        "url",
        "weight",
        "whole",
    )

    def __init__(
        self,
        url: str,
        weight: float = 1.0,
        spec: EndpointSpec | None = None,
        peers: Peers | None = None,
        max_inflight: int | None = None,
    ) -> None:
        """`peers` is that of the cluster; one of its own makes an endpoint that has none."""
        super().__init__(spec, peers)
        self.url = url
        parts = urlsplit(url)
        port = "" if parts.port else ":443" if parts.scheme == "https" else ":80"
        self.id = f"{parts.netloc}{port}{parts.path}".rstrip("/")
        """Its name in metrics and logs: host:port and the base path."""
        self.weight = weight
        self.max_inflight = max_inflight
        self.inflight = 0
        """Requests of ours that it is working on."""
        self.models: tuple[str, ...] = ()
        """The model ids that it last said it serves."""
        self.first_token = PeakEwma()
        """How long a stream's first token takes."""
        self.whole = PeakEwma()
        """How long an answer takes that is no stream."""
        self._extra = 0.0
        self._scraped_at = -inf

    def __repr__(self) -> str:
        return f"<Endpoint {self.id} {self.health}, {self.inflight} in flight>"

    def has_room(self) -> bool:
        """Say whether its `max_inflight` leaves room for a request."""
        return self.max_inflight is None or self.inflight < self.max_inflight

    def load(self, now: float) -> float:
        """Return requests in flight, and what its own metrics say beyond them, while fresh.

        The engine's share loses weight with its age and is gone after `STALE_S`, so a gateway
        whose scrapes fail balances by what it knows itself. Costs 0.1 µs.
        """
        if self._extra:
            fresh = 1.0 - (now - self._scraped_at) / STALE_S
            if fresh > 0:
                return self.inflight + self._extra * fresh
        return self.inflight

    def latency(self, stream: bool, now: float) -> float:
        """Return its peak-EWMA latency in seconds, decayed to `now`; 0 if never observed."""
        return (self.first_token if stream else self.whole).read(now)

    def cost(self, stream: bool, now: float) -> float:
        """Return latency * (load + 1) / weight; 0 if no latency was ever observed. 0.2 µs."""
        average = self.first_token if stream else self.whole
        cost_s = average.cost_s
        if not cost_s:
            return 0.0
        load = self.load(now) if self._extra else self.inflight
        # `PeakEwma.read`, but for the call: p2c asks twice a request.
        return cost_s * exp((average.stamp - now) / TAU_S) * (load + 1) / self.weight

    def start(self, now: float) -> int:
        """Claim it for one request; return the ticket that `finish` wants."""
        self.inflight += 1
        if self.inflight == self.max_inflight:
            self.peers.revision += 1
        breaker = self.breaker
        return breaker.epoch if breaker.state is _CLOSED else self.begin(now)

    def commit(self, ticket: int, now: float) -> int:
        """Note that a request's answer has begun; return the ticket that `finish` wants now.

        If that closes the breaker, the latencies from before it opened are forgotten: slow start
        guards the return, and with the penalties in them its share would stay small for minutes.
        """
        kept = super().commit(ticket, now)
        if kept != ticket:
            self._forget_latency()
        return kept

    def finish(self, ticket: int, outcome: Outcome, now: float) -> Change | None:
        """Give it back, and apply how the request ended; return what that changed, for the log.

        A failure counts as a slow answer, however fast it came: see `PeakEwma.penalise`.
        """
        if self.inflight == self.max_inflight:
            self.peers.revision += 1
        self.inflight -= 1
        breaker = self.breaker
        if outcome is _SUCCESS and breaker.spotless and ticket == breaker.epoch:
            self.member.succeed(now)  # All that `judge` would do.
            return None
        if outcome is _RETRYABLE or outcome is _FAILURE:
            self.first_token.penalise(now)
            self.whole.penalise(now)
        change = self.judge(ticket, outcome, now)
        if change is not None and change.ejected_s is not None:
            self._forget_latency()  # Out of the pool, and by slow start when it returns.
        return change

    def probed(self, ok: bool, now: float) -> Health | None:
        """Apply one probe; return the new verdict if it changed."""
        changed = super().probed(ok, now)
        if changed is Health.HEALTHY:
            self._forget_latency()
        return changed

    def scraped(self, load: EngineLoad | None, now: float) -> bool:
        """Apply what its metrics say, None for nothing; return whether it fell asleep or awoke."""
        if load is not None:
            self._extra = extra_load(load, self.inflight)
            self._scraped_at = now
        elif now - self._scraped_at < STALE_S:
            return False
        return self.sleep(load is not None and load.asleep, now)

    def configure(
        self, weight: float, max_inflight: int | None, spec: EndpointSpec | None = None
    ) -> None:
        """Take over what a new configuration says; what is known of it stays."""
        self.weight = weight
        self.max_inflight = max_inflight
        self._spec = spec or self._spec
        self.breaker.spec = self._spec.breaker
        self._changed()

    def _forget_latency(self) -> None:
        self.first_token.forget()
        self.whole.forget()

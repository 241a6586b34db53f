"""What is known of one replica: may it be tried, how busy is it, how fast is it?

Pure: callers pass outcomes and times; nothing here probes, logs or counts metrics.

    unknown --first probe ok--> healthy --`fall` probes failed--> unhealthy --`rise` ok--> healthy
    unknown --probe failed--> unknown

Beside what the probes say, an endpoint can be blocked by its breaker, by an ejection, because it
sleeps, because it said that it is going away, and because an operator drains it. `blocked_until`
is all of that in one number. Each change of it makes the `revision` of the cluster's `Peers` grow,
so that pools need not look at their endpoints for each request.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf
from urllib.parse import urlsplit

from gateway.model import Outcome
from gateway.upstream import breaker as breakers
from gateway.upstream.breaker import Breaker, BreakerSpec
from gateway.upstream.latency import PeakEwma
from gateway.upstream.load import STALE_S, EngineLoad, extra_load
from gateway.upstream.outlier import Outliers
from gateway.upstream.ramp import factor


class Health(StrEnum):
    """What the active probes say."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class State(StrEnum):
    """Why an endpoint is not tried, in one word; the first that holds, in this order."""

    UNKNOWN = "unknown"  # Never well since the gateway knows it.
    DRAINING = "draining"  # An operator took it out.
    ASLEEP = "asleep"  # Its own metrics say that it sleeps.
    LEAVING = "leaving"  # It said that it is going away.
    UNHEALTHY = "unhealthy"
    EJECTED = "ejected"
    OPEN = "open"
    HALF_OPEN = "half_open"
    OVERLOADED = "overloaded"  # It asked to be left alone; it is tried when nobody else can be.
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """What a cluster says of each of its endpoints."""

    rise: int = 2
    """Good probes in a row that bring it back. HAProxy's default."""
    fall: int = 3
    """Failed probes in a row that take it out. HAProxy's default."""
    slow_start_s: float = 30.0
    breaker: BreakerSpec = field(default_factory=BreakerSpec)


@dataclass(frozen=True, slots=True)
class Change:
    """What the end of a request changed about its endpoint, for the log."""

    breaker: breakers.State | None = None
    ejected_s: float | None = None

    @property
    def is_bad(self) -> bool:
        """Whether it is for the worse."""
        return self.breaker is not breakers.State.CLOSED

    def __str__(self) -> str:
        said = [f"breaker {self.breaker}"] if self.breaker is not None else []
        if self.ejected_s is not None:
            said.append(f"ejected for {self.ejected_s:.0f} s")
        return ", ".join(said)


class Peers:
    """What the endpoints of a cluster share."""

    __slots__ = ("outliers", "revision")

    def __init__(self, outliers: Outliers | None = None) -> None:
        self.outliers = outliers or Outliers()
        self.revision = 0
        """Grows whenever one of them may have become available, or may no longer be."""


class Endpoint:
    """One replica of a cluster."""

    __slots__ = (
        "_extra",
        "_failed",
        "_first_token",
        "_left_and_fell",
        "_member",
        "_ok",
        "_scraped_at",
        "_spec",
        "_whole",
        "asleep",
        "blocked_until",
        "breaker",
        "draining",
        "health",
        "id",
        "inflight",
        "left_until",
        "max_inflight",
        "models",
        "peers",
        "ramped_at",
        "shunned_until",
        "url",
        "weight",
    )

    def __init__(
        self,
        url: str,
        weight: float = 1.0,
        spec: EndpointSpec | None = None,
        peers: Peers | None = None,
        max_inflight: int | None = None,
    ) -> None:
        self.url = url
        parts = urlsplit(url)
        port = "" if parts.port else ":443" if parts.scheme == "https" else ":80"
        self.id = f"{parts.netloc}{port}{parts.path}".rstrip("/")
        """Its name in metrics and logs: host:port and the base path."""
        self.weight = weight
        self.max_inflight = max_inflight
        self._spec = spec or EndpointSpec()
        self.peers = peers or Peers()
        self._member = self.peers.outliers.join()
        self._ok = 0
        self._failed = 0
        self.health = Health.UNKNOWN
        self.inflight = 0
        """Requests of ours that it is working on."""
        self.models: tuple[str, ...] = ()
        """The model ids that it last said it serves."""
        self.breaker = Breaker(self._spec.breaker)
        self.draining = False
        self.asleep = False
        self.left_until = 0.0
        self._left_and_fell = False
        self.shunned_until = 0.0
        """Until when it asked to be left alone: others come first."""
        self.ramped_at = 0.0
        """When its slow start ends, or has ended."""
        self.blocked_until = inf
        """When it may be tried: now, if in the past; inf if no time alone will bring it back."""
        self._first_token = PeakEwma()
        self._whole = PeakEwma()
        self._extra = 0.0
        self._scraped_at = -inf

    def __repr__(self) -> str:
        return f"<Endpoint {self.id} {self.health}, {self.inflight} in flight>"

    # What pools and balancers ask.

    def available(self, now: float = 1e12) -> bool:
        """Say whether a request may be sent; asking claims nothing."""
        return now >= self.blocked_until

    def has_room(self) -> bool:
        """Say whether its `max_inflight` leaves room for a request."""
        return self.max_inflight is None or self.inflight < self.max_inflight

    def load(self, now: float) -> float:
        """Return requests in flight, and what its own metrics say beyond them, while fresh.

        The engine's share loses weight with its age and is gone after `STALE_S`, so a gateway
        whose scrapes fail balances by what it knows itself. Costs about 0.1 µs.
        """
        if self._extra:
            fresh = 1.0 - (now - self._scraped_at) / STALE_S
            if fresh > 0:
                return self.inflight + self._extra * fresh
        return self.inflight

    def latency(self, stream: bool, now: float) -> float:
        """Return its peak-EWMA latency in seconds, decayed to `now`; 0 if never observed."""
        return (self._first_token if stream else self._whole).read(now)

    def ramp(self, now: float) -> float:
        """Return the share of its fair share that slow start gives it: 0.1 to 1."""
        return factor(self.ramped_at - now, self._spec.slow_start_s)

    def blocked_in_panic(self) -> float:
        """Return `blocked_until` as it were without ejections."""
        return inf if self.health is not Health.HEALTHY else self.blocked_at_worst()

    def blocked_at_worst(self) -> float:
        """Return `blocked_until` as it were without ejections and verdicts of the probes."""
        if self.draining or self.asleep or self.health is Health.UNKNOWN:
            return inf
        return max(self.breaker.blocked_until, self.left_until)

    def in_service(self, now: float) -> bool:
        """Say whether it is meant to take requests, be it well or not."""
        withdrawn = self.draining or self.asleep or now < self.left_until
        return not withdrawn and self.health is not Health.UNKNOWN

    def next_change(self, now: float) -> float:
        """Return when time alone will next change what may be done with it; inf for never."""
        times = (
            self.breaker.blocked_until,
            self.left_until,
            self._member.ejected_until,
            self.shunned_until,
        )
        return min((time for time in times if time > now), default=inf)

    # What an operator sees.

    @property
    def ejected_until(self) -> float:
        """When its ejection ends, or has ended."""
        return self._member.ejected_until

    @property
    def ejections_total(self) -> int:
        """How often it was ejected since the gateway knows it."""
        return self._member.ejections_total

    def state(self, now: float) -> State:
        """Return why it is not tried, or `HEALTHY`."""
        found = {
            State.UNKNOWN: self.health is Health.UNKNOWN,
            State.DRAINING: self.draining,
            State.ASLEEP: self.asleep,
            State.LEAVING: now < self.left_until,
            State.UNHEALTHY: self.health is Health.UNHEALTHY,
            State.EJECTED: now < self.ejected_until,
            State.OPEN: self.breaker.state is breakers.State.OPEN,
            State.HALF_OPEN: self.breaker.state is breakers.State.HALF_OPEN,
            State.OVERLOADED: now < self.shunned_until,
        }
        return next((state for state, holds in found.items() if holds), State.HEALTHY)

    # What requests tell.

    def start(self, now: float) -> int:
        """Claim it for one request; return the ticket that `finish` wants."""
        self.inflight += 1
        if self.inflight == self.max_inflight:
            self.peers.revision += 1
        if self.breaker.state is breakers.State.CLOSED:
            return self.breaker.start(now)
        ticket = self.breaker.start(now)
        self._changed()
        return ticket

    def observe(self, stream: bool, latency_s: float, now: float) -> None:
        """Note how long a first token (`stream`) or a whole answer took."""
        (self._first_token if stream else self._whole).observe(latency_s, now)

    def commit(self, ticket: int, now: float) -> int:
        """Note that a request's answer has begun; return the ticket that `finish` wants now.

        The breaker's probe closes it here, not at the end of a stream that may last for minutes.
        """
        if self.breaker.state is breakers.State.CLOSED:
            return ticket
        kept = self.breaker.commit(ticket)
        if kept != ticket:
            self._returns(now)
        return kept

    def finish(self, ticket: int, outcome: Outcome, now: float) -> Change | None:
        """Give it back, and apply how the request ended; return what that changed, for the log."""
        if self.inflight == self.max_inflight:
            self.peers.revision += 1
        self.inflight -= 1
        was = self.breaker.state
        state = self.breaker.record(ticket, outcome, now)
        if outcome is Outcome.CANCELLED or outcome is Outcome.REJECTED:
            ejected = False
        else:
            good = outcome is Outcome.SUCCESS
            ejected = self.peers.outliers.record(self._member, good, now)
            if not good:
                self._first_token.penalise(now)
                self._whole.penalise(now)
        if state is None and not ejected:
            if was is not breakers.State.CLOSED:
                self._changed()  # The probe's place may be free.
            return None
        if state is not None:
            self._returns(now if state is breakers.State.CLOSED else self.breaker.blocked_until)
        if ejected:
            self._returns(self.ejected_until)
        return Change(state, self.ejected_until - now if ejected else None)

    def shun(self, until: float) -> None:
        """Prefer others until then: it is overloaded and said so. It is no worse for that."""
        if until > self.shunned_until:
            self.shunned_until = until
            self.peers.revision += 1

    def leave(self, now: float) -> None:
        """Take it out at once: it said that it is going away, though its probes may still be well.

        For as long as an ejection, or until its probes have failed and risen again.
        """
        self.left_until = now + self.peers.outliers.spec.eject_s
        self._left_and_fell = False
        self._returns(self.left_until)

    # What probes, scrapes and operators tell.

    def probed(self, ok: bool, now: float = 0.0) -> Health | None:
        """Apply one probe; return the new verdict if it changed."""
        if not ok:
            self._ok = 0
            self._failed += 1
            self._left_and_fell = True
            if self.health is Health.HEALTHY and self._failed >= self._spec.fall:
                return self._enter(Health.UNHEALTHY)
            return None
        self._ok += 1
        self._failed = 0
        if self._ok >= self._spec.rise and self._left_and_fell and now < self.left_until:
            self.left_until = now
            self._returns(now)
        # At start one good answer is enough: nobody is served by waiting for a second.
        needed = 1 if self.health is Health.UNKNOWN else self._spec.rise
        if self.health is Health.HEALTHY or self._ok < needed:
            return None
        self.breaker.retry_now(now)
        # What it was ejected for was another life; Envoy unejects on a good health check, too.
        self._member.ejected_until = min(self._member.ejected_until, now)
        self.ramped_at = now + self._spec.slow_start_s
        return self._enter(Health.HEALTHY)

    def scraped(self, load: EngineLoad | None, now: float) -> bool:
        """Apply what its metrics say, None for nothing; return whether it fell asleep or awoke."""
        if load is not None:
            self._extra = extra_load(load, self.inflight)
            self._scraped_at = now
        elif now - self._scraped_at < STALE_S:
            return False
        asleep = load is not None and load.asleep
        if asleep is self.asleep:
            return False
        self.asleep = asleep
        self._returns(now)
        return True

    def drain(self) -> None:
        """Start no further requests; those under way go on."""
        self.draining = True
        self._changed()

    def undrain(self, now: float) -> None:
        """Take requests again, by slow start."""
        if self.draining:
            self.draining = False
            self._returns(now)

    def configure(
        self, weight: float, max_inflight: int | None, spec: EndpointSpec | None = None
    ) -> None:
        """Take over what a new configuration says; what is known of it stays."""
        self.weight = weight
        self.max_inflight = max_inflight
        self._spec = spec or self._spec
        self.breaker.spec = self._spec.breaker
        self._changed()

    def retire(self) -> None:
        """Leave the comparison with its peers: it is no longer part of the cluster."""
        self.peers.outliers.leave(self._member)
        self._changed()

    def _returns(self, at: float) -> None:
        # Its slow start begins when it may be tried again.
        self.ramped_at = max(self.ramped_at, at + self._spec.slow_start_s)
        self._changed()

    def _enter(self, health: Health) -> Health:
        self.health = health
        self._changed()
        return health

    def _changed(self) -> None:
        self.blocked_until = max(self.blocked_in_panic(), self._member.ejected_until)
        self.peers.revision += 1

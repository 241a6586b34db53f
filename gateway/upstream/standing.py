"""May an endpoint be tried now, and if not, from when on?

    unknown --first probe ok--> healthy --`fall` probes failed--> unhealthy --`rise` ok--> healthy
    unknown --probe failed--> unknown

Beside what the probes say, it can be blocked by its breaker, by an ejection, because it sleeps,
because it said that it is going away, and because an operator drains it. `blocked_until` is all of
that in one number. Each change of it makes the `revision` of the cluster's `Peers` grow, so that
pools need not look at their endpoints for each request.

Pure: callers pass `now`; nothing here probes, logs or counts metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from gateway.model import Outcome
from gateway.upstream import breaker as breakers
from gateway.upstream.breaker import Breaker, BreakerSpec
from gateway.upstream.peers import Peers
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


# Names of its own, because Python 3.11 takes 0.1 µs to reach a member through its class.
_UNKNOWN, _HEALTHY, _UNHEALTHY = Health
_CLOSED, _OPEN, _HALF_OPEN = breakers.State
_SUCCESS, _CANCELLED, _REJECTED = Outcome.SUCCESS, Outcome.CANCELLED, Outcome.REJECTED


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


class Standing:
    """All that takes an endpoint out of rotation and brings it back."""

    __slots__ = (
        "_failed",
        "_left_and_fell",
        "_ok",
        "_spec",
        "asleep",
        "blocked_until",
        "breaker",
        "draining",
        "health",
        "left_until",
        "member",
        "peers",
        "ramped_at",
        "shunned_until",
    )

    def __init__(self, spec: EndpointSpec | None = None, peers: Peers | None = None) -> None:
        self._spec = spec or EndpointSpec()
        self.peers = peers or Peers()
        self.member = self.peers.outliers.join()
        """What is counted of it to compare it with its peers."""
        self.breaker = Breaker(self._spec.breaker)
        self._ok = 0
        self._failed = 0
        self.health = _UNKNOWN
        self.draining = False
        self.asleep = False
        self.left_until = 0.0
        """Until when it is taken to be going away."""
        self._left_and_fell = False
        self.shunned_until = 0.0
        """Until when it asked to be left alone: others come first."""
        self.ramped_at = 0.0
        """When its slow start ends, or has ended."""
        self.blocked_until = inf
        """When it may be tried: now, if in the past; inf if no time alone will bring it back."""

    @property
    def ejected_until(self) -> float:
        """When its ejection ends, or has ended."""
        return self.member.ejected_until

    @property
    def ejections_total(self) -> int:
        """How often it was ejected since the gateway knows it."""
        return self.member.ejections_total

    def available(self, now: float) -> bool:
        """Say whether a request may be sent; asking claims nothing."""
        return now >= self.blocked_until

    def blocked_in_panic(self) -> float:
        """Return `blocked_until` as it were without ejections."""
        return self.blocked_at_worst() if self.health is _HEALTHY else inf

    def blocked_at_worst(self) -> float:
        """Return `blocked_until` as it were without ejections and verdicts of the probes."""
        if self.draining or self.asleep or self.health is _UNKNOWN:
            return inf
        return max(self.breaker.blocked_until, self.left_until)

    def in_service(self, now: float) -> bool:
        """Say whether it is meant to take requests, be it well or not."""
        withdrawn = self.draining or self.asleep or now < self.left_until
        return not withdrawn and self.health is not _UNKNOWN

    def next_change(self, now: float) -> float:
        """Return when time alone will next change what may be done with it; inf for never."""
        times = (
            self.breaker.blocked_until,
            self.left_until,
            self.member.ejected_until,
            self.shunned_until,
        )
        return min((time for time in times if time > now), default=inf)

    def ramp(self, now: float) -> float:
        """Return the share of its fair share that slow start gives it: 0.1 to 1."""
        return factor(self.ramped_at - now, self._spec.slow_start_s)

    def state(self, now: float) -> State:
        """Return why it is not tried, or `HEALTHY`."""
        reasons = (
            (State.UNKNOWN, self.health is _UNKNOWN),
            (State.DRAINING, self.draining),
            (State.ASLEEP, self.asleep),
            (State.LEAVING, now < self.left_until),
            (State.UNHEALTHY, self.health is _UNHEALTHY),
            (State.EJECTED, now < self.ejected_until),
            (State.OPEN, self.breaker.state is _OPEN),
            (State.HALF_OPEN, self.breaker.state is _HALF_OPEN),
            (State.OVERLOADED, now < self.shunned_until),
        )
        return next((state for state, holds in reasons if holds), State.HEALTHY)

    # What requests tell.

    def begin(self, now: float) -> int:
        """Note that a request starts; return its ticket."""
        ticket = self.breaker.start(now)
        if self.breaker.state is not _CLOSED:
            self._changed()
        return ticket

    def commit(self, ticket: int, now: float) -> int:
        """Note that a request's answer has begun; return the ticket that counts from here on.

        The breaker's probe closes it here, not at the end of a stream that may last for minutes.
        """
        kept = self.breaker.commit(ticket)
        if kept != ticket:
            self._returns(now)
        return kept

    def judge(self, ticket: int, outcome: Outcome, now: float) -> Change | None:
        """Apply how a request ended; return what that changed."""
        half_open = self.breaker.state is _HALF_OPEN
        state = self.breaker.record(ticket, outcome, now)
        ejected = (
            outcome is not _CANCELLED
            and outcome is not _REJECTED
            and self.peers.outliers.record(self.member, outcome is _SUCCESS, now)
        )
        if state is None and not ejected:
            if half_open:
                self._changed()  # The place of the probe may be free.
            return None
        if state is not None:
            self._returns(now if state is _CLOSED else self.breaker.blocked_until)
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

    def probed(self, ok: bool, now: float) -> Health | None:
        """Apply one probe; return the new verdict if it changed."""
        if not ok:
            self._ok = 0
            self._failed += 1
            self._left_and_fell = True
            if self.health is not _HEALTHY or self._failed < self._spec.fall:
                return None
            self.health = _UNHEALTHY
            self._changed()
            return _UNHEALTHY
        self._ok += 1
        self._failed = 0
        if self._left_and_fell and self._ok >= self._spec.rise and now < self.left_until:
            self.left_until = now
            self._returns(now, anew=True)
        # At start one good answer is enough: nobody is served by waiting for a second.
        needed = 1 if self.health is _UNKNOWN else self._spec.rise
        if self.health is _HEALTHY or self._ok < needed:
            return None
        self.health = _HEALTHY
        self.breaker.retry_now(now)
        # What it was ejected for was another life; Envoy unejects on a good health check, too.
        self.member.ejected_until = min(self.member.ejected_until, now)
        self._returns(now, anew=True)
        return _HEALTHY

    def sleep(self, asleep: bool, now: float) -> bool:
        """Apply whether it says that it sleeps; return whether that is news."""
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

    def retire(self) -> None:
        """Leave the comparison with its peers: it is no longer part of the cluster."""
        self.peers.outliers.leave(self.member)
        self._changed()

    def _returns(self, at: float, *, anew: bool = False) -> None:
        """Begin the slow start at that time; a later one that was planned holds, unless `anew`."""
        ramped_at = at + self._spec.slow_start_s
        self.ramped_at = ramped_at if anew else max(self.ramped_at, ramped_at)
        self._changed()

    def _changed(self) -> None:
        self.blocked_until = max(self.blocked_in_panic(), self.member.ejected_until)
        self.peers.revision += 1

"""May an endpoint that has just failed be tried again?

    closed --`failures` in a row--> open --time is up, a request starts--> half_open
    half_open --the probe's first token, or its success--> closed
    half_open --the probe failed--> open (longer)
    half_open --the probe was cancelled or refused--> half_open, free for another probe

While it is half open, one request at a time may try: the probe. Each start gets a ticket, and a
result counts only if its ticket is of the present state: a request from before the breaker opened
says nothing about the endpoint of now.

Pure: callers pass `now`; nothing here sleeps, logs or counts metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf

from gateway.model import Outcome

STALE = -1
"""The ticket of a request whose result must not count."""


class State(StrEnum):
    """What the breaker lets through: all, nothing, or one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


# Names of its own, because Python 3.11 takes 0.1 µs to reach a member through its class.
_CLOSED, _OPEN, _HALF_OPEN = State
_SUCCESS, _CANCELLED, _REJECTED = Outcome.SUCCESS, Outcome.CANCELLED, Outcome.REJECTED


@dataclass(frozen=True, slots=True)
class BreakerSpec:
    """When it opens and for how long. Envoy and Finagle both open at 5 failures in a row."""

    failures: int = 5
    open_s: float = 5.0
    max_open_s: float = 300.0


class Breaker:
    """The breaker of one endpoint. Each call costs well under a microsecond."""

    __slots__ = (
        "_failures",
        "_probing",
        "_retry_at",
        "_trips",
        "epoch",
        "spec",
        "spotless",
        "state",
        "trips_total",
    )

    def __init__(self, spec: BreakerSpec) -> None:
        self.spec = spec
        """May be replaced at any time; the next failure is judged by it."""
        self.state = _CLOSED
        self.epoch = 0
        """Grows at each change of state; a ticket is the epoch it was started in."""
        self._failures = 0
        self._trips = 0  # In a row, without a whole success between them.
        self._retry_at = 0.0
        self._probing = False
        self.spotless = True
        """Closed, and without a failure: a success with the present ticket changes nothing."""
        self.trips_total = 0
        """How often it opened since the endpoint is known."""

    def __repr__(self) -> str:
        return f"<Breaker {self.state}, {self._failures} failures, {self._trips} trips>"

    @property
    def blocked_until(self) -> float:
        """0 when a request may start, else from when on; inf while a probe is under way."""
        if self.state is _OPEN:
            return self._retry_at
        return inf if self._probing else 0.0

    def start(self, now: float) -> int:
        """Note that a request starts; return its ticket. Past the open period it is the probe.

        A request that starts although none may gets the ticket `STALE`.
        """
        if self.state is _CLOSED:
            return self.epoch
        if now < self.blocked_until:
            return STALE
        if self.state is _OPEN:
            self._enter(_HALF_OPEN)
        self._probing = True
        return self.epoch

    def commit(self, ticket: int) -> int:
        """Note a request's first token: the probe's closes the breaker. Return the ticket to keep.

        A stream may last for minutes, and the endpoint has shown that it works. A failure later in
        it counts as one of the closed state.
        """
        if self.state is not _HALF_OPEN or ticket != self.epoch:
            return ticket
        self._failures = 0
        self._enter(_CLOSED)
        return self.epoch

    def record(self, ticket: int, outcome: Outcome, now: float) -> State | None:
        """Apply the end of a request; return the new state if it changed.

        Only RETRYABLE and FAILURE are held against the endpoint: a client that left and a request
        that was refused (4xx, 429, 503 for load) leave it neither better nor worse.
        """
        if ticket != self.epoch:
            return None
        if outcome is _SUCCESS:
            self._failures = self._trips = 0
            self.spotless = True
            return None if self.state is _CLOSED else self._enter(_CLOSED)
        self._probing = False
        if outcome is _CANCELLED or outcome is _REJECTED:
            return None
        self._failures += 1
        self.spotless = False
        if self.state is _CLOSED and self._failures < self.spec.failures:
            return None
        self._failures = 0
        self._trips += 1
        self.trips_total += 1
        self._retry_at = now + min(self.spec.open_s * self._trips, self.spec.max_open_s)
        return self._enter(_OPEN)

    def retry_now(self, now: float) -> None:
        """Let a probe through without waiting further: something else says that it is back."""
        self._retry_at = min(self._retry_at, now)

    def _enter(self, state: State) -> State:
        self._probing = False
        self.state = state
        self.epoch += 1
        return state

"""Does this request begin now, or when, or with which refusal does its client leave?

The thin shell around the queue: it counts what is under way and wakes what waits. One gate stands
before each cluster, for all models of the cluster. It reads no clock; callers say what time it is.

    if not gate.try_enter():                    # the usual way: a comparison and an addition
        await gate.enter(priority, tenant, deadline, now)
    try:
        ...                                     # pick an endpoint before the next await
    finally:
        gate.leave(since, now)

Nobody overtakes: while anyone waits, `try_enter` lets nobody in.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import Future
from collections.abc import Callable
from math import ceil
from random import Random

from gateway.admit.drain import DrainRate
from gateway.admit.queue import Queue
from gateway.admit.ticket import Priority, Refusal, Ticket
from gateway.errors import GatewayError, overloaded, shutting_down

MAX_RETRY_AFTER_S = 60
"""The longest that openai-python obeys; it takes a larger value for a mistake and ignores it."""

SPREAD = 0.5
"""Clients who are refused together come back over this share of the time more, not together."""


_MESSAGES = {
    Refusal.FULL: "The queue for this model is full.",
    Refusal.DISPLACED: "The queue for this model is full, and others have precedence.",
    Refusal.BACKLOG: "More requests wait for this model than can begin in time.",
    Refusal.TIMEOUT: "The request waited too long for its turn.",
    Refusal.DEADLINE: "The request's turn would come after its deadline.",
}


class Gate:
    """Admission to one cluster."""

    __slots__ = (
        "_claimed",
        "_drain",
        "_limit",
        "_queue",
        "_rng",
        "cluster",
        "inflight",
        "refused",
        "room",
    )

    def __init__(
        self,
        cluster: str,
        max_inflight: int | None,
        queue: Queue[Future[None]],
        room: Callable[[], int] | None,
        rng: Random,
    ) -> None:
        """`room` returns how many more requests the available endpoints take; None: no end.

        Where no endpoint is available it must not return 0: such a request is not to wait, but to
        go on and be told so by the pool.
        """
        self.cluster = cluster
        self.inflight = 0
        """Requests that were let in and have not left."""
        self.refused: dict[Refusal, int] = dict.fromkeys(Refusal, 0)
        """How many were refused, by reason, since the start."""
        self._limit = sys.maxsize if max_inflight is None else max_inflight
        self._queue = queue
        self.room = room
        """May be set at any time; None where no endpoint has a cap: each request saves a call."""
        self._rng = rng
        self._drain = DrainRate()
        self._claimed = 0  # Let in by `_wake`, but not yet awake to take their place.

    def try_enter(self) -> bool:
        """Enter if there is a place and nobody waits for it; then `leave` is owed. 0.1 µs."""
        if self.inflight >= self._limit or self._queue.count:
            return False
        if self.room is not None and self.room() <= self._claimed:
            return False
        self.inflight += 1
        return True

    async def enter(
        self,
        priority: Priority,
        tenant: bytes,
        deadline: float,
        now: float,
        weight: float = 1.0,
    ) -> None:
        """Enter as soon as it is the request's turn; then `leave` is owed.

        `deadline` is monotonic seconds, inf for none. `weight` is the tenant's share next to
        others'. Raises `GatewayError` 503 with Retry-After when the request is refused: at once
        where that can be foreseen, else when its time in the queue has run out.
        """
        if self.try_enter():
            return
        ticket = Ticket(priority, tenant, weight, deadline, now, _new_future())
        self._join(ticket, now)
        try:
            await ticket.wake
        except BaseException:  # Whatever ended the wait, a place that was given must go on.
            self._abandon(ticket)
            raise
        self._claimed -= 1

    def _join(self, ticket: Ticket[Future[None]], now: float) -> None:
        if not self._queue:
            self._drain.filled(now)
        rate = self._drain.per_s(self.inflight, now, waiting=True)
        reason = self._queue.hopeless(ticket, rate, now)
        if reason is not None:
            raise self._refusal(reason, rate)
        victim = self._queue.push(ticket)
        if victim is ticket:
            raise self._refusal(Refusal.FULL, rate)
        if victim is not None:
            self._turn_away(victim, Refusal.DISPLACED, rate)

    def _abandon(self, ticket: Ticket[Future[None]]) -> None:
        """Undo what `ticket` had: its place in the queue, or the one that it was just given."""
        wake = ticket.wake
        if self._queue.remove(ticket) or not wake.done() or wake.cancelled():
            return
        if wake.exception() is None:
            self._claimed -= 1
            self.inflight -= 1
            self._wake()

    def leave(self, since: float, now: float) -> None:
        """Give the place back that was taken at `since`; the next in turn gets it. 0.3 µs."""
        self.inflight -= 1
        if self._limit < sys.maxsize or self.room is not None:  # Else nobody ever waits.
            self._drain.ended(now - since, now)
            if self._queue.count:
                self._wake()

    def poke(self) -> None:
        """There may be room that no `leave` told of: an endpoint came back, or a limit grew."""
        self._wake()

    def limit(self, max_inflight: int | None, size: int, timeout_s: float) -> None:
        """Hold to other limits from here on; what is under way or waits stays."""
        self._limit = sys.maxsize if max_inflight is None else max_inflight
        self._queue.size = size
        self._queue.timeout_s = timeout_s
        self._wake()

    def sweep(self, now: float) -> None:
        """Refuse what waits in vain. To be called a few times a second; O(waiting)."""
        if not self._queue:
            return
        self._wake()
        rate = self.drain_rate(now)
        for ticket, reason in self._queue.expire(rate, now):
            self._turn_away(ticket, reason, rate)

    def end(self) -> None:
        """Refuse all that wait: the gateway is being ended. They count as no refusals for load."""
        while self._queue.count:
            wake = self._queue.pop().wake
            if not wake.done():
                wake.set_exception(shutting_down())

    def waiting(self, priority: Priority) -> int:
        """Return how many requests of the class wait."""
        return self._queue.waiting(priority)

    def drain_rate(self, now: float) -> float:
        """Return how many requests a second come to an end, as long as enough are under way."""
        return self._drain.per_s(self.inflight, now, waiting=bool(self._queue))

    def _wake(self) -> None:
        """Let in as many as there are places for, in their order."""
        queue = self._queue
        while queue.count and self.inflight < self._limit:
            if self.room is not None and self.room() <= self._claimed:
                return
            wake = queue.pop().wake
            if not wake.done():  # Else its client has left, and its task has yet to hear of it.
                self.inflight += 1
                self._claimed += 1
                wake.set_result(None)

    def _turn_away(self, ticket: Ticket[Future[None]], reason: Refusal, rate: float) -> None:
        if not ticket.wake.done():
            ticket.wake.set_exception(self._refusal(reason, rate))

    def _refusal(self, reason: Refusal, rate: float) -> GatewayError:
        """Count it, and say when another try is worth it: when those that wait have begun."""
        self.refused[reason] += 1
        return overloaded(_MESSAGES[reason], self._retry_after_s(rate))

    def retry_after_s(self, now: float) -> int:
        """Return after how many seconds a request that found no room may find some."""
        return self._retry_after_s(self.drain_rate(now))

    def _retry_after_s(self, rate: float) -> int:
        wait_s = (len(self._queue) + 1) / rate * (1.0 + SPREAD * self._rng.random())
        return min(MAX_RETRY_AFTER_S, max(1, ceil(wait_s)))


def _new_future() -> Future[None]:
    return asyncio.get_running_loop().create_future()

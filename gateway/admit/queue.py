"""Who waits, who is next, and who waits in vain?

Pure. Three classes, the more urgent first, and inside a class fair shares between tenants
(`gateway.admit.fair`). The order of the classes has one exception: after 7 grants in succession
that passed over a waiting lower class, the next goes to a lower class, the one whose oldest
request has waited longest. So a lower class has at least 1 of 8 grants, and none starves.

The queue is bounded. When it is full, a newcomer takes the place of the newest request of the
lowest class below its own; failing that, of the newest request of the tenant of its class that
crowds the others out; failing that, it is refused.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from gateway.admit.fair import FairQueue
from gateway.admit.ticket import Priority, Refusal, Ticket

T = TypeVar("T")

PASSED_OVER = 7
"""Grants in succession that may pass over a waiting lower class."""


class Queue(Generic[T]):
    """At most `size` waiting requests, each for at most `timeout_s` seconds."""

    __slots__ = ("_classes", "_passed", "_seq", "count", "size", "timeout_s")

    def __init__(self, size: int, timeout_s: float) -> None:
        self.size = size
        self.timeout_s = timeout_s
        self._classes: tuple[FairQueue[T], ...] = tuple(FairQueue() for _ in Priority)
        self.count = 0
        """How many wait; an attribute because each request reads it."""
        self._seq = 0
        self._passed = 0

    def __len__(self) -> int:
        return self.count

    def waiting(self, priority: Priority) -> int:
        """Return how many requests of the class wait."""
        return len(self._classes[priority])

    def push(self, ticket: Ticket[T]) -> Ticket[T] | None:
        """Let `ticket` wait. Return who has to go for it: nobody, another, or `ticket` itself."""
        victim = None
        if self.count >= self.size:
            victim = self._victim(ticket)
            if victim is None:
                return ticket
            self.remove(victim)
        self._seq += 1
        ticket.seq = self._seq
        self._classes[ticket.priority].push(ticket)
        self.count += 1
        return victim

    def _victim(self, ticket: Ticket[T]) -> Ticket[T] | None:
        for lower in reversed(self._classes[ticket.priority + 1 :]):
            if len(lower):
                return lower.newest()
        return self._classes[ticket.priority].crowding(ticket.tenant, ticket.weight)

    def pop(self) -> Ticket[T]:
        """Take out the one that is granted. Raises `IndexError` when nothing waits. O(log n)."""
        chosen: FairQueue[T] | None = None
        lower: list[FairQueue[T]] = []
        for fair in self._classes:
            if len(fair):
                if chosen is None:
                    chosen = fair
                else:
                    lower.append(fair)
        if chosen is None:
            raise IndexError("nothing waits")
        if not lower:
            self._passed = 0
        elif self._passed < PASSED_OVER:
            self._passed += 1
        else:
            self._passed = 0
            chosen = min(lower, key=lambda fair: fair.oldest().seq)
        self.count -= 1
        return chosen.pop()

    def remove(self, ticket: Ticket[T]) -> bool:
        """Take `ticket` out: its client has left. Return False if it does not wait. O(1)."""
        removed = self._classes[ticket.priority].remove(ticket)
        if removed:
            self.count -= 1
        return removed

    def hopeless(self, ticket: Ticket[T], rate: float, now: float) -> Refusal | None:
        """Say why it is no use to let `ticket` wait, or None if there is hope.

        `rate` is grants per second. The estimate counts only the turns of those ahead, so it errs
        on the side of hope: neither its own turn nor its own answer has a time in it. O(1).
        """
        ahead = sum(len(self._classes[above]) for above in range(ticket.priority))
        ahead += self._classes[ticket.priority].ahead(ticket.tenant, ticket.weight)
        wait_s = ahead / rate
        if now + wait_s >= ticket.deadline:
            return Refusal.DEADLINE
        return Refusal.BACKLOG if wait_s > self.timeout_s else None

    def expire(self, rate: float, now: float) -> list[tuple[Ticket[T], Refusal]]:
        """Take out and return those that wait in vain, each with the reason.

        That is: those that have waited for `timeout_s`, and those whose deadline will have passed
        when those ahead of them have been granted, at `rate` a second. O(n), 0.6 µs each.
        """
        gone: list[tuple[Ticket[T], Refusal]] = []
        above = 0
        for fair in self._classes:
            for ahead, ticket in fair.positions():
                if now + (above + ahead) / rate >= ticket.deadline:
                    gone.append((ticket, Refusal.DEADLINE))
                elif now - ticket.since >= self.timeout_s:
                    gone.append((ticket, Refusal.TIMEOUT))
            above += len(fair)
        for ticket, _ in gone:
            self.remove(ticket)
        return gone

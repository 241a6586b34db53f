"""Of the waiting requests of one priority class, whose turn is it?

Pure. Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): a tenant's next request has a
start tag, the smallest tag goes next, and each request served moves its tenant's tag on by
1 / weight. While two tenants both wait, what they were given per weight differs by no more than
one request of each. Only what is served is charged: a tag belongs to the tenant, not to the
request, so requests that leave the queue cost their tenant nothing.

Inside a tenant the order is that of arrival. Costs, n tenants waiting: push and pop O(log n),
removal O(1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from heapq import heappop, heappush, heapreplace
from typing import Generic, TypeVar

from gateway.admit.ticket import Ticket

T = TypeVar("T")

IDLE_TENANTS = 1024
"""Tenants whose tag is kept though nothing of theirs waits. Forgetting one gives it at most one
request too many, and only while others wait."""


class _Flow(Generic[T]):
    """What one tenant has waiting."""

    __slots__ = ("in_heap", "start", "waiting", "weight")

    def __init__(self) -> None:
        self.waiting: OrderedDict[int, Ticket[T]] = OrderedDict()
        self.start = 0.0
        """Start tag of its next request; where nothing waits, the end of its last."""
        self.weight = 0.0
        self.in_heap = False


class FairQueue(Generic[T]):
    """Waiting requests, ordered fairly between their tenants. It has no bound of its own."""

    __slots__ = ("_active", "_arrivals", "_flows", "_heap", "_virtual", "_weight")

    def __init__(self) -> None:
        self._arrivals: OrderedDict[int, Ticket[T]] = OrderedDict()
        self._flows: dict[bytes, _Flow[T]] = {}
        # One entry for each tenant with something waiting, and for some that have lost it since;
        # `pop` drops those when they come to the top. An entry's tag stays right if its tenant
        # comes back before that: what is in the heap is never behind `_virtual`.
        self._heap: list[tuple[float, int, _Flow[T]]] = []
        self._virtual = 0.0
        self._active = 0
        self._weight = 0.0

    def __len__(self) -> int:
        return len(self._arrivals)

    def oldest(self) -> Ticket[T]:
        """Return the one that came first. Raises `StopIteration` when nothing waits."""
        return next(iter(self._arrivals.values()))

    def newest(self) -> Ticket[T]:
        """Return the one that came last. Raises `StopIteration` when nothing waits."""
        return next(reversed(self._arrivals.values()))

    def push(self, ticket: Ticket[T]) -> None:
        """Let `ticket` wait; its `seq` must be larger than that of all before it."""
        flow = self._flows.get(ticket.tenant)
        if flow is None:
            if len(self._flows) >= 2 * self._active + IDLE_TENANTS:
                self._flows = {key: flow for key, flow in self._flows.items() if flow.in_heap}
            flow = self._flows[ticket.tenant] = _Flow()
        if flow.waiting:
            self._weight += ticket.weight - flow.weight
        else:
            self._weight += ticket.weight
            self._active += 1
            flow.start = max(flow.start, self._virtual)
            if not flow.in_heap:
                flow.in_heap = True
                heappush(self._heap, (flow.start, ticket.seq, flow))
        flow.weight = ticket.weight
        flow.waiting[ticket.seq] = ticket
        self._arrivals[ticket.seq] = ticket

    def pop(self) -> Ticket[T]:
        """Take out the one whose turn it is. Raises `IndexError` when nothing waits."""
        heap = self._heap
        while True:
            start, _, flow = heap[0]
            if flow.waiting:
                break
            flow.in_heap = False
            heappop(heap)
        seq, ticket = flow.waiting.popitem(last=False)
        self._virtual = start
        flow.start = start + 1.0 / ticket.weight
        if flow.waiting:
            heapreplace(heap, (flow.start, next(iter(flow.waiting)), flow))
        else:
            flow.in_heap = False
            heappop(heap)
        self._left(seq, flow)
        return ticket

    def remove(self, ticket: Ticket[T]) -> bool:
        """Take `ticket` out, wherever it stands. Return False if it did not wait here."""
        if ticket.seq not in self._arrivals:
            return False
        flow = self._flows[ticket.tenant]
        del flow.waiting[ticket.seq]
        self._left(ticket.seq, flow)
        return True

    def _left(self, seq: int, flow: _Flow[T]) -> None:
        del self._arrivals[seq]
        if not self._arrivals:  # A new busy period: nobody is owed anything, all tags are equal.
            self._flows.clear()
            self._heap.clear()
            self._virtual = self._weight = 0.0
            self._active = 0
        elif not flow.waiting:
            self._active -= 1
            self._weight -= flow.weight

    def ahead(self, tenant: bytes, weight: float) -> int:
        """Estimate how many of the class would be served before a newcomer of `tenant`. O(1)."""
        flow = self._flows.get(tenant)
        own = 0 if flow is None else len(flow.waiting)
        rest = self._weight - (flow.weight if flow is not None and own else 0.0)
        return self._estimate(own, rest, weight, self._active - (1 if own else 0))

    def positions(self) -> Iterator[tuple[int, Ticket[T]]]:
        """Yield each waiting request with about how many of the class go before it. O(n)."""
        for flow in self._flows.values():
            rest = self._weight - flow.weight
            for own, ticket in enumerate(flow.waiting.values()):
                yield self._estimate(own, rest, flow.weight, self._active - 1), ticket

    def _estimate(self, own: int, rest: float, weight: float, others: int) -> int:
        # While `own` of its tenant are served, each other tenant gets as many per weight, and has
        # one whose tag is equal and whose arrival was earlier.
        return min(len(self._arrivals), own + int(own * rest / weight) + others)

    def crowding(self, tenant: bytes, weight: float) -> Ticket[T] | None:
        """Return the newest of the tenant that has most waiting for its weight; None if `tenant`
        would have more than its share of the queue with one more.

        It is what a full queue gives up for a newcomer, lest who fills it keeps all others out
        (the longest queue is the one that is cut, as in FQ-CoDel, RFC 8290 section 4.2). O(1) for
        a tenant with its share of the queue or more, else O(tenants waiting).
        """
        flow = self._flows.get(tenant)
        own, total = 0, self._weight + weight
        if flow is not None and flow.waiting:
            own, total = len(flow.waiting), total - flow.weight
        if (own + 1) / weight > len(self._arrivals) / total:
            return None  # It has its share. Were all others below its own, so would the mean be.
        most = max(
            (flow for flow in self._flows.values() if flow.waiting),
            key=lambda flow: len(flow.waiting) / flow.weight,
        )
        return next(reversed(most.waiting.values()))

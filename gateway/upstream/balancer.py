"""Which of several equal endpoints takes the next request?

Pure. A new balancer is one class here (or in a file of its own) and one line in `BALANCERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.upstream.endpoint import Endpoint


class Balancer(Protocol):
    """Chooses; keeps whatever memory its rule needs."""

    def pick(self, endpoints: Sequence[Endpoint]) -> Endpoint | None:
        """Return one available endpoint, or None if there is none. O(number of endpoints)."""


class RoundRobin:
    """Each in turn, unavailable ones skipped."""

    def __init__(self) -> None:
        self._next = 0

    def pick(self, endpoints: Sequence[Endpoint]) -> Endpoint | None:
        """Return the next available endpoint after the last one."""
        count = len(endpoints)
        for step in range(count):
            endpoint = endpoints[(self._next + step) % count]
            if endpoint.available():
                self._next = (self._next + step + 1) % count
                return endpoint
        return None


class LeastInflight:
    """The one with the fewest requests of ours per weight; ties go round."""

    def __init__(self) -> None:
        self._next = 0

    def pick(self, endpoints: Sequence[Endpoint]) -> Endpoint | None:
        """Return the least loaded available endpoint."""
        count = len(endpoints)
        best: Endpoint | None = None
        best_load = float("inf")
        for step in range(count):
            endpoint = endpoints[(self._next + step) % count]
            load = (endpoint.inflight + 1) / endpoint.weight
            if load < best_load and endpoint.available():
                best, best_load = endpoint, load
        self._next += 1
        return best


BALANCERS: dict[str, Callable[[], Balancer]] = {
    "round_robin": RoundRobin,
    "least_inflight": LeastInflight,
}

"""What does a balancer see of an endpoint, and for how long does it remember one?

Pure. `gateway.upstream.endpoint.Endpoint` is what fits the protocol at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

SPARE = 16
"""Endpoints beyond twice the present ones that a balancer remembers, see `forget_gone`."""


class Candidate(Protocol):
    """One replica that may be tried."""

    @property
    def id(self) -> str:
        """Its name; the same after a restart of the gateway."""

    @property
    def weight(self) -> float:
        """How much it can carry, relative to the others; above 0."""

    def load(self, now: float) -> float:
        """Return how many requests it works on or has waiting, as far as is known."""

    def cost(self, stream: bool, now: float) -> float:
        """Return its peak-EWMA latency in seconds, decayed to `now`, times (load + 1) / weight.

        0.0 where no latency was observed.
        """


C = TypeVar("C", bound=Candidate)
M = TypeVar("M")


def forget_gone(memory: dict[str, M], candidates: Sequence[Candidate]) -> None:
    """Drop what is remembered of endpoints that are no candidates, once that is too much.

    Not at once: most are back soon. A retry leaves out the endpoint that it has tried, and an
    endpoint at its `max_inflight` is out for as long as a request takes. Bounds the memory of a
    pool whose endpoints change all the time to twice its size and `SPARE`. O(1) when it is not due.
    """
    if len(memory) > 2 * len(candidates) + SPARE:
        present = {candidate.id for candidate in candidates}
        for gone in [known for known in memory if known not in present]:
            del memory[gone]

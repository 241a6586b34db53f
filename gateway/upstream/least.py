"""Which endpoint is the least busy?

Pure. Two rules: the emptiest of all, and the cheaper of two at random.

Why two at random are enough: the longest queue then grows with log log n instead of log n
(Mitzenmacher, "The power of two choices in randomized load balancing", 2001), and gateways that
do not know of each other do not all run to the same empty endpoint, as they do with the emptiest
of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from gateway.upstream.candidate import C
from gateway.upstream.traits import Traits


class LeastInflight:
    """The one with the least load per weight; ties go round, so that none stays cold."""

    needs_session = False
    needs_prompt = False

    __slots__ = ("_start",)

    def __init__(self) -> None:
        self._start = 0

    def pick(self, candidates: Sequence[C], traits: Traits, now: float) -> C:
        """Return the least loaded. O(number of candidates): one `load` each."""
        count = len(candidates)
        start = self._start = (self._start + 1) % count
        best = candidates[start]
        least = (best.load(now) + 1) / best.weight
        for step in range(start + 1, start + count):
            candidate = candidates[step % count]
            load = (candidate.load(now) + 1) / candidate.weight
            if load < least:
                best, least = candidate, load
        return best


class PowerOfTwo:
    """The cheaper of two different ones at random; cost is latency * (load + 1) / weight.

    Latency is the endpoint's peak-EWMA (Finagle's Peak EWMA balancer, whose cost this is): it
    rises at once with a slow answer and falls slowly, by decay, so that one that was slow is tried
    again. Streams are compared by their time to the first token, other answers by their whole time.
    If either of the two has no latency yet, only (load + 1) / weight counts: nobody is
    judged by a figure that the other does not have.

    A host that fails fast does not attract traffic (Linkerd warns of it): no latency is taken
    from an answer that failed. Each failure counts as a slow answer instead, at least a second
    and twice what was known (`gateway.upstream.latency`), so its cost doubles with each failure
    until it loses against every healthy one, and is halved by seven seconds of peace. As long as
    the healthy ones have no latency yet themselves, its breaker is what stops it.
    """

    needs_session = False
    needs_prompt = False

    __slots__ = ("_random",)

    def __init__(self, rng: Random) -> None:
        self._random = rng.random

    def pick(self, candidates: Sequence[C], traits: Traits, now: float) -> C:
        """Return the cheaper of two. O(1): 0.4 µs beyond the two calls of `cost`."""
        count = len(candidates)
        if count == 1:
            return candidates[0]
        # One draw for an ordered pair of different ones: all alike.
        at, other = divmod(int(self._random() * (count * (count - 1))), count - 1)
        if other >= at:
            other += 1
        one, two = candidates[at], candidates[other]
        cost = one.cost(traits.stream, now)
        if cost:
            other_cost = two.cost(traits.stream, now)
            if other_cost:
                return one if cost <= other_cost else two
        busy, other_busy = (one.load(now) + 1) / one.weight, (two.load(now) + 1) / two.weight
        return one if busy <= other_busy else two

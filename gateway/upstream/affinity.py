"""Which endpoint does a session belong to, and when may it be served by another?

Pure. Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2018; HAProxy's
`hash-balance-factor`). Of the ways to hash consistently it is weighted rendezvous hashing
(Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005), because a ring gives
every property only nearly: each endpoint draws an arrival time for each session, exponential with
its weight as the rate, and the first to arrive has the session.

- Shares are as the weights exactly, but for chance among the sessions. A ring of 160 points each
  is 8 % off, and weights from 0.001 to 1,000 would need a million points.
- The times do not depend on who else is there. So an endpoint that joins n - 1 others takes 1/n of
  the sessions and moves no other; one that leaves gives up its own and no other moves; back
  again, it has the same ones as before.
- Every gateway agrees, after each restart: nothing is remembered, and no hash is salted.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from math import log
from random import Random

from gateway.upstream.candidate import C, forget_gone
from gateway.upstream.least import PowerOfTwo
from gateway.upstream.traits import Traits

_MASK = (1 << 64) - 1
_TO_UNIT = 2.0**-52


def hash64(key: bytes) -> int:
    """Return 64 bits that are the same on every machine. 0.7 µs."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def arrival(session: int, endpoint: int, weight: float) -> float:
    """Return when an endpoint arrives at a session, both given by their hashes. 0.5 µs.

    Exponential with the rate `weight`: -ln(u) / weight for u uniform in (0, 1). u is 52 bits of the
    two hashes, mixed by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    bits = session ^ endpoint
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _MASK
    bits ^= bits >> 31
    # 52 bits and a half: never 0, and never rounded to 1.
    return -log(((bits >> 12) + 0.5) * _TO_UNIT) / weight


class Session:
    """A session stays with its endpoint while that has room, else goes to its next one.

    Full is who has `max_load` times its share of the load of all candidates, this request included,
    and no fewer than `free_load` requests: among a handful of them no share means anything, and
    an engine's batch makes the first few nearly free. There always is one with room, for not
    everybody is above the average. A request without a session goes to the cheaper of two.
    """

    needs_session = True
    needs_prompt = False

    __slots__ = ("_free_load", "_hashes", "_max_load", "_without")

    def __init__(self, max_load: float, free_load: float, rng: Random) -> None:
        self._max_load = max_load
        self._free_load = free_load
        self._without = PowerOfTwo(rng)
        self._hashes: dict[str, int] = {}

    def pick(self, candidates: Sequence[C], traits: Traits, now: float) -> C:
        """Return the first to arrive that has room. O(number of candidates): 3 µs, and 0.8 µs each.

        The bound needs the load of all of them anyway, so a ring's O(log n) would gain nothing.
        """
        if not traits.session:
            return self._without.pick(candidates, traits, now)
        loads = [candidate.load(now) for candidate in candidates]
        weights = [candidate.weight for candidate in candidates]
        limit = self._max_load * (sum(loads) + 1) / sum(weights)
        session, hashes = hash64(traits.session), self._hashes
        best, first = candidates[0], float("inf")
        for candidate, load, weight in zip(candidates, loads, weights, strict=True):
            if load < limit * weight or load < self._free_load:
                endpoint = hashes.get(candidate.id)
                if endpoint is None:
                    endpoint = hashes[candidate.id] = hash64(candidate.id.encode())
                time = arrival(session, endpoint, weight)
                if time < first:
                    best, first = candidate, time
        forget_gone(hashes, candidates)
        return best

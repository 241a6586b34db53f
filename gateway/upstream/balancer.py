"""Which of several equal endpoints takes the next request?

Pure. The rules are in `turns`, `least`, `affinity` and `prefix`. A new one is a class with `pick`
and a line in `BALANCERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Protocol

from gateway.upstream.candidate import C
from gateway.upstream.least import LeastInflight, PowerOfTwo
from gateway.upstream.traits import Traits
from gateway.upstream.turns import RoundRobin, Weighted


class Balancer(Protocol):
    """Chooses; keeps whatever memory its rule needs. One for each pool."""

    @property
    def needs_session(self) -> bool:
        """Whether it reads `Traits.session`."""

    @property
    def needs_prompt(self) -> bool:
        """Whether it reads `Traits.prompt`."""

    def pick(self, candidates: Sequence[C], traits: Traits, now: float) -> C:
        """Return one of the candidates; claims nothing.

        They are not empty, and all of them may be tried: who is out, full or tried already has
        been left out. `now` is in monotonic seconds.
        """


@dataclass(frozen=True, slots=True)
class BalancerSpec:
    """What the rules can be told."""

    max_load: float = 1.25
    """How far over its share of the load affinity may take an endpoint. Above 1. 1.25 is what
    Mirrokni, Thorup and Zadimoghaddam recommend ("Consistent hashing with bounded loads", 2018)."""


BALANCERS: Mapping[str, Callable[[BalancerSpec, Random], Balancer]] = MappingProxyType(
    {
        "round_robin": lambda spec, rng: RoundRobin(),
        "weighted": lambda spec, rng: Weighted(),
        "least_inflight": lambda spec, rng: LeastInflight(),
        "p2c": lambda spec, rng: PowerOfTwo(rng),
        "session": lambda spec, rng: PowerOfTwo(rng),
        "prefix": lambda spec, rng: PowerOfTwo(rng),
    }
)
"""The rule for each name that a cluster's `balancer` may have."""

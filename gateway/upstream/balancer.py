"""Which of several equal endpoints takes the next request?

Pure. The rules are in `turns`, `least`, `affinity` and `prefix`. A new one is a class with `pick`
and a line in `BALANCERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Protocol

from gateway.upstream.affinity import Session
from gateway.upstream.candidate import C
from gateway.upstream.least import LeastInflight, PowerOfTwo
from gateway.upstream.prefix import Blocks, Prefix
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
    """How far over its share of the load affinity may take an endpoint, as a factor above 1: the
    1 + epsilon of consistent hashing with bounded loads, and the cluster's `session.max_load`."""
    free_load: float = 4.0
    """Requests on an endpoint that are no reason yet to send a session or a known prompt elsewhere.
    A few in one batch hardly slow each other down; a cold prefill does."""
    blocks: Blocks = field(default_factory=Blocks)
    """How prompts are cut and remembered, for `prefix`."""


BALANCERS: Mapping[str, Callable[[BalancerSpec, Random], Balancer]] = MappingProxyType(
    {
        "round_robin": lambda spec, rng: RoundRobin(),
        "weighted": lambda spec, rng: Weighted(),
        "least_inflight": lambda spec, rng: LeastInflight(),
        "p2c": lambda spec, rng: PowerOfTwo(rng),
        "session": lambda spec, rng: Session(spec.max_load, spec.free_load, rng),
        "prefix": lambda spec, rng: Prefix(spec.max_load, spec.free_load, spec.blocks, rng),
    }
)
"""The rule for each name that a cluster's `balancer` may have."""

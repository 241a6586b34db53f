"""What share of its fair share does an endpoint get while it is new or has just returned?

Slow start, as Envoy has it: as if its weight went from 10 % to 100 %, in a straight line. An engine
that has just started has cold caches and no compiled graphs for the shapes to come; its share of a
burst would all be slow.

It is independent of the balancer: `choose` lets it pick, and keeps a ramping endpoint only with the
probability that its ramp says. Endpoints that ramp alike, as at the gateway's own start, share as
if none did.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # The endpoint imports `factor`.
    from gateway.upstream.balancer import Balancer
    from gateway.upstream.endpoint import Endpoint
    from gateway.upstream.traits import Traits

LEAST = 0.1
"""What a ramp begins with. Envoy's default `min_weight_percent` is 10."""


def factor(left_s: float, slow_start_s: float) -> float:
    """Return the share, 0.1 to 1, with `left_s` seconds of `slow_start_s` to go."""
    if left_s <= 0:
        return 1.0
    return max(LEAST, 1.0 - (1.0 - LEAST) * left_s / slow_start_s) if slow_start_s else 1.0


def choose(
    balancer: Balancer, candidates: Sequence[Endpoint], traits: Traits, now: float, rng: Random
) -> Endpoint:
    """Pick as the balancer does, but a ramping endpoint only as often as its ramp allows.

    O(candidates) for each one passed over; pools call it only while one of theirs is ramping.
    """
    most = max(endpoint.ramp(now) for endpoint in candidates)
    while True:
        picked = balancer.pick(candidates, traits, now)
        if len(candidates) == 1 or rng.random() * most < picked.ramp(now):
            return picked
        candidates = [endpoint for endpoint in candidates if endpoint is not picked]

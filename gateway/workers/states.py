"""How do endpoints, as several processes see them, become one list?

Pure. In flight adds up; of states the worst counts, because it is the one that an operator looks
for. What each worker says stands beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gateway.control.operations import EndpointState
from gateway.control.view import EndpointView, ModelView
from gateway.workers.samples import BREAKERS, STATES, worst

HEALTHS = ("healthy", "unknown", "unhealthy")

Said = Mapping[int, Sequence[EndpointState]]
"""Worker → the endpoints as it sees them."""


def by_endpoint(said: Said) -> dict[tuple[str, str], dict[int, EndpointState]]:
    """Return each endpoint's states by worker, in the order of the first worker that has it."""
    found: dict[tuple[str, str], dict[int, EndpointState]] = {}
    for number, states in said.items():
        for one in states:
            found.setdefault((one.cluster, one.id), {})[number] = one
    return found


def merged(states: Sequence[EndpointState]) -> EndpointState:
    """Return one endpoint's state for the gateway. `states` has one for each worker, not none."""
    inflight = sum(one.inflight for one in states)
    return replace(
        states[0],
        state=worst((one.state for one in states), STATES),
        health=worst((one.health for one in states), HEALTHS),
        breaker=worst((one.breaker for one in states), BREAKERS),
        ejected=any(one.ejected for one in states),
        draining=any(one.draining for one in states),
        ramp=min(one.ramp for one in states),
        inflight=inflight,
        max_inflight=_sum(one.max_inflight for one in states),
        # With its own metrics each worker knows the whole load, without them only its part.
        load=max(inflight, *(one.load for one in states)),
        first_token_ms=_most(one.first_token_ms for one in states),
        whole_ms=_most(one.whole_ms for one in states),
        models=tuple(dict.fromkeys(name for one in states for name in one.models)),
        expires_in_s=_least(one.expires_in_s for one in states),
    )


def merged_views(said: Iterable[Sequence[EndpointView]]) -> list[EndpointView]:
    """Return the endpoints as `/health` shows them: healthy if a worker would ask it."""
    found: dict[tuple[str, str], EndpointView] = {}
    for views in said:
        for one in views:
            before = found.get((one.cluster, one.id))
            found[one.cluster, one.id] = one if before is None else _both(before, one)
    return list(found.values())


def merged_models(said: Iterable[Sequence[ModelView]]) -> list[ModelView]:
    """Return every name that a worker knows."""
    found: dict[str, ModelView] = {}
    for views in said:
        for one in views:
            found.setdefault(one.id, one)
    return list(found.values())


def _both(one: EndpointView, other: EndpointView) -> EndpointView:
    return replace(
        one,
        healthy=one.healthy or other.healthy,
        inflight=one.inflight + other.inflight,
        models=tuple(dict.fromkeys((*one.models, *other.models))),
    )


def _sum(values: Iterable[int | None]) -> int | None:
    given = list(values)
    return None if None in given else sum(one for one in given if one is not None)


def _most(values: Iterable[float | None]) -> float | None:
    return max((one for one in values if one is not None), default=None)


def _least(values: Iterable[float | None]) -> float | None:
    return min((one for one in values if one is not None), default=None)

"""How do the metrics of several processes become those of one gateway?

Pure. Counters and histograms add up. They must also never fall: a counter that falls is taken for
a restart by Prometheus, and everything that it holds counts once more. So what a worker counted
before it ended stays in the sum, and of one that does not answer the last that it said.

Each gauge has a rule of its own, see `RULES`; only workers that answer take part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeAlias

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from gateway.upstream.breaker import State as Breaker
from gateway.upstream.standing import State

Sample: TypeAlias = tuple[str, dict[str, str], float]
"""Name, labels, value."""

Family: TypeAlias = tuple[str, str, str, list[Sample]]
"""Name, help text, type, samples."""

Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]

ADDED = frozenset({"counter", "histogram", "summary", "gaugehistogram"})
"""Types whose samples add up."""

Rule: TypeAlias = Callable[[Iterable[float]], float]

RULES: Mapping[str, Rule] = {
    "process_max_fds": min,
    "process_open_fds": sum,
    "process_resident_memory_bytes": sum,
    "process_start_time_seconds": min,
    "process_virtual_memory_bytes": sum,
    "python_info": max,
    "sluice_cluster_inflight": sum,
    "sluice_config_generation": max,
    "sluice_config_last_reload_successful": min,
    "sluice_endpoint_available": min,
    "sluice_endpoint_latency_seconds": max,
    "sluice_endpoint_load": max,
    "sluice_event_loop_lag_peak_seconds": max,
    "sluice_event_loop_lag_seconds": max,
    "sluice_event_loop_tasks": sum,
    "sluice_inflight": sum,
    "sluice_mirror_inflight": sum,
    "sluice_queue_drain_rate": sum,
    "sluice_queue_waiting": sum,
}
"""What holds for the gateway, of what each worker says. A gauge that is not named: the most."""

STATES: tuple[str, ...] = (
    State.HEALTHY,
    State.OVERLOADED,
    State.HALF_OPEN,
    State.OPEN,
    State.EJECTED,
    State.UNHEALTHY,
    State.UNKNOWN,
    State.LEAVING,
    State.ASLEEP,
    State.DRAINING,
)
"""From best to worst; what an operator did, or must, is the worst."""

BREAKERS: tuple[str, ...] = (Breaker.CLOSED, Breaker.HALF_OPEN, Breaker.OPEN)

_RANKED: Mapping[str, tuple[str, ...]] = {
    "sluice_endpoint_state": STATES,
    "sluice_endpoint_breaker_state": BREAKERS,
}
"""Gauges with a label `state`, of which exactly one is 1: the worst that any worker says."""


def worst(states: Iterable[str], order: tuple[str, ...]) -> str:
    """Return the state that comes last in `order`."""
    return max(states, key=order.index)


def encoded(registry: CollectorRegistry) -> bytes:
    """Return everything that a registry collects; about 2 µs a sample."""
    families: list[Family] = [
        (
            one.name,
            one.documentation,
            one.type,
            [(each.name, each.labels, float(each.value)) for each in one.samples],
        )
        for one in registry.collect()
    ]
    return msgspec.json.encode(families)


_DECODER = msgspec.json.Decoder(list[Family])


def decoded(data: bytes) -> list[Family]:
    """Return what `encoded` was given. Raises `msgspec.ValidationError` or `DecodeError`."""
    return _DECODER.decode(data)


class Totals:
    """What all workers have counted, those that have ended included.

    What has ended is kept by series, so it grows with the number of series, not of restarts.
    """

    def __init__(self) -> None:
        self._last: dict[int, list[Family]] = {}
        self._ended: dict[Key, float] = {}
        self._about: dict[str, tuple[str, str]] = {}
        """Family → help text and type, in the order in which they were first seen."""

    def take(self, number: int, families: list[Family]) -> None:
        """Note what a worker says now."""
        self._last[number] = families
        for name, text, kind, _ in families:
            self._about.setdefault(name, (text, kind))

    def ended(self, number: int) -> None:
        """Note that the process is gone; the next of its number counts from 0."""
        for _, _, kind, samples in self._last.pop(number, ()):
            if kind in ADDED:
                _add(self._ended, samples)

    def merged(self, answered: Collection[int]) -> list[Metric]:
        """Return every family; gauges only of the workers that answered."""
        counts: dict[str, dict[Key, float]] = {}
        gauges: dict[str, dict[Key, list[float]]] = {}
        for number, families in self._last.items():
            for name, _, kind, samples in families:
                if kind in ADDED:
                    _add(counts.setdefault(name, {}), samples)
                elif number in answered:
                    _gather(gauges.setdefault(name, {}), samples)
        self._add_ended(counts)
        result = []
        for name, (text, kind) in self._about.items():
            values = counts.get(name) if kind in ADDED else _ruled(name, gauges.get(name, {}))
            if values:
                result.append(_metric(name, text, kind, values))
        return result

    def _add_ended(self, counts: dict[str, dict[Key, float]]) -> None:
        family = {
            f"{name}{suffix}": name
            for name, (_, kind) in self._about.items()
            if kind in ADDED
            for suffix in ("", "_total", "_bucket", "_count", "_sum", "_created")
        }
        for key, value in self._ended.items():
            found = counts.setdefault(family[key[0]], {})
            found[key] = found.get(key, 0.0) + value


def _key(name: str, labels: Mapping[str, str]) -> Key:
    return name, tuple(labels.items())  # All processes write them in the same order.


def _add(into: dict[Key, float], samples: Iterable[Sample]) -> None:
    for name, labels, value in samples:
        key = _key(name, labels)
        into[key] = into.get(key, 0.0) + value


def _gather(into: dict[Key, list[float]], samples: Iterable[Sample]) -> None:
    for name, labels, value in samples:
        into.setdefault(_key(name, labels), []).append(value)


def _ruled(name: str, values: Mapping[Key, list[float]]) -> dict[Key, float]:
    order = _RANKED.get(name)
    if order is not None:
        return _ranked(values, order)
    rule = RULES.get(name, max)
    return {key: rule(found) for key, found in values.items()}


def _ranked(values: Mapping[Key, list[float]], order: tuple[str, ...]) -> dict[Key, float]:
    """Let exactly the worst state of each thing be 1. A 0 that nobody has said is not made up."""
    held: dict[object, str] = {}
    for key, found in values.items():
        thing, state = _without_state(key)
        if max(found) > 0:
            held[thing] = worst((state, held.get(thing, order[0])), order)
    result: dict[Key, float] = {}
    for key, found in values.items():
        thing, state = _without_state(key)
        is_worst = held.get(thing) == state
        if is_worst or min(found) == 0:
            result[key] = float(is_worst)
    return result


def _without_state(key: Key) -> tuple[object, str]:
    labels = dict(key[1])
    state = labels.pop("state")
    return tuple(labels.items()), state


def _metric(name: str, text: str, kind: str, values: Mapping[Key, float]) -> Metric:
    metric = Metric(name, text, kind)
    for (sample, labels), value in values.items():
        metric.add_sample(sample, dict(labels), value)
    return metric

"""How busy does an engine say it is, in its own metrics?

Reads vLLM's Prometheus text. The names are those of vLLM 0.32: gauges `vllm:num_requests_running`,
`vllm:num_requests_waiting`, `vllm:kv_cache_usage_perc` (0 to 1) and `vllm:engine_sleep_state`, one
series for each of the server's engine cores. Or our vision service's: `sluice_vision_queue_rows`,
one series for each version of a model.

Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

STALE_S = 10.0
"""After this age a scrape says nothing; up to there its weight falls in a straight line."""

KV_FULL = 0.9
"""Above this share of its KV cache an engine begins to preempt sequences."""

MAX_NUMBER = 1e9
"""More is no number of requests. Less than none would draw all requests to the engine, and a sum
that is infinite cannot be told in JSON."""

_SERIES = re.compile(
    # Begins with what is literal on purpose: that is found without trying each line.
    rb"\nvllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|engine_sleep_state)"
    rb"(?:\{(.*)\})? ([^ \r\n]+)"
)
_AWAKE = b'sleep_state="awake"'
_VISION = re.compile(rb"\nsluice_vision_queue_rows(?:\{.*\})? ([^ \r\n]+)")
_VISION_TYPE = b"\n# TYPE sluice_vision_queue_rows "


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What one scrape says."""

    running: float
    """Requests in the batch, of everyone, all engine cores together."""
    waiting: float
    """Requests that have not begun."""
    kv_usage: float
    """Share of the KV cache in use, 0 to 1; of the fullest engine core."""
    asleep: bool
    """Whether every engine core sleeps (`POST /sleep`)."""


def parse_load(text: bytes) -> EngineLoad | None:
    """Read a scrape; None if it is of neither kind. Costs 50 µs for the 64 KB of vLLM."""
    values: dict[bytes, list[float]] = {}
    for name, labels, number in _SERIES.findall(b"\n" + text):
        if name == b"engine_sleep_state" and _AWAKE not in labels:
            continue
        value = _number(number)
        if value is not None:
            values.setdefault(name, []).append(value)
    if not values and _VISION_TYPE in text:
        return _vision(text)
    running, waiting = values.get(b"num_requests_running"), values.get(b"num_requests_waiting")
    if running is None or waiting is None:
        return None
    awake = values.get(b"engine_sleep_state")
    return EngineLoad(
        running=sum(running),
        waiting=sum(waiting),
        kv_usage=max(values.get(b"kv_cache_usage_perc", (0.0,))),
        asleep=awake is not None and not any(awake),
    )


def _vision(text: bytes) -> EngineLoad:
    """Rows that run are told by nobody: a batch is over before the next scrape."""
    waiting = sum(_number(number) or 0.0 for number in _VISION.findall(text))
    return EngineLoad(running=0.0, waiting=waiting, kv_usage=0.0, asleep=False)


def _number(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= MAX_NUMBER else None


def extra_load(load: EngineLoad, inflight: int) -> float:
    """Return what the engine has beyond our `inflight` requests, in requests.

    That is: the requests of others (further gateways, direct clients), all that wait once more,
    because a queue is worse than a batch, and from 90 % of the KV cache on the batch again, in
    full when the cache is full, because every sequence in it may be preempted.
    """
    others = max(0.0, load.running + load.waiting - inflight)
    pressure = min(1.0, max(0.0, (load.kv_usage - KV_FULL) / (1 - KV_FULL)))
    return load.waiting + others + pressure * max(1.0, load.running)

"""What does `/metrics` say?

The families that routers read, with the names, labels, buckets and help texts of vLLM 0.32.
Counters are kept by the engine as things happen; gauges are read from the scheduler when asked.
vLLM's own names stay away from what a simulation cannot know (FLOPs, bytes read, multi-modal
caches).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from engines.sim.scheduler import Scheduler

_TOKEN_STEPS = (1, 2, 5)
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_INTER_TOKEN_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
_REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
FINISH_REASONS = ("stop", "length", "abort", "error", "repetition")


class Histogram:
    """Counts of observations by bucket. One observation costs O(log buckets)."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times over."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Yield the exposition lines: cumulative buckets, count and sum."""
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            shown = "+Inf" if bound == float("inf") else float(bound)
            yield f'{name}_bucket{{engine="0",le="{shown}",{labels}}} {float(total)}'
        yield f'{name}_count{{engine="0",{labels}}} {float(total)}'
        yield f'{name}_sum{{engine="0",{labels}}} {self._sum}'


def token_bounds(max_model_len: int) -> tuple[float, ...]:
    """Return vLLM's 1-2-5 buckets up to the context length."""
    bounds, scale = [], 1
    while scale <= max_model_len:
        bounds += [float(step * scale) for step in _TOKEN_STEPS if step * scale <= max_model_len]
        scale *= 10
    return tuple(bounds)


@dataclass(slots=True)
class Counters:
    """What the engine has counted since it started."""

    max_model_len: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    rejections: int = 0
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FINISH_REASONS, 0))
    first_token: Histogram = field(default_factory=lambda: Histogram(_FIRST_TOKEN_S))
    inter_token: Histogram = field(default_factory=lambda: Histogram(_INTER_TOKEN_S))
    end_to_end: Histogram = field(default_factory=lambda: Histogram(_REQUEST_S))
    queue: Histogram = field(default_factory=lambda: Histogram(_REQUEST_S))
    prefill: Histogram = field(default_factory=lambda: Histogram(_REQUEST_S))
    prompt_sizes: Histogram = field(init=False)
    generation_sizes: Histogram = field(init=False)

    def __post_init__(self) -> None:
        bounds = token_bounds(self.max_model_len)
        self.prompt_sizes = Histogram(bounds)
        self.generation_sizes = Histogram(bounds)

    def finish(self, reason: str, generated: int, prompt_tokens: int, elapsed_s: float) -> None:
        """Count one finished sequence."""
        self.finished[reason] += 1
        self.generation_sizes.observe(generated)
        self.prompt_sizes.observe(prompt_tokens)
        self.end_to_end.observe(elapsed_s)


def render(counters: Counters, scheduler: Scheduler, model: str) -> str:
    """Return the exposition text of one engine that serves `model`."""
    labels = f'model_name="{_escaped(model)}"'
    lines: list[str] = []
    for family in _families(counters, scheduler, labels):
        lines.extend(family)
    return "\n".join(lines) + "\n"


def _families(counters: Counters, scheduler: Scheduler, labels: str) -> Iterator[Iterable[str]]:
    yield from _gauges(scheduler, f'engine="0",{labels}', len(scheduler.waiting))
    yield from _totals(counters, scheduler, f'engine="0",{labels}')
    name = "vllm:request_success_total"
    yield _head(name, "counter", "Count of successfully processed requests.")
    for reason, count in counters.finished.items():
        yield (f'{name}{{engine="0",finished_reason="{reason}",{labels}}} {float(count)}',)
    name = "vllm:admission_rejections_total"
    text = "Number of admission attempts rejected by a queue limit, by reason."
    yield _head(name, "counter", text)
    yield (f'{name}{{{labels},reason="max_num_queued_reqs"}} {float(counters.rejections)}',)
    yield from _histograms(counters, labels)
    limits = scheduler.limits
    name = "vllm:cache_config_info"
    caching = scheduler.cache is not None
    sizes = f'block_size="{limits.block_tokens}",enable_prefix_caching="{caching}",engine="0"'
    yield _head(name, "gauge", "Information of the LLMEngine CacheConfig")
    yield (f'{name}{{{sizes},num_gpu_blocks="{limits.blocks}"}} 1.0',)


def _totals(counters: Counters, scheduler: Scheduler, engine: str) -> Iterator[Iterable[str]]:
    queried = counters.prompt_tokens if scheduler.cache is not None else 0
    hits = "Prefix cache hits, in terms of number of cached tokens."
    queries = "Prefix cache queries, in terms of number of queried tokens."
    preempted = "Cumulative number of preemption from the engine."
    prompts = "Number of prefill tokens processed."
    generated = "Number of generation tokens processed."
    for suffix, text, value in (
        ("prefix_cache_queries", queries, queried),
        ("prefix_cache_hits", hits, counters.cached_tokens),
        ("num_preemptions", preempted, 0),  # the simulated scheduler never preempts
        ("prompt_tokens", prompts, counters.prompt_tokens),
        ("generation_tokens", generated, counters.generation_tokens),
    ):
        name = f"vllm:{suffix}_total"
        yield _head(name, "counter", text)
        yield (f"{name}{{{engine}}} {float(value)}",)


def _gauges(scheduler: Scheduler, engine: str, waiting: int) -> Iterator[Iterable[str]]:
    name = "vllm:num_requests_running"
    yield _head(name, "gauge", "Number of requests in model execution batches.")
    yield (f"{name}{{{engine}}} {float(len(scheduler.running))}",)
    name = "vllm:num_requests_waiting"
    yield _head(name, "gauge", "Number of requests waiting to be processed.")
    yield (f"{name}{{{engine}}} {float(waiting)}",)
    name = "vllm:num_requests_waiting_by_reason"
    yield _head(name, "gauge", "Number of waiting requests by reason.")
    yield (f'{name}{{{engine},reason="capacity"}} {float(waiting)}',)
    yield (f'{name}{{{engine},reason="deferred"}} 0.0',)
    name = "vllm:engine_sleep_state"
    yield _head(name, "gauge", "Engine sleep state; awake = 0 means engine is sleeping.")
    for state, value in (("awake", 1.0), ("weights_offloaded", 0.0), ("discard_all", 0.0)):
        yield (f'{name}{{{engine},sleep_state="{state}"}} {value}',)
    name = "vllm:kv_cache_usage_perc"
    yield _head(name, "gauge", "KV-cache usage. 1 means 100 percent usage.")
    yield (f"{name}{{{engine}}} {scheduler.kv_usage()}",)


def _histograms(counters: Counters, labels: str) -> Iterator[Iterable[str]]:
    families = (
        ("request_prompt_tokens", "Number of prefill tokens processed.", counters.prompt_sizes),
        (
            "request_generation_tokens",
            "Number of generation tokens processed.",
            counters.generation_sizes,
        ),
        (
            "time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            counters.first_token,
        ),
        (
            "inter_token_latency_seconds",
            "Histogram of inter-token latency in seconds.",
            counters.inter_token,
        ),
        (
            "e2e_request_latency_seconds",
            "Histogram of e2e request latency in seconds.",
            counters.end_to_end,
        ),
        (
            "request_queue_time_seconds",
            "Histogram of time spent in WAITING phase for request.",
            counters.queue,
        ),
        (
            "request_prefill_time_seconds",
            "Histogram of time spent in PREFILL phase for request.",
            counters.prefill,
        ),
    )
    for suffix, text, histogram in families:
        name = f"vllm:{suffix}"
        yield _head(name, "histogram", text)
        yield histogram.lines(name, labels)


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

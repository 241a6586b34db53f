"""Is the exposition text well-formed, with the families that routers read?"""

import random

from prometheus_client.parser import text_string_to_metric_families

from engines.sim.metrics import Counters, Histogram, render, token_bounds
from engines.sim.scheduler import Limits, Scheduler, Sequence, Timing

_FAMILIES = {
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:num_requests_waiting_by_reason": "gauge",
    "vllm:engine_sleep_state": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:prefix_cache_queries": "counter",
    "vllm:prefix_cache_hits": "counter",
    "vllm:num_preemptions": "counter",
    "vllm:prompt_tokens": "counter",
    "vllm:generation_tokens": "counter",
    "vllm:request_success": "counter",
    "vllm:admission_rejections": "counter",
    "vllm:request_prompt_tokens": "histogram",
    "vllm:request_generation_tokens": "histogram",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:e2e_request_latency_seconds": "histogram",
    "vllm:request_queue_time_seconds": "histogram",
    "vllm:request_prefill_time_seconds": "histogram",
    "vllm:cache_config_info": "gauge",
}


def _scheduler() -> Scheduler:
    return Scheduler(Timing(), Limits(max_num_seqs=2, blocks=10), None, random.Random(1))


def test_prometheus_own_parser_reads_it() -> None:
    """All families with their types, whatever the model is called."""
    text = render(Counters(512), _scheduler(), 'a"b\\c')
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {name: family.type for name, family in families.items()} == _FAMILIES
    labels = {sample.labels["model_name"] for sample in families["vllm:prompt_tokens"].samples}
    assert labels == {'a"b\\c'}


def test_gauges_show_the_scheduler() -> None:
    """Running, waiting and cache usage are read when asked."""
    scheduler = _scheduler()
    for _ in range(3):
        scheduler.submit(Sequence(range(16)), 0.0)
    text = render(Counters(512), scheduler, "m")
    assert 'vllm:num_requests_running{engine="0",model_name="m"} 2.0' in text
    assert 'vllm:num_requests_waiting{engine="0",model_name="m"} 1.0' in text
    assert 'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.2' in text


def test_histogram_buckets_add_up() -> None:
    """A value on a bound belongs to its bucket; counts are cumulative."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert list(histogram.lines("h", 'm="x"')) == [
        'h_bucket{engine="0",le="1.0",m="x"} 2.0',
        'h_bucket{engine="0",le="2.0",m="x"} 3.0',
        'h_bucket{engine="0",le="+Inf",m="x"} 4.0',
        'h_count{engine="0",m="x"} 4.0',
        'h_sum{engine="0",m="x"} 12.0',
    ]


def test_token_buckets_are_vllms() -> None:
    """1-2-5 steps up to the context length, as recorded for one of 512."""
    assert token_bounds(512) == (1, 2, 5, 10, 20, 50, 100, 200, 500)

"""An engine's own metrics say how busy it is, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.load import EngineLoad, extra_load, parse_load
from vision.telemetry import Telemetry

# As vLLM 0.32 writes them, with another family between, and a model name that tries to confuse.
VLLM = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a} 9"} 3.0
vllm:num_requests_running{engine="1",model_name="a} 9"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="a} 9"} 2.0
vllm:num_requests_waiting{engine="1",model_name="a} 9"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="a} 9",reason="capacity"} 7.0
vllm:engine_sleep_state{engine="0",model_name="a} 9",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="0",model_name="a} 9",sleep_state="weights_offloaded"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="a} 9"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="a} 9"} 0.75
http_requests_total{handler="/metrics"} 1.0
"""


def test_engine_cores_are_summed_and_the_fullest_cache_counts() -> None:
    """The running and the waiting of all, and of a cache what is worst."""
    assert parse_load(VLLM) == EngineLoad(running=7, waiting=2, kv_usage=0.75, asleep=False)


def test_series_without_labels_do_as_well() -> None:
    """And without a cache it is taken to be empty."""
    text = b"vllm:num_requests_running 1\r\nvllm:num_requests_waiting 2e0\r\n"
    assert parse_load(text) == EngineLoad(1, 2, 0.0, asleep=False)


@pytest.mark.parametrize(
    ("awake", "asleep"), [([b"1.0"], False), ([b"0.0"], True), ([b"0.0", b"1.0"], False)]
)
def test_it_sleeps_when_no_core_is_awake(awake: list[bytes], asleep: bool) -> None:
    """What kind of sleep it is does not matter."""
    text = b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"
    text += b'vllm:engine_sleep_state{sleep_state="weights_offloaded"} 1.0\n'
    for value in awake:
        text += b'vllm:engine_sleep_state{sleep_state="awake"} ' + value + b"\n"
    load = parse_load(text)
    assert load is not None
    assert load.asleep is asleep


VISION = b"""\
# HELP sluice_vision_queue_rows Rows that wait.
# TYPE sluice_vision_queue_rows gauge
sluice_vision_queue_rows{model="digits} 9",version="1"} 3.0
sluice_vision_queue_rows{model="other",version="2"} 2.0
sluice_vision_queue_rows{model="broken",version="2"} NaN
# TYPE sluice_vision_batch_rows histogram
"""


def test_the_rows_that_wait_at_the_vision_service_are_its_load() -> None:
    """Of all its models together; before it has any there are none."""
    assert parse_load(VISION) == EngineLoad(0, 5, 0.0, asleep=False)
    nothing = b"\n".join(line for line in VISION.splitlines() if line.startswith(b"#"))
    assert parse_load(nothing) == EngineLoad(0, 0, 0.0, asleep=False)


def test_the_vision_service_s_own_page_is_read() -> None:
    """Before it serves a model, and with rows in a queue."""
    telemetry = Telemetry(list)
    assert parse_load(telemetry.exposition()[0]) == EngineLoad(0, 0, 0.0, asleep=False)
    telemetry.series("digits", 1).waiting(4)
    assert parse_load(telemetry.exposition()[0]) == EngineLoad(0, 4, 0.0, asleep=False)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"vllm:num_requests_running 1\n",
        b"vllm:num_requests_waiting 1\n",
        b"vllm:num_requests_running NaN\nvllm:num_requests_waiting 1\n",
        b"vllm:num_requests_running 1\nvllm:num_requests_waiting -7\n",
        b"vllm:num_requests_running 1\nvllm:num_requests_waiting 1e308\n",
        b"vllm:num_requests_running one\nvllm:num_requests_waiting 1\n",
        b"sglang:num_running_reqs 1\n",
    ],
)
def test_what_does_not_say_it_is_nothing(text: bytes) -> None:
    """Not a load of 0, which would draw traffic."""
    assert parse_load(text) is None


@given(st.binary(max_size=200))
def test_no_text_is_too_strange(text: bytes) -> None:
    """Whatever an endpoint answers there."""
    parse_load(b"vllm:num_requests_running " + text + b"\nvllm:num_requests_waiting 1\n")


@pytest.mark.parametrize(
    ("running", "waiting", "kv_usage", "inflight", "extra"),
    [
        (4, 0, 0.5, 4, 0),  # All of it is ours.
        (4, 0, 0.5, 6, 0),  # Some of ours have not reached its batch yet.
        (4, 0, 0.5, 1, 3),  # Another gateway's.
        (4, 2, 0.5, 6, 2),  # A queue counts once more.
        (4, 2, 0.5, 0, 8),
        (4, 0, 0.9, 4, 0),
        (4, 0, 0.95, 4, 2),  # Half of the batch again.
        (4, 0, 1.0, 4, 4),
        (0, 0, 1.0, 0, 1),  # Full of what is cached only: a little worse than an empty one.
        (4, 0, 7.0, 4, 4),
    ],
)
def test_what_it_has_beyond_our_own(
    running: float, waiting: float, kv_usage: float, inflight: int, extra: float
) -> None:
    """In requests, so that it adds to what is in flight."""
    load = EngineLoad(running, waiting, kv_usage, asleep=False)
    assert extra_load(load, inflight) == pytest.approx(extra)

"""One finished request becomes one line of JSON and one count."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Outcome, Usage
from gateway.telemetry.metrics import UNKNOWN_MODEL, Metrics
from gateway.telemetry.record import Record, Recorder, line_of
from tests.support.control import ManualClock

TEXT = st.text(max_size=12)


def record(started_at: float = 10.0) -> Record:
    return Record("chat", b"id-1", "192.0.2.1", started_at)


@given(TEXT, TEXT, TEXT, st.booleans())
def test_a_line_is_one_json_object(model: str, endpoint: str, error: str, stream: bool) -> None:
    """Whatever the names hold: quotes, line ends, halves of surrogate pairs."""
    one = record()
    one.model, one.endpoint, one.error, one.stream = model, endpoint, error, stream
    line = line_of(one)
    assert line.encode().count(b"\n") == 1
    value = json.loads(line)
    assert (value["model"], value["endpoint"], value["stream"]) == (model, endpoint, stream)
    assert value.get("error", "") == error


def test_times_are_milliseconds_since_the_request_began() -> None:
    """The first token only where there was one."""
    one = record(10.0)
    one.ended_at, one.wall_at = 10.25, 1.5
    assert "ttft_ms" not in json.loads(line_of(one))
    one.first_at = 10.125
    value = json.loads(line_of(one))
    assert (value["ts"], value["duration_ms"], value["ttft_ms"]) == (1.5, 250.0, 125.0)


def test_a_client_that_left_is_what_a_record_says_by_itself() -> None:
    """Until something says otherwise: 499, cancelled, no tokens."""
    value = json.loads(line_of(record()))
    assert (value["status"], value["outcome"]) == (499, "cancelled")
    assert (value["prompt_tokens"], value["completion_tokens"]) == (0, 0)


def test_a_finished_record_is_counted_once() -> None:
    """Its outcome, its duration, its tokens; under the series it was given."""
    clock, metrics = ManualClock(20.0), Metrics(list)
    one = record(19.0)
    one.series = metrics.series("m", "chat")
    one.outcome, one.usage, one.first_at = Outcome.SUCCESS, Usage(3, 4, exact=True), 19.5
    Recorder(metrics, None, clock).finish(one)
    series = metrics.series("m", "chat")
    assert {key: count for key, count in series.outcomes.items() if count} == {Outcome.SUCCESS: 1}
    assert (series.prompt_tokens, series.completion_tokens) == (3, 4)
    assert (series.duration.sum, series.first_token.sum) == (1.0, 0.5)


def test_an_unknown_model_makes_no_label() -> None:
    """Clients cannot grow the metrics by inventing names."""
    clock, metrics = ManualClock(20.0), Metrics(list)
    for name in ("a", "b"):
        one = record()
        one.model = name
        Recorder(metrics, None, clock).finish(one)
    assert metrics.series(UNKNOWN_MODEL, "chat").outcomes[Outcome.CANCELLED] == 2

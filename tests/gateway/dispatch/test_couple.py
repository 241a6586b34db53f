"""A live answer and its copy become two sets of figures and one likeness."""

from __future__ import annotations

import pytest

from gateway.dispatch.couple import Both, figures_of, is_whole, liken
from gateway.dispatch.tap import Kept
from gateway.model import Outcome, Usage
from gateway.plan.likeness import Figures
from gateway.telemetry.record import Record

GOOD = Figures(200, 1.0)
HI = b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}'


def record(**values: object) -> Record:
    made = Record("chat", b"r", "", 10.0)
    made.ended_at = 15.0
    made.attempts = 1
    made.status = 200
    for name, value in values.items():
        setattr(made, name, value)
    return made


def both(live: bytes, copy: bytes, *figures: Figures, body: bytes = b"{}") -> Both:
    kept = Kept(), Kept()
    kept[0].plain(live)
    kept[1].plain(copy)
    return Both("chat", body, *(figures or (GOOD, GOOD)), kept, (False, False))


def test_figures_leave_the_queue_out() -> None:
    """A copy waits in none."""
    live = record(queued_s=2.0, first_at=13.0, usage=Usage(1, 7))
    assert figures_of(live) == Figures(200, 3.0, 1.0, 7)
    assert figures_of(record()) == Figures(200, 5.0)


@pytest.mark.parametrize("values", [{"attempts": 2}, {"resumes": 1}])
def test_figures_of_more_attempts_tell_no_time(values: dict[str, int]) -> None:
    """Part of it belongs to an endpoint that failed."""
    live = record(first_at=13.0, usage=Usage(1, 7), **values)
    assert figures_of(live) == Figures(200, output_tokens=7)


@pytest.mark.parametrize(
    ("outcome", "error", "whole"),
    [
        (Outcome.SUCCESS, "", True),
        (Outcome.REJECTED, "", True),
        (Outcome.REJECTED, "model_not_found", False),
        (Outcome.CANCELLED, "", False),
        (Outcome.FAILURE, "upstream_error", False),
        (Outcome.RETRYABLE, "upstream_error", False),
    ],
)
def test_what_a_whole_answer_is(outcome: Outcome, error: str, whole: bool) -> None:
    """An engine's, as far as the client has it."""
    assert is_whole(record(outcome=outcome, error=error)) is whole


def test_good_answers_are_read() -> None:
    """And shown as the text that they say."""
    compared = liken(both(HI, HI.replace(b"hi", b"ho")))
    assert compared.likeness.exact is False
    assert (compared.live, compared.copy) == ("hi", "ho")


def test_a_copy_that_cannot_be_read_says_nothing() -> None:
    """Which is unlike whatever the live answer says; its body is what is shown of it."""
    compared = liken(both(HI, b"what"))
    assert compared.likeness.similarity == 0.0
    assert compared.copy == "what"


def test_live_answers_that_cannot_be_read_compare_figures_only() -> None:
    """So does a pair that is no pair of good answers."""
    compared = liken(both(b"what", HI))
    assert compared.likeness.similarity is None
    assert compared.likeness.latency_ratio == 1.0
    refused = liken(both(b"no", HI, Figures(404), Figures(200)))
    assert refused.likeness.same_status is False
    assert (refused.live, refused.copy) == ("no", HI.decode())


def test_the_request_says_whether_json_is_due() -> None:
    """As its response_format has it."""
    asked = b'{"response_format":{"type":"json_object"}}'
    compared = liken(both(HI, HI, body=asked))
    assert compared.likeness.live_json is False
    assert liken(both(HI, HI)).likeness.live_json is None


def test_the_failure_of_a_copy_is_like_nothing() -> None:
    """Whatever came of it before."""
    compared = liken(both(HI, HI, GOOD, Figures(200, failure="cut")))
    assert compared.likeness.score == 0.0

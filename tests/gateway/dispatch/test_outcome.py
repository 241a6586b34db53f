"""One classifier says what a reply amounts to and how a request ended."""

from __future__ import annotations

import json

import pytest

from gateway.dispatch.outcome import Cause, error_of, judge, outcome_of, verdict_of
from gateway.errors import GatewayError, bad_request, shutting_down, upstream_error
from gateway.model import Outcome
from gateway.relay.reply import Reply
from gateway.relay.watch import ChatWatcher, Failure
from gateway.telemetry.metrics import Histogram
from gateway.wire.guard import read_response_head
from gateway.wire.types import UpstreamError


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (Failure("m"), 502, "upstream_error"),
        (Failure("m", overloaded=True), 503, "overloaded"),
        (Failure("m", timeout=True), 504, "upstream_timeout"),
        (UpstreamError("m"), 502, "upstream_error"),
        (UpstreamError("m", stale=True), 502, "upstream_error"),
        (UpstreamError("m", timeout=True), 504, "upstream_timeout"),
    ],
)
def test_each_failure_has_its_error(
    failure: Failure | UpstreamError, status: int, code: str
) -> None:
    """And its message says what happened."""
    error = error_of(failure)
    assert (error.status, error.code, error.message) == (status, code, "m")


@pytest.mark.parametrize(
    ("status", "failed", "committed", "outcome"),
    [
        (200, None, True, Outcome.SUCCESS),
        (404, None, True, Outcome.REJECTED),
        (200, upstream_error("m"), True, Outcome.FAILURE),
        (502, upstream_error("m"), False, Outcome.RETRYABLE),
        (400, bad_request("m"), False, Outcome.REJECTED),
    ],
)
def test_each_end_has_its_outcome(
    status: int, failed: GatewayError | None, committed: bool, outcome: Outcome
) -> None:
    """Whose fault it was, and whether the client saw a byte."""
    assert outcome_of(status, failed, committed=committed) is outcome


def reply(status: int, body: bytes = b"{}") -> Reply:
    """A whole JSON reply, as a connection would have delivered it."""
    one = Reply(lambda: ChatWatcher(1, strip_usage=False), None, Histogram((1.0,)), lambda: 0.0)
    one.head(read_response_head(status, [(b"content-type", b"application/json")]))
    one.data(body, last=True)
    return one


@pytest.mark.parametrize(
    ("status", "own_credentials", "cause", "code"),
    [
        (301, True, Cause.REFUSED, "upstream_error"),
        (307, False, Cause.REFUSED, "upstream_error"),
        (401, True, Cause.REFUSED, "upstream_error"),
        (403, True, Cause.REFUSED, "upstream_error"),
        (500, False, Cause.BROKEN, "upstream_error"),
        (502, False, Cause.BROKEN, "upstream_error"),
        (503, False, Cause.OVERLOADED, "overloaded"),
        (504, False, Cause.SILENT, "upstream_timeout"),
    ],
)
def test_what_is_no_answer(status: int, own_credentials: bool, cause: Cause, code: str) -> None:
    """A refusal of the gateway's own key is not about the client; a 5xx is about the endpoint."""
    verdict = judge(reply(status), own_credentials=own_credentials)
    assert verdict is not None
    assert verdict.error is not None
    assert (verdict.cause, verdict.error.code) == (cause, code)


@pytest.mark.parametrize(
    ("status", "own_credentials"),
    [(200, True), (400, True), (404, True), (401, False), (403, False)],
)
def test_what_may_be_shown_is_not_judged(status: int, own_credentials: bool) -> None:
    """4xx are the engine's answers."""
    assert judge(reply(status), own_credentials=own_credentials) is None


TOO_LONG = [
    b'{"error":{"message":"m","code":"context_length_exceeded"}}',
    b'{"error":{"message":"m","param":"input_tokens","code":400}}',
    b'{"error":{"message":"This model\'s maximum context length is 4096 tokens."}}',
]


@pytest.mark.parametrize(
    ("one", "cause"),
    [(429, Cause.LIMITED), *((body, Cause.TOO_LONG) for body in TOO_LONG)],
)
def test_what_another_endpoint_or_model_may_do_better(one: int | bytes, cause: Cause) -> None:
    """The engine's own answer is shown if none does, and the endpoint is not at fault."""
    whole = reply(one) if isinstance(one, int) else reply(400, one)
    verdict = judge(whole, own_credentials=True)
    assert verdict is not None
    assert (verdict.cause, verdict.error, verdict.outcome) == (cause, None, Outcome.REJECTED)


@pytest.mark.parametrize(
    "words",
    [
        "cannot schedule new futures after shutdown",
        "The engine is sleeping.",
        shutting_down().message,  # A gateway behind this one.
    ],
)
def test_an_engine_that_is_going_away_says_so(words: str) -> None:
    """As a status or in the stream; its health check may still be well."""
    body = json.dumps({"error": {"message": words, "code": 500}}).encode()
    for status in (200, 500, 503):
        verdict = judge(reply(status, body), own_credentials=True)
        assert verdict is not None
        assert (verdict.cause, verdict.outcome) == (Cause.LEAVING, Outcome.RETRYABLE)


def test_a_gateway_behind_this_one_does_not_go_with_one_of_its_engines() -> None:
    """What it passes on from that engine is quoted once by each of the two."""
    words = b'{"error":{"message":"cannot schedule new futures after shutdown","code":500}}'
    for status in (200, 500):
        inner = judge(reply(status, words), own_credentials=True)
        assert inner is not None
        assert inner.error is not None
        outer = judge(reply(inner.error.status, inner.error.body()), own_credentials=True)
        assert outer is not None
        assert outer.cause is Cause.BROKEN


@pytest.mark.parametrize(
    ("failure", "lost_by", "cause"),
    [
        (UpstreamError("m"), None, Cause.UNREACHABLE),
        (UpstreamError("m", timeout=True), None, Cause.DEAF),
        (UpstreamError("m", ours=True), None, Cause.SCARCE),
        (Failure("m", timeout=True), UpstreamError("m", timeout=True), Cause.SILENT),
        (Failure("m"), UpstreamError("m"), Cause.LOST),
        (Failure("m"), None, Cause.BROKEN),
        (Failure("m", overloaded=True), None, Cause.OVERLOADED),
    ],
)
def test_each_break_has_its_cause(
    failure: Failure | UpstreamError, lost_by: UpstreamError | None, cause: Cause
) -> None:
    """What is done next depends on it."""
    verdict = verdict_of(failure, lost_by)
    assert verdict.cause is cause
    assert verdict.error is not None


def test_a_failure_in_a_200_is_judged_before_its_status() -> None:
    """An error object with status 200 is an error."""
    verdict = judge(reply(200, b'{"error":{"message":"out of memory"}}'), own_credentials=True)
    assert verdict is not None
    assert verdict.error is not None
    assert verdict.error.message == "The engine failed: out of memory"


def test_an_engines_own_words_reach_the_client_cut_short() -> None:
    """The reason is passed on, but not a traceback of any length."""
    body = b'{"error":{"message":"' + b"x" * 5000 + b'"}}'
    verdict = judge(reply(500, body), own_credentials=True)
    assert verdict is not None
    assert verdict.error is not None
    assert verdict.error.message.startswith("The engine answered 500. The engine failed: xxx")
    assert len(verdict.error.message) < 400


def test_a_lack_of_our_own_is_not_the_endpoints_fault() -> None:
    """Neither breaker nor ejection hear of it, and the client may soon try again."""
    verdict = verdict_of(UpstreamError("no descriptors", ours=True))
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.error is not None
    assert (verdict.error.status, verdict.error.code) == (503, "overloaded")
    assert verdict.error.retry_after_s == 1


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (503, b'{"error":{"message":"m","code":"model_not_ready"}}', Cause.UNREADY),
        (503, b'{"error": {"code" : "model_not_ready"}}', Cause.UNREADY),
        (503, b'{"error":{"message":"model_not_ready","code":null}}', Cause.OVERLOADED),
        (500, b'{"error":{"code":"model_not_ready"}}', Cause.BROKEN),
    ],
)
def test_a_model_that_is_not_loaded_is_no_fault(status: int, body: bytes, cause: Cause) -> None:
    """The endpoint says so in a 503 with a code, and has done nothing yet."""
    verdict = judge(reply(status, body), own_credentials=False)
    assert verdict is not None
    assert verdict.cause is cause
    assert (verdict.outcome is Outcome.REJECTED) is (status == 503)

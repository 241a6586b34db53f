"""One classifier says what a reply amounts to and how a request ended."""

from __future__ import annotations

import pytest

from gateway.dispatch.outcome import error_of, judge, outcome_of
from gateway.errors import GatewayError, bad_request, upstream_error
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
    ("status", "own_credentials", "code"),
    [
        (200, True, None),
        (400, True, None),
        (404, True, None),
        (429, True, None),
        (401, False, None),
        (403, False, None),
        (401, True, "upstream_error"),
        (403, True, "upstream_error"),
        (301, True, "upstream_error"),
        (307, False, "upstream_error"),
        (500, False, "upstream_error"),
        (503, False, "overloaded"),
    ],
)
def test_what_a_status_amounts_to(status: int, own_credentials: bool, code: str | None) -> None:
    """4xx are the engine's answers; a refusal of the gateway's own key is not about the client."""
    error = judge(reply(status), own_credentials=own_credentials)
    assert (error.code if error else None) == code


def test_a_failure_in_a_200_is_judged_before_its_status() -> None:
    """An error object with status 200 is an error."""
    error = judge(reply(200, b'{"error":{"message":"out of memory"}}'), own_credentials=True)
    assert error is not None
    assert error.message == "The engine failed: out of memory"


def test_an_engines_own_words_reach_the_client_cut_short() -> None:
    """The reason is passed on, but not a traceback of any length."""
    body = b'{"error":{"message":"' + b"x" * 5000 + b'"}}'
    error = judge(reply(500, body), own_credentials=True)
    assert error is not None
    assert error.message.startswith("The engine answered 500. The engine failed: xxx")
    assert len(error.message) < 400

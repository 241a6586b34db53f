"""One classifier says what a reply amounts to and how a request ended."""

from __future__ import annotations

import pytest

from gateway.dispatch.outcome import error_of, outcome_of
from gateway.errors import GatewayError, bad_request, upstream_error
from gateway.model import Outcome
from gateway.relay.watch import Failure
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

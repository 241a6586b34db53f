"""Errors have the form, the status and the headers that their API's clients branch on."""

from __future__ import annotations

import json

import pytest

from gateway import errors
from gateway.errors import GatewayError
from gateway.model import ErrorShape

EVERY = {
    (400, "invalid_request_error"): errors.bad_request("m", "p"),
    (404, "model_not_found"): errors.model_not_found("m"),
    (503, "no_healthy_upstream"): errors.no_healthy_upstream("m"),
    (502, "upstream_error"): errors.upstream_error("m"),
    (503, "overloaded"): errors.upstream_overloaded("m"),
    (504, "upstream_timeout"): errors.upstream_timeout("m"),
    (500, "internal_error"): errors.internal_error(),
    (401, "invalid_api_key"): GatewayError(401, "invalid_api_key", "m"),
    (429, "rate_limit_exceeded"): GatewayError(429, "rate_limit_exceeded", "m"),
}
CASES = pytest.mark.parametrize(("known", "error"), list(EVERY.items()))


@CASES
def test_openai_errors_have_all_four_keys(known: tuple[int, str], error: GatewayError) -> None:
    """Clients read `error.code` without asking whether it is there."""
    status, code = known
    value = json.loads(error.body())
    assert list(value) == ["error"]
    assert set(value["error"]) == {"message", "type", "param", "code"}
    assert (error.status, value["error"]["code"]) == (status, code)


@CASES
def test_anthropic_errors_have_their_own_form(known: tuple[int, str], error: GatewayError) -> None:
    """`type` at the top and inside, for those clients."""
    value = json.loads(error.body(ErrorShape.ANTHROPIC))
    assert value["type"] == "error"
    assert value["error"]["type"] in {
        *("invalid_request_error", "not_found_error", "api_error"),
        *("authentication_error", "rate_limit_error"),
    }
    assert value["error"]["message"] == error.message


@CASES
def test_an_error_event_is_one_event(known: tuple[int, str], error: GatewayError) -> None:
    """Line ends in a message cannot break it in two."""
    error.message += "\n\ndata: x"
    for shape, prefix in ((ErrorShape.OPENAI, b""), (ErrorShape.ANTHROPIC, b"event: error\n")):
        assert error.event(shape) == prefix + b"data: " + error.body(shape) + b"\n\n"
        assert error.event(shape).count(b"\n\n") == 1


@pytest.mark.parametrize(
    ("error", "retry", "after"),
    [
        (errors.upstream_error("m"), b"false", None),
        (errors.upstream_timeout("m"), b"false", None),
        (errors.upstream_overloaded("m"), b"false", b"1"),
        (errors.overloaded("m", 17), b"true", b"17"),
        (errors.no_healthy_upstream("m"), b"true", b"2"),
        (errors.bad_request("m"), None, None),
    ],
)
def test_clients_are_told_whether_to_retry(
    error: GatewayError, retry: bytes | None, after: bytes | None
) -> None:
    """Not after the gateway's own attempts; yes, and when, where another moment may do."""
    fields = dict(error.headers())
    assert fields[b"content-type"] == b"application/json"
    assert fields.get(b"x-should-retry") == retry
    assert fields.get(b"retry-after") == after

"""Fields cross to the data path and back, ids are read from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control.headers import forwarded, request_id, returned, trace_id

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_forwarded_keeps_what_is_end_to_end() -> None:
    """Authorization and unknown fields travel; framing, handshake and hop-by-hop ones do not."""
    client = [
        (b"host", b"gateway"),
        (b"authorization", b"Bearer k"),
        (b"content-length", b"9"),
        (b"content-type", b"text/plain"),
        (b"connection", b"Upgrade, X-Mine"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-key", b"abc"),
        (b"x-mine", b"for this hop"),
        (b"x-yours", b"1"),
    ]
    assert forwarded(client) == [
        (b"authorization", b"Bearer k"),
        (b"x-yours", b"1"),
        (b"content-type", b"application/json"),
    ]


def test_returned_leaves_the_hosts_own_fields_to_the_host() -> None:
    """Date and Server would stand twice; the answer's other fields keep their order."""
    answer = [
        (b"date", b"x"),
        (b"x-request-id", b"r"),
        (b"server", b"engine"),
        (b"transfer-encoding", b"chunked"),
        (b"content-type", b"application/json"),
    ]
    assert returned(answer) == [(b"x-request-id", b"r"), (b"content-type", b"application/json")]


def test_request_id_is_the_last_valid_one() -> None:
    """An id that could break a log line is as good as none."""
    assert request_id([(b"x-request-id", b"a b")]) is None
    assert request_id([(b"x-request-id", b"")]) is None
    assert request_id([(b"x-request-id", b"x" * 129)]) is None
    assert request_id([(b"x-request-id", b"one"), (b"x-request-id", b"two\n")]) == "one"
    assert request_id([(b"x-request-id", b"one"), (b"x-request-id", b"a.B:c_d-9")]) == "a.B:c_d-9"


@given(st.binary(max_size=200))
def test_request_id_never_lets_other_bytes_through(value: bytes) -> None:
    """Whatever a client sends, an accepted id is plain."""
    found = request_id([(b"x-request-id", value)])
    assert found is None or (found.isascii() and found.isprintable() and " " not in found)


def test_trace_id_of_a_valid_traceparent() -> None:
    """The second field is the trace; a later version may append fields."""
    assert trace_id([(b"traceparent", TRACE)]) == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert trace_id([(b"traceparent", b"01" + TRACE[2:] + b"-more")]) is not None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        TRACE + b"-more",
        b"ff" + TRACE[2:],
        TRACE.upper(),
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
    ],
)
def test_trace_id_of_an_invalid_traceparent(value: bytes) -> None:
    """What the recommendation forbids counts as absent."""
    assert trace_id([(b"traceparent", value)]) is None


def test_trace_id_of_two_traceparents() -> None:
    """Of two nobody knows which one is meant."""
    assert trace_id([(b"traceparent", TRACE), (b"traceparent", TRACE)]) is None

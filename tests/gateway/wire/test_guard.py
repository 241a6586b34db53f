"""A head that two servers could read differently does not come in; what may travel on does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.wire.guard import (
    HOP_BY_HOP,
    Headers,
    Limits,
    body_too_large,
    head_too_large,
    read_head,
    read_response_head,
)

LIMITS = Limits(header_bytes=1000, headers=10, body_bytes=100)
HOST = (b"host", b"h")


def lines(block: bytes) -> list[tuple[bytes, bytes]]:
    pairs = [line.split(b": ", 1) for line in block.split(b"\r\n")[:-1]]
    return [(name, value) for name, value in pairs]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 400),
        ([HOST, HOST], 400),
        ([(b"host", b"")], 400),
        ([(b"host", b"a b")], 400),
        ([(b"host", b"a/b")], 400),
        ([(b"host", b"u@h")], 400),
        ([(b"host", b"h:123456")], 400),
        ([(b"host", b"a,b")], 400),
        ([HOST, (b"content-length", b"-1")], 400),
        ([HOST, (b"content-length", b"+1")], 400),
        ([HOST, (b"content-length", b"1, 1")], 400),
        ([HOST, (b"content-length", b"")], 400),
        ([HOST, (b"content-length", b"101")], 413),
        ([HOST, (b"content-length", b"9" * 500)], 413),
        ([HOST, (b"transfer-encoding", b"gzip")], 400),
        ([HOST, (b"transfer-encoding", b"gzip, chunked")], 400),
        ([HOST, (b"transfer-encoding", b"identity")], 400),
        ([HOST, (b"content-encoding", b"gzip")], 415),
        ([HOST, (b"expect", b"the-unexpected")], 417),
        ([HOST, *[(b"x", b"y")] * 10], 431),
        ([HOST, (b"x", b"y" * 1000)], 431),
    ],
)
def test_what_is_refused(headers: Headers, status: int) -> None:
    """Each with its own status."""
    with pytest.raises(GatewayError) as caught:
        read_head(headers, LIMITS)
    assert caught.value.status == status


@pytest.mark.parametrize(
    "host", [b"h", b"a.b:80", b"127.0.0.1:1", b"[::1]:8000", b"[fe80::1%25eth0]", b"a_b", b"h:"]
)
def test_hosts_that_may_come(host: bytes) -> None:
    """Names and addresses, with or without a port."""
    read_head([(b"host", host)], LIMITS)


def test_the_exact_caps_are_allowed() -> None:
    """The last byte, the last field and the last digit still fit."""
    read_head(
        [
            HOST,
            *[(b"x", b"y")] * 9,
        ],
        LIMITS,
    )
    assert read_head([HOST, (b"content-length", b"100")], LIMITS).content_length == 100
    size = sum(len(part) for part in HOST) + 4
    read_head([HOST, (b"x", b"y" * (1000 - size - 5))], LIMITS)
    with pytest.raises(GatewayError):
        read_head([HOST, (b"x", b"y" * (1000 - size - 4))], LIMITS)


def test_http_1_0_needs_no_host_and_knows_no_chunks() -> None:
    """But two hosts are two too many there as well."""
    read_head([], LIMITS, http_1_0=True)
    for bad in ([HOST, HOST], [(b"transfer-encoding", b"chunked")]):
        with pytest.raises(GatewayError):
            read_head(bad, LIMITS, http_1_0=True)


def test_the_gateways_own_fields_are_read() -> None:
    """They are told apart from what travels on."""
    head = read_head(
        [
            HOST,
            (b"content-length", b"7"),
            (b"content-type", b"application/json"),
            (b"authorization", b"Bearer k"),
            (b"x-request-id", b"id-1"),
            (b"expect", b"100-Continue"),
            (b"accept-encoding", b"gzip"),
            (b"content-encoding", b"identity"),
            (b"transfer-encoding", b"Chunked"),
            (b"accept", b"*/*"),
            (b"traceparent", b"00-1-2-01"),
        ],
        Limits(),
    )
    assert (head.content_length, head.content_type) == (7, b"application/json")
    assert (head.credentials, head.request_id) == (b"authorization: Bearer k\r\n", b"id-1")
    assert head.expects_continue
    assert head.forward == b"accept: */*\r\ntraceparent: 00-1-2-01\r\n"


@pytest.mark.parametrize("value", [b"", b"a b", b"x" * 129, b"a\xff", b"a,b", b'"'])
def test_a_request_id_that_is_none_is_not_taken_over(value: bytes) -> None:
    """Logs and engines get one of ours instead."""
    assert read_head([HOST, (b"x-request-id", value)], LIMITS).request_id is None


FIELD = st.tuples(
    st.sampled_from(
        [
            *(b"x-a", b"x-b", b"accept", b"connection", b"authorization", b"accept-encoding"),
            *sorted(HOP_BY_HOP - {b"transfer-encoding"}),
        ]
    ),
    st.sampled_from([b"x-a", b"X-B, close", b"keep-alive", b"te, x-a", b"", b"1"]),
)


@given(st.lists(FIELD, max_size=8))
def test_nothing_of_this_hop_travels_on(fields: Headers) -> None:
    """Neither hop-by-hop fields, nor any that Connection names, nor the client's credentials."""
    forwarded = lines(read_head([HOST, *fields], LIMITS).forward)
    named = {
        token.strip().lower()
        for name, value in fields
        if name == b"connection"
        for token in value.split(b",")
    }
    gone = HOP_BY_HOP | named | {b"authorization", b"accept-encoding", b"host"}
    assert forwarded == [(name, value) for name, value in fields if name not in gone]


@given(st.lists(FIELD, max_size=8))
def test_nothing_of_the_engines_hop_reaches_the_client(fields: Headers) -> None:
    """The same on the way back; date, server and id are the gateway's."""
    ours = [(b"date", b"d"), (b"server", b"s"), (b"x-request-id", b"i"), (b"content-length", b"3")]
    head = read_response_head(201, [*fields, *ours])
    named = {
        token.strip().lower()
        for name, value in fields
        if name == b"connection"
        for token in value.split(b",")
    }
    kept = [(name, value) for name, value in fields if name not in HOP_BY_HOP | named]
    assert lines(head.lines) == kept
    assert (head.status, head.length) == (201, 3)


@pytest.mark.parametrize(
    ("status", "kind", "streams"),
    [
        (200, b"text/event-stream; charset=utf-8", True),
        (200, b"application/json", False),
        (500, b"text/event-stream", False),
        (200, b"Text/Event-Stream", True),
    ],
)
def test_a_stream_is_told_from_an_answer(status: int, kind: bytes, streams: bool) -> None:
    """And proxies before us are asked not to hold it back."""
    head = read_response_head(status, [(b"content-type", kind)])
    assert head.streams is streams
    assert (b"x-accel-buffering: no\r\n" in head.lines) is streams


def test_refusals_name_the_caps() -> None:
    """So that an operator knows which to raise."""
    assert (body_too_large(LIMITS).status, head_too_large(LIMITS).status) == (413, 431)
    assert "100 bytes" in body_too_large(LIMITS).message
    assert "1000 bytes or 10 headers" in head_too_large(LIMITS).message

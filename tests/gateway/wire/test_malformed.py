"""Requests that two servers could read differently, and what else is not HTTP as we accept it."""

from __future__ import annotations

import pytest

from tests.support.engine import Turn, response
from tests.support.raw import RawClient, post
from tests.support.rig import CHAT
from tests.support.wire import wire

BODY = b'{"model":"m"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
HEAD = LINE + b"Host: gateway\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n"
WHOLE = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = b"POST /v1/completions HTTP/1.1\r\nHost: gateway\r\n" + LENGTH + b"\r\n" + BODY


def with_length(*lines: bytes) -> bytes:
    return HEAD + b"".join(line + b"\r\n" for line in lines) + LENGTH + b"\r\n" + BODY


def chunks(coded: bytes) -> bytes:
    return CHUNKED + b"\r\n" + coded


BAD: dict[str, bytes] = {
    "no-host": LINE + LENGTH + b"\r\n" + BODY,
    "two-hosts": with_length(b"Host: other"),
    "same-host-twice": with_length(b"host: gateway"),
    "empty-host": LINE + b"Host:\r\n" + LENGTH + b"\r\n" + BODY,
    "host-with-space": LINE + b"Host: a b\r\n" + LENGTH + b"\r\n" + BODY,
    "host-with-path": LINE + b"Host: a/b\r\n" + LENGTH + b"\r\n" + BODY,
    "host-with-user": LINE + b"Host: u@a\r\n" + LENGTH + b"\r\n" + BODY,
    "host-list": LINE + b"Host: a, b\r\n" + LENGTH + b"\r\n" + BODY,
    "length-and-coding": HEAD + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + WHOLE,
    "coding-and-length": CHUNKED + LENGTH + b"\r\n" + WHOLE,
    "two-lengths": HEAD + b"Content-Length: 0\r\n" + LENGTH + b"\r\n" + SMUGGLED,
    "same-length-twice": HEAD + LENGTH + LENGTH + b"\r\n" + BODY,
    "length-list": HEAD + b"Content-Length: 13, 13\r\n\r\n" + BODY,
    "length-with-plus": HEAD + b"Content-Length: +13\r\n\r\n" + BODY,
    "length-with-minus": HEAD + b"Content-Length: -13\r\n\r\n" + BODY,
    "length-in-hex": HEAD + b"Content-Length: 0xd\r\n\r\n" + BODY,
    "length-with-fraction": HEAD + b"Content-Length: 13.0\r\n\r\n" + BODY,
    "length-underscored": HEAD + b"Content-Length: 1_3\r\n\r\n" + BODY,
    "length-empty": HEAD + b"Content-Length: \r\n\r\n" + BODY,
    "length-with-gap": HEAD + b"Content-Length: 1 3\r\n\r\n" + BODY,
    "length-overflows": HEAD + b"Content-Length: 18446744073709551629\r\n\r\n" + BODY,
    "coding-gzip": HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + SMUGGLED,
    "coding-gzip-chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + WHOLE,
    "coding-chunked-gzip": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + WHOLE,
    "coding-chunked-twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + WHOLE,
    "coding-twice": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n" + WHOLE,
    "coding-then-identity": CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + WHOLE,
    "coding-identity": HEAD + b"Transfer-Encoding: identity\r\n" + LENGTH + b"\r\n" + BODY,
    "coding-unknown": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + WHOLE,
    "coding-quoted": HEAD + b'Transfer-Encoding: "chunked"\r\n\r\n' + WHOLE,
    "coding-parameter": HEAD + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + WHOLE,
    "coding-vertical-tab": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + WHOLE,
    "coding-space-colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n" + WHOLE,
    "coding-space-colon-and-length": with_length(b"Transfer-Encoding : chunked"),
    "coding-tab-colon": HEAD + b"Transfer-Encoding\t: chunked\r\n\r\n" + WHOLE,
    "coding-folded": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + WHOLE,
    "coding-on-1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n" + WHOLE,
    "line-feed-alone": HEAD.replace(b"\r\n", b"\n") + LENGTH + b"\r\n" + BODY,
    "line-feed-in-head": with_length(b"X-A: 1\nX-B: 2"),
    "line-feed-ends-head": HEAD + LENGTH + b"\n" + BODY,
    "carriage-return-alone": with_length(b"X-A: 1\rX-B: 2"),
    "folded": with_length(b"X-A: 1", b" and more"),
    "folded-with-tab": with_length(b"X-A: 1", b"\tand more"),
    "first-line-folded": LINE + b" X-A: 1\r\n" + HEAD[len(LINE) :] + LENGTH + b"\r\n" + BODY,
    "space-before-colon": with_length(b"X-A : 1"),
    "space-in-name": with_length(b"X A: 1"),
    "no-name": with_length(b": 1"),
    "no-colon": with_length(b"X-A"),
    "nul-in-value": with_length(b"X-A: 1\x002"),
    "nul-in-name": with_length(b"X\x00A: 1"),
    "high-byte-in-name": with_length(b"X\xe9: 1"),
    "control-in-value": with_length(b"X-A: \x01"),
    "chunk-in-0x": chunks(b"0xd\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-with-plus": chunks(b"+d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-with-minus": chunks(b"-d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-without-size": chunks(b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-with-space": chunks(b" d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-space-after": chunks(b"d \r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-overflows": chunks(b"1000000000000000d\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-line-feed": chunks(b"d\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-carriage-return": chunks(b"d\r" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-too-short": chunks(b"c\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-not-ended": chunks(b"d\r\n" + BODY + b"0\r\n\r\n"),
    "chunk-ended-by-line-feed": chunks(b"d\r\n" + BODY + b"\n0\r\n\r\n"),
    "chunk-not-hex": chunks(b"z\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk-extension-line-feed": chunks(b"d;a\nd\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "last-chunk-line-feed": chunks(b"d\r\n" + BODY + b"\r\n0\n\r\n"),
    "trailer-not-a-field": chunks(b"d\r\n" + BODY + b"\r\n0\r\nbad trailer\r\n\r\n"),
    "version-unknown": HEAD.replace(b"HTTP/1.1", b"HTTP/1.2") + LENGTH + b"\r\n" + BODY,
    "version-misspelt": HEAD.replace(b"HTTP", b"http") + LENGTH + b"\r\n" + BODY,
    "method-in-lower-case": HEAD.replace(b"POST", b"post") + LENGTH + b"\r\n" + BODY,
    "method-unknown": HEAD.replace(b"POST", b"POSTE") + LENGTH + b"\r\n" + BODY,
    "tab-for-space": HEAD.replace(b"POST ", b"POST\t") + LENGTH + b"\r\n" + BODY,
    "path-with-space": HEAD.replace(b"/chat", b"/ chat") + LENGTH + b"\r\n" + BODY,
    "path-with-control": HEAD.replace(b"/chat", b"/\x01chat") + LENGTH + b"\r\n" + BODY,
    "not-http": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
}

REFUSED = [
    *[pytest.param(data, 400, id=name) for name, data in BAD.items()],
    pytest.param(
        HEAD.replace(b"HTTP/1.1", b"HTTP/2.0") + LENGTH + b"\r\n" + BODY, 505, id="version-2.0"
    ),
    pytest.param(
        HEAD.replace(b"HTTP/1.1", b"HTTP/0.9") + LENGTH + b"\r\n" + BODY, 505, id="version-0.9"
    ),
    pytest.param(
        HEAD.replace(b" HTTP/1.1", b"") + LENGTH + b"\r\n" + BODY, 505, id="version-missing"
    ),
    pytest.param(with_length(b"Content-Encoding: gzip"), 415, id="gzip"),
    pytest.param(with_length(b"Expect: 200-ok"), 417, id="expect"),
]


async def check_refusal(client: RawClient, status: int) -> None:
    answer = await client.answer()
    assert answer.status == status, answer
    assert answer.header(b"connection") == [b"close"]
    assert answer.header(b"x-request-id")
    assert answer.code
    assert await client.ended()


@pytest.mark.parametrize(("data", "status"), REFUSED)
async def test_it_is_refused_alone(data: bytes, status: int) -> None:
    """One error, then the connection ends; not a byte reaches the engine, nor what follows."""
    async with wire() as rig, rig.client() as client:
        client.send(data + SMUGGLED)
        await check_refusal(client, status)
        assert (rig.engine.raw, rig.engine.requests) == (b"", [])
        assert rig.outcomes() == {"rejected": 1}


@pytest.mark.parametrize(("data", "status"), REFUSED)
async def test_it_is_refused_behind_others(data: bytes, status: int) -> None:
    """Requests before it are answered as ever, those under way first, and nothing after it."""
    turn = Turn()
    async with wire([response(b"{}")], [turn, response(b"[]")]) as rig, rig.client() as client:
        assert (await client.ask(post(CHAT))).body == b"{}"
        client.send(post(CHAT) + data + SMUGGLED)
        await rig.engine.wait_requests(2)
        client.send(SMUGGLED)
        turn.go.set()
        assert (await client.answer()).body == b"[]"
        await check_refusal(client, status)
        assert len(rig.engine.requests) == 2
        assert rig.outcomes() == {"success": 2, "rejected": 1}

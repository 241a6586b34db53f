"""Each row of the error table, through both hosts of the proxy core."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.gateway.wire.conftest import MakeRig
from tests.support.engine import Then, response
from tests.support.raw import Answer, post
from tests.support.rig import CHAT

DEEP = b'{"model":"m","x":' + b"[" * 128 + b"]" * 128 + b"}"
BAD_BODIES: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b'"m"', None),
    (b'{"model":"m",}', None),
    (b'{"model":"m"} {}', None),
    (b"{'model':'m'}", None),
    (b'{"model":"m","x":NaN}', None),
    (b'{"model":"m","x":\xff}', None),
    (b'{"model":"m","x":"\xff"}', None),
    (b'{"model":"m","x":"\x01"}', None),
    (b'{"messages":[]}', "model"),
    (b'{"model":""}', "model"),
    (b'{"model":null}', "model"),
    (b'{"model":7}', "model"),
    (b'{"model":"m","model":"renamed"}', "model"),
    (b'{"model":"m","m\\u006fdel":"renamed"}', "model"),
    (DEEP, None),
]


def check(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Check an error of the gateway's own making; return its inner object."""
    assert (answer.status, answer.code) == (status, code)
    assert answer.header(b"content-type") == [b"application/json"]
    assert len(answer.header(b"x-request-id")) == 1
    error = answer.json["error"]
    assert isinstance(error["message"], str)
    assert error["message"]
    return dict(error)


@pytest.mark.parametrize(("body", "param"), BAD_BODIES)
async def test_a_body_that_is_not_a_request(serve: MakeRig, body: bytes, param: str | None) -> None:
    """400 with the parameter at fault; the engine hears nothing, the connection lives on."""
    async with serve() as rig, rig.client() as client:
        error = check(await client.ask(post(body)), 400, "invalid_request_error")
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert rig.engine.raw == b""
        assert rig.outcomes() == {"rejected": 1}
        assert (await client.ask(post(CHAT))).status == 200


async def test_a_body_as_deep_as_allowed_passes(serve: MakeRig) -> None:
    """128 levels, the object itself counted."""
    async with serve() as rig:
        body = DEEP.replace(b"[" * 128 + b"]" * 128, b"[" * 127 + b"]" * 127)
        assert (await rig.post(body)).status == 200


async def test_an_unknown_model(serve: MakeRig) -> None:
    """404; in metrics it is one label value, whatever clients make up."""
    async with serve() as rig:
        for name in ("nope", "é" * 300, 'x"y\n'):
            error = check(await rig.post({**CHAT, "model": name}), 404, "model_not_found")
            assert (error["type"], error["param"]) == ("invalid_request_error", "model")
        assert rig.engine.raw == b""
        metrics = rig.gateway.view.metrics_text()[0].decode()
        assert (
            'sluice_requests_total{model="unknown",outcome="rejected",route="chat"} 3.0' in metrics
        )
        assert "nope" not in metrics


async def test_an_unknown_model_in_anthropics_shape(serve: MakeRig) -> None:
    """`/v1/messages` has errors of its own kind."""
    async with serve() as rig:
        answer = await rig.post({**CHAT, "model": "nope"}, "/v1/messages")
        assert answer.status == 404
        assert answer.json["type"] == "error"
        assert answer.json["error"]["type"] == "not_found_error"


async def test_routes_and_methods_that_are_not_served(serve: MakeRig) -> None:
    """An engine's other routes, its admin's above all, cannot be reached."""
    async with serve() as rig:
        for path in ("/sleep", "/v1/load_lora_adapter", "/v1/chat%2Fcompletions", "/nope"):
            check(await rig.post(CHAT, path), 404, "not_found")
        async with rig.client() as client:
            request = post(b"").replace(b"POST", b"GET")
            check(await client.ask(request), 405, "method_not_allowed")
        assert rig.engine.raw == b""


async def test_a_body_over_the_cap(serve: MakeRig) -> None:
    """413 from the declared length alone."""
    async with serve() as rig:
        length = {"Content-Length": str(32 * 1024 * 1024 + 1)}
        check(await rig.post(b"{", fields=length), 413, "request_too_large")
        assert rig.engine.raw == b""


async def test_a_compressed_body(serve: MakeRig) -> None:
    """415: a small body could be a large one."""
    async with serve() as rig:
        fields = {"Content-Encoding": "gzip"}
        check(await rig.post(CHAT, fields=fields), 415, "unsupported_media_type")
        assert (await rig.post(CHAT, fields={"Content-Encoding": "identity"})).status == 200
        assert len(rig.engine.requests) == 1


async def test_too_many_headers(serve: MakeRig) -> None:
    """431 for more than 100 fields."""
    async with serve() as rig:
        fields = {f"X-{n}": "1" for n in range(101)}
        check(await rig.post(CHAT, fields=fields), 431, "headers_too_large")
        assert rig.engine.raw == b""


async def test_no_healthy_endpoint(serve: MakeRig) -> None:
    """503 that says when to come again."""
    async with serve() as rig:
        (endpoint,) = rig.gateway.clusters["pool"].endpoints
        endpoint.drain()
        answer = await rig.post()
        error = check(answer, 503, "no_healthy_upstream")
        assert error["type"] == "server_error"
        assert answer.header(b"retry-after") == [b"2"]
        assert answer.header(b"x-should-retry") == [b"true"]


async def test_the_last_endpoint_is_tried_though_its_probes_fail(serve: MakeRig) -> None:
    """A probe may be wrong; where nothing is lost by a try, nobody is refused."""
    async with serve() as rig:
        (endpoint,) = rig.gateway.clusters["pool"].endpoints
        for _ in range(3):
            endpoint.probed(False, rig.clock.now)
        assert (await rig.post()).status == 200


async def test_an_engine_that_cannot_be_reached(serve: MakeRig) -> None:
    """502; what the client reads names no address of the inside."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with serve(cluster={"endpoints": [{"url": f"http://127.0.0.1:{port}"}]}) as rig:
            answer = await rig.post()
            error = check(answer, 502, "upstream_error")
            assert str(port) not in error["message"]
            assert answer.header(b"x-should-retry") == [b"false"]
            assert rig.outcomes() == {"retryable": 1}


ENGINE_ERROR = json.dumps(
    {"error": {"message": "no", "type": "Bad Request", "param": None, "code": 400}}
).encode()


@pytest.mark.parametrize(
    "status", ["400 Bad Request", "404 Not Found", "422 Odd", "429 Too Many Requests", "418 Tea"]
)
async def test_the_engines_own_4xx_passes_unchanged(serve: MakeRig, status: str) -> None:
    """Status, body and fields are the engine's word about this request."""
    script = [response(ENGINE_ERROR, status.encode(), [(b"retry-after", b"7")])]
    async with serve(script) as rig:
        answer = await rig.post()
        assert answer.status == int(status[:3])
        assert answer.body == ENGINE_ERROR
        assert answer.header(b"retry-after") == [b"7"]
        assert rig.outcomes() == {"rejected": 1}


@pytest.mark.parametrize(
    ("status", "seen", "code"),
    [
        (b"500 Oops", 502, "upstream_error"),
        (b"503 Busy", 503, "overloaded"),
        (b"504 Late", 504, "upstream_timeout"),
        (b"599 Odd", 502, "upstream_error"),
        (b"999 Odder", 502, "upstream_error"),
        (b"302 Found", 502, "upstream_error"),
        (b"401 Unauthorized", 502, "upstream_error"),
        (b"403 Forbidden", 502, "upstream_error"),
    ],
)
async def test_an_engines_failure_is_told_as_one(
    serve: MakeRig, status: bytes, seen: int, code: str
) -> None:
    """The engine's reason is in the message; its status is about the gateway, not the client."""
    async with serve([response(b'{"error":{"message":"boom"}}', status)]) as rig:
        error = check(await rig.post(), seen, code)
        if status[:1] == b"5":
            assert "boom" in error["message"]
        assert rig.outcomes() == {"retryable": 1}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"error":{"message":"boom","code":500}}', 502, "upstream_error"),
        (b' { "error" : {"message":"full","code":503}}', 503, "overloaded"),
        (b'{"error":"Unauthorized"}', 502, "upstream_error"),
        (b'{"choices":[{"finish_reason":"abort"}]}', 502, "upstream_error"),
    ],
)
async def test_an_error_inside_a_200(serve: MakeRig, body: bytes, status: int, code: str) -> None:
    """The status line says success, the body does not: the body is believed."""
    async with serve([response(body)]) as rig:
        check(await rig.post(), status, code)


@pytest.mark.parametrize(
    "body", [b'{"error":null,"choices":[]}', b'{"choices":[{"message":{"content":"\\"abort\\""}}]}']
)
async def test_an_answer_that_only_looks_like_an_error(serve: MakeRig, body: bytes) -> None:
    """A null error and content that speaks of aborting are answers."""
    async with serve([response(body)]) as rig:
        assert (await rig.post()).body == body


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000,
        b"SSH-2.0-OpenSSH_9.0\r\n",
        b"",
    ],
    ids=lambda data: data[:60].decode(),
)
async def test_an_engine_that_does_not_speak_http(serve: MakeRig, data: bytes) -> None:
    """502, and a connection that is out of step is not used again."""
    async with serve([data, Then.CLOSE], [response()]) as rig:
        check(await rig.post(), 502, "upstream_error")
        assert (await rig.post()).status == 200
        assert [one.connection for one in rig.engine.requests] == [0, 1]


async def test_bytes_after_an_answer_end_the_connection(serve: MakeRig) -> None:
    """A second answer to one request must never become the answer to the next one."""
    ghost = response(b'{"ghost":1}')
    async with serve([response() + ghost], [response(b'{"mine":1}')]) as rig:
        assert (await rig.post()).json == {"ok": True}
        assert (await rig.post()).json == {"mine": 1}
        assert [one.connection for one in rig.engine.requests] == [0, 1]

"""Which fields travel, in both directions, through both hosts of the proxy core."""

from __future__ import annotations

import re

import pytest

from tests.gateway.wire.conftest import MakeRig
from tests.support.engine import response, stream, token
from tests.support.raw import post
from tests.support.rig import CHAT, STREAM

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def test_a_request_id_is_made(serve: MakeRig) -> None:
    """Every answer has one, and the engine sees the same."""
    async with serve([response()]) as rig:
        seen = set()
        for _ in range(3):
            (made,) = (await rig.post()).header(b"x-request-id")
            assert re.fullmatch(rb"[0-9a-f]{32}", made)
            assert rig.engine.requests[-1].header(b"x-request-id") == [made]
            seen.add(made)
        assert len(seen) == 3


async def test_a_request_id_is_taken_over(serve: MakeRig) -> None:
    """Plain, streamed or refused, the answer carries the client's own id."""
    fields = {"X-Request-Id": "req_1.a:b-C"}
    plain = [response(fields=[(b"x-request-id", b"engine-own")])]
    async with serve(plain, stream(token("a")), [response(b"{}", b"500 Oops")]) as rig:
        for body in (CHAT, STREAM, CHAT):
            answer = await rig.post(body, fields=fields)
            assert answer.header(b"x-request-id") == [b"req_1.a:b-C"]
            assert rig.engine.requests[-1].header(b"x-request-id") == [b"req_1.a:b-C"]
        answer = await rig.post(b"{", fields=fields)
        assert answer.header(b"x-request-id") == [b"req_1.a:b-C"]


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, 'a"b', "é", "a,b"])
async def test_a_request_id_that_is_none_is_replaced(serve: MakeRig, bad: str) -> None:
    """What could break a log line or a header is not taken over."""
    async with serve([response()]) as rig:
        (made,) = (await rig.post(fields={"X-Request-Id": bad})).header(b"x-request-id")
        assert re.fullmatch(rb"[0-9a-f]{32}", made)
        assert rig.engine.requests[0].header(b"x-request-id") == [made]


async def test_fields_for_the_engine_pass(serve: MakeRig) -> None:
    """Trace context and whatever else is end-to-end arrives as it was sent."""
    sent = {
        "traceparent": TRACE,
        "tracestate": "a=1",
        "X-Custom": "two  words",
        "User-Agent": "u",
    }
    async with serve([response()]) as rig:
        await rig.post(fields=sent)
        request = rig.engine.requests[0]
        assert request.header(b"traceparent") == [TRACE.encode()]
        assert request.header(b"tracestate") == [b"a=1"]
        assert request.header(b"x-custom") == [b"two  words"]
        assert request.header(b"user-agent") == [b"u"]


async def test_fields_of_this_hop_do_not_pass(serve: MakeRig) -> None:
    """Hop-by-hop fields, those that Connection names, and what the gateway writes itself."""
    sent = {
        "Connection": "keep-alive, X-Named , x-also",
        "X-Named": "1",
        "X-Also": "1",
        "X-Kept": "1",
        "Keep-Alive": "timeout=5",
        "Proxy-Authorization": "secret",
        "Proxy-Connection": "keep-alive",
        "TE": "trailers",
        "Trailer": "x",
        "Accept-Encoding": "gzip",
        "Authorization": "Bearer client-key",
    }
    async with serve([response()]) as rig:
        await rig.post(fields=sent)
        (host,) = rig.engine.requests[0].header(b"host")
        assert host == b"127.0.0.1:%d" % rig.engine.port
        names = [name for name, _ in rig.engine.requests[0].fields]
        assert sorted(names) == [
            b"content-length",
            b"content-type",
            b"host",
            b"x-kept",
            b"x-request-id",
        ]
        assert b"client-key" not in rig.engine.raw
        assert b"secret" not in rig.engine.raw


async def test_a_body_that_curl_calls_a_form_is_json(serve: MakeRig) -> None:
    """`curl -d` sends its default content type; the checked body is sent as what it is."""
    async with serve([response()]) as rig:
        await rig.post(fields={"Content-Type": "application/x-www-form-urlencoded"})
        assert rig.engine.requests[0].header(b"content-type") == [b"application/json"]


async def test_the_engines_own_hop_does_not_reach_the_client(serve: MakeRig) -> None:
    """Fields between engine and gateway, and those that name a server, end here."""
    fields = [
        (b"Connection", b"keep-alive, x-named"),
        (b"X-Named", b"1"),
        (b"X-Kept", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"Trailer", b"x"),
        (b"Server", b"uvicorn"),
        (b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
    ]
    async with serve([response(fields=fields)]) as rig:
        answer = await rig.post()
        assert sorted(name for name, _ in answer.fields) == [
            b"content-length",
            b"content-type",
            b"date",
            b"set-cookie",
            b"set-cookie",
            b"x-kept",
            b"x-request-id",
        ]
        assert answer.header(b"set-cookie") == [b"a=1", b"b=2"]
        assert answer.header(b"date") != [b"Thu, 01 Jan 1970 00:00:00 GMT"]


async def test_the_clusters_key_is_added(serve: MakeRig) -> None:
    """The engine sees the gateway's credentials, never the client's."""
    async with serve([response()], cluster={"api_key": "engine-key"}) as rig:
        keys = {"Authorization": "Bearer client-key", "X-Api-Key": "client-key-2"}
        await rig.post(fields={**keys, "Api-Key": "client-key-3"})
        request = rig.engine.requests[0]
        assert request.header(b"authorization") == [b"Bearer engine-key"]
        assert b"client-key" not in rig.engine.raw
        assert "engine-key" not in repr(rig.gateway.clusters["pool"].clients)


async def test_the_clients_key_passes_where_the_cluster_says_so(serve: MakeRig) -> None:
    """Then an engine's 401 is about the client, and reaches it."""
    scripts = [response()], [response(b'{"error":"Unauthorized"}', b"401 Unauthorized")]
    async with serve(*scripts, cluster={"forward_authorization": True}) as rig:
        await rig.post(fields={"Authorization": "Bearer client-key"})
        assert rig.engine.requests[0].header(b"authorization") == [b"Bearer client-key"]
        answer = await rig.post(fields={"Authorization": "Bearer wrong"})
        assert (answer.status, answer.json) == (401, {"error": "Unauthorized"})
        await rig.post()
        assert rig.engine.requests[2].header(b"authorization") == []


async def test_a_base_path_goes_before_the_route(serve: MakeRig) -> None:
    """An engine behind a path prefix is asked below it; the client's query does not travel."""
    async with serve([response()], base_path="/team/a/") as rig:
        for path in ("/v1/embeddings", "/v1/embeddings?api-version=1"):
            assert (await rig.post(CHAT, path)).status == 200
            assert rig.engine.requests[-1].line == b"POST /team/a/v1/embeddings HTTP/1.1"


async def test_a_key_does_not_stay_on_the_connection(serve: MakeRig) -> None:
    """Each request of a kept-alive connection brings its own credentials, or none."""
    async with (
        serve([response()], cluster={"forward_authorization": True}) as rig,
        rig.client() as client,
    ):
        for key in (["Bearer a"], ["Bearer b"], [], ["Bearer a"]):
            fields = {"Authorization": key[0]} if key else {}
            await client.ask(post(CHAT, fields=fields))
            sent = rig.engine.requests[-1].header(b"authorization")
            assert sent == [one.encode() for one in key]

"""Where one request ends and the next begins on a client's connection."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.engine import DONE, Then, Turn, finish, response, stream, token
from tests.support.raw import CutError, RawClient, post
from tests.support.rig import CHAT, STREAM, eventually
from tests.support.wire import wire

LIVE = b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n"
CHAT_BYTES = post(CHAT)


def chunked(*pieces: bytes, path: str = "/v1/chat/completions", end: bytes = b"0\r\n\r\n") -> bytes:
    """Write one POST in chunked coding."""
    head = f"POST {path} HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces) + end


def numbered(number: int) -> dict[str, object]:
    return {**CHAT, "seed": number}


async def test_answers_keep_the_order_of_their_requests() -> None:
    """Requests of both planes sent at once are answered one by one, each by the right engine."""
    scripts = [[response(b'{"n":%d}' % n)] for n in range(4)]
    async with wire(*scripts) as rig, rig.client() as client:
        client.send(
            post(numbered(0))
            + LIVE
            + post(numbered(1))
            + post(numbered(2))
            + LIVE
            + LIVE
            + post(numbered(3))
        )
        for want in (0, None, 1, 2, None, None, 3):
            answer = await client.answer()
            assert answer.status == 200
            if want is not None:
                assert answer.json == {"n": want}
        assert [one.json["seed"] for one in rig.engine.requests] == [0, 1, 2, 3]
        assert (await client.ask(LIVE)).status == 200


async def test_a_later_request_waits_for_an_earlier_answer() -> None:
    """The engine sees the second only when the first is answered, a stream as well."""
    turn = Turn()
    first = [*stream(token("a"))[:2], turn, *stream(finish(), DONE)[1:]]
    async with wire(first, [response(b"[]")]) as rig, rig.client() as client:
        client.send(post(STREAM) + CHAT_BYTES)
        await client.head()
        await turn.reached.wait()
        assert len(rig.engine.requests) == 1
        turn.go.set()
        pieces = [piece async for piece in until_last(client)]
        assert pieces[-1].endswith(DONE)
        assert (await client.answer()).body == b"[]"
        assert rig.outcomes() == {"success": 2}


async def until_last(client: RawClient):  # type: ignore[no-untyped-def]
    while piece := await client.piece():
        yield piece


@pytest.mark.parametrize("learnt", [False, True], ids=["first", "familiar"])
@pytest.mark.parametrize("cut", [1, 40, len(CHAT_BYTES) - 1, len(CHAT_BYTES), len(CHAT_BYTES) + 3])
async def test_requests_may_come_in_any_pieces(learnt: bool, cut: int) -> None:
    """A read that ends inside a head, a body or the next head changes nothing."""
    async with wire() as rig, rig.client() as client:
        if learnt:
            await client.ask(CHAT_BYTES)
        data = CHAT_BYTES + post(numbered(1)) + LIVE
        client.send(data[:cut])
        await asyncio.sleep(0.01)  # So that the rest is a read of its own.
        client.send(data[cut:])
        assert [(await client.answer()).status for _ in range(3)] == [200, 200, 200]
        assert rig.engine.requests[-1].json == numbered(1)
        assert len(rig.engine.requests) == 2 + learnt


async def test_an_empty_body_is_refused_and_the_next_request_served() -> None:
    """A declared length of 0 has no body, also behind a head that is known but for its length."""
    async with wire() as rig, rig.client() as client:
        assert (await client.ask(CHAT_BYTES)).status == 200
        client.send(post(b"") + CHAT_BYTES + post(b"") + LIVE)
        assert [(await client.answer()).status for _ in range(4)] == [400, 200, 400, 200]
        client.send(post(b""))
        assert (await client.answer()).code == "invalid_request_error"
        assert len(rig.engine.requests) == 2


async def test_a_body_without_length_or_chunks_is_none() -> None:
    """Without framing a POST ends with its head (RFC 9112 §6.3): what follows is a request."""
    async with wire() as rig, rig.client() as client:
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n\r\n" + LIVE)
        assert [(await client.answer()).status for _ in range(2)] == [400, 200]
        assert rig.engine.requests == []


async def test_chunked_bodies_reach_the_engine_with_a_length() -> None:
    """Sizes in upper case, with zeros, extensions, trailers and any split are one body."""
    body = b'{"model":"m","messages":[]}'
    coded = b"00001B;name=value\r\n" + body + b"\r\n0;last\r\nX-Trailer: 1\r\nHost: other\r\n\r\n"
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: Chunked\r\n\r\n"
    )
    async with wire() as rig, rig.client() as client:
        client.send(head + coded + chunked(*[body[n : n + 1] for n in range(len(body))]))
        for _ in range(2):
            assert (await client.answer()).status == 200
        for request in rig.engine.requests:
            assert request.body == body
            assert request.header(b"content-length") == [b"27"]
            assert request.header(b"transfer-encoding") == request.header(b"x-trailer") == []
            assert request.header(b"host") == [rig.engine.url.removeprefix("http://").encode()]


async def test_targets_in_other_forms() -> None:
    """Absolute form and a query reach the same route; the engine gets the plain path."""
    async with wire() as rig, rig.client() as client:
        for path in ("http://other/v1/chat/completions", "/v1/chat/completions?api-version=1"):
            assert (await client.ask(post(CHAT, path))).status == 200
        lines = {request.line for request in rig.engine.requests}
        assert lines == {b"POST /v1/chat/completions HTTP/1.1"}


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/", "//v1/chat/completions", "/v1/chat%2Fcompletions", "/sleep"]
)
async def test_other_paths_never_reach_an_engine(path: str) -> None:
    """Only the table's own spelling of a path is forwarded."""
    async with wire() as rig:
        assert 400 <= (await rig.post(path=path)).status < 500
        assert rig.engine.raw == b""


@pytest.mark.parametrize("fields", [b"", b"Host: gateway\r\n", b"Connection: keep-alive\r\n"])
async def test_http_1_0(fields: bytes) -> None:
    """A Host is not required; the answer has a length and the connection ends with it."""
    body = b'{"model":"m"}'
    head = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: 13\r\n" + fields
    async with wire() as rig, rig.client() as client:
        client.send(head + b"\r\n" + body + LIVE)
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b'{"ok":true}')
        assert answer.header(b"connection") == [b"close"]
        assert await client.ended()
        assert len(rig.engine.requests) == 1


async def test_http_1_0_streams_end_with_their_connection() -> None:
    """No chunked coding for a client that does not know it."""
    request = post(STREAM).replace(b"HTTP/1.1", b"HTTP/1.0")
    events = (token("a"), finish(), DONE)
    turn = Turn()
    steps = stream(*events)
    async with wire([*steps[:2], turn, *steps[2:]]) as rig, rig.client() as client:
        client.send(request)
        await turn.reached.wait()
        answer = await client.head()
        turn.go.set()
        assert answer.header(b"transfer-encoding") == answer.header(b"content-length") == []
        answer.body = await client.rest()
        assert answer.body == b"".join(events)
        assert rig.outcomes() == {"success": 1}


async def test_a_request_may_close_the_connection() -> None:
    """After the answer to `Connection: close` nothing more is read or served."""
    async with wire() as rig, rig.client() as client:
        client.send(post(CHAT, fields={"Connection": "close"}) + CHAT_BYTES)
        answer = await client.answer()
        assert (answer.status, answer.header(b"connection")) == (200, [b"close"])
        assert await client.ended()
        assert len(rig.engine.requests) == 1


async def test_the_body_is_asked_for() -> None:
    """`100 Continue` comes before the body, and the field goes no further."""
    async with wire() as rig, rig.client() as client:
        for path in ("/v1/chat/completions", "/v1/generate"):
            request = post({"model": "m", "prompt": "a"}, path, {"Expect": "100-continue"})
            head, _, body = request.partition(b"\r\n\r\n")
            client.send(head + b"\r\n\r\n")
            assert (await client.head()).status == 100
            client.send(body)
            assert (await client.answer()).status in {200, 502}
            assert rig.engine.requests[-1].header(b"expect") == []


async def test_a_queued_body_is_asked_for_in_its_turn() -> None:
    """The interim answer to a pipelined head comes after the answers before it."""
    turn = Turn()
    request = post(CHAT, fields={"Expect": "100-Continue"})
    head, _, body = request.partition(b"\r\n\r\n")
    async with wire([turn, response(b"[]")], [response()]) as rig, rig.client() as client:
        client.send(CHAT_BYTES + head + b"\r\n\r\n")
        await rig.engine.wait_requests(1)
        turn.go.set()
        assert (await client.answer()).body == b"[]"
        assert (await client.head()).status == 100
        client.send(body)
        assert (await client.answer()).json == {"ok": True}


async def test_http_1_0_gets_no_interim_answer() -> None:
    """An HTTP/1.0 client would take `100 Continue` for the answer (RFC 9110 §10.1.1)."""
    request = post(CHAT, fields={"Expect": "100-continue"}).replace(b"HTTP/1.1", b"HTTP/1.0")
    head, _, body = request.partition(b"\r\n\r\n")
    async with wire() as rig, rig.client() as client:
        client.send(head + b"\r\n\r\n")
        await eventually(lambda: rig.protocols and rig.protocols[0].active is not None)
        client.send(body)
        assert (await client.answer()).status == 200


async def test_an_unknown_upgrade_is_ignored() -> None:
    """An offer of h2c is no error: the request is served as HTTP/1.1 (RFC 9110 §7.8)."""
    offer = b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with wire() as rig, rig.client() as client:
        client.send(LIVE.replace(b"\r\n\r\n", offer) + LIVE + CHAT_BYTES)
        assert [(await client.answer()).status for _ in range(3)] == [200, 200, 200]
        assert (await client.ask(CHAT_BYTES)).status == 200


async def test_a_body_behind_an_unknown_upgrade_is_read() -> None:
    """Java's HttpClient offers h2c with each POST: the offer is declined, the request served."""
    offer = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAEAAEAAAAIAAAAA",
    }
    body = b'{"model":"m","messages":[]}'
    async with wire() as rig, rig.client() as client:
        client.send(post(body, "/v1/chat/completions", offer) + LIVE)
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
        whole = post(body, "/v1/chat/completions", offer)
        for at in range(0, len(whole), 7):
            client.send(whole[at : at + 7])
        assert (await client.answer()).status == 200
        sent = rig.engine.raw.lower()
        assert sent.count(body) == 2
        assert b"upgrade" not in sent
        assert b"http2-settings" not in sent


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/generate"])
async def test_an_upgrade_cannot_hide_a_request_in_its_body(path: str) -> None:
    """A handshake ends with its head; its body must not become a request."""
    offer = {"Connection": "Upgrade", "Upgrade": "websocket"}
    chunky = chunked(CHAT_BYTES, path=path).replace(
        b"Host", b"Connection: Upgrade\r\nUpgrade: websocket\r\nHost", 1
    )
    for request in (post(CHAT_BYTES, path, offer), chunky):
        async with wire() as rig, rig.client() as client:
            client.send(request)
            assert (await client.answer()).status == 400
            assert await client.ended()
            assert rig.engine.raw == b""


async def test_a_websocket_cannot_take_over_an_answer() -> None:
    """An upgrade behind a request under way is refused after that one's answer."""
    turn = Turn()
    upgrade = LIVE.replace(
        b"\r\n\r\n",
        b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    async with wire([turn, response(b"[]")]) as rig, rig.client() as client:
        client.send(CHAT_BYTES)
        await rig.engine.wait_requests(1)
        client.send(upgrade)
        await asyncio.sleep(0.01)  # So that the gateway reads it before the engine's answer.
        turn.go.set()
        assert (await client.answer()).body == b"[]"
        assert (await client.answer()).status == 400
        assert await client.ended()


async def test_a_broken_request_behind_one_of_the_other_plane() -> None:
    """The control plane's answer comes first, then the refusal, then the end."""
    async with wire() as rig, rig.client() as client:
        client.send(LIVE + b"POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + CHAT_BYTES)
        assert [(await client.answer()).status for _ in range(2)] == [200, 400]
        assert await client.ended()
        assert rig.engine.raw == b""


async def test_a_broken_body_for_the_other_plane() -> None:
    """A control route's body that turns out to be no HTTP is refused, not left unanswered."""
    async with wire() as rig, rig.client() as client:
        client.send(chunked(b"{", path="/v1/generate", end=b"zz\r\n") + CHAT_BYTES)
        answer = await client.answer()
        assert (answer.status, answer.header(b"connection")) == (400, [b"close"])
        assert await client.ended()
        assert rig.engine.raw == b""


async def test_a_trailer_for_the_other_plane_is_no_field_of_the_head() -> None:
    """What a proxy in front has let in as a trailer must not reach the engine as a field."""
    end = b"0\r\nX-Trailer: 1\r\nX-Priority: high\r\n\r\n"
    async with wire([response(b'{"choices":[{"text":"a"}]}')]) as rig, rig.client() as client:
        client.send(chunked(b'{"model":"m","prompt":"hi"}', path="/v1/generate", end=end))
        assert (await client.answer()).status == 200
        request = rig.engine.requests[0]
        assert request.header(b"x-trailer") == request.header(b"x-priority") == []


async def test_a_broken_body_cannot_cut_the_answer_before_it() -> None:
    """An answer under way is finished before a pipelined request to the other plane is refused."""
    turn = Turn()
    async with wire([turn, response(b"[]")]) as rig, rig.client() as client:
        client.send(CHAT_BYTES + chunked(b"{", path="/v1/generate", end=b"zz\r\n") + CHAT_BYTES)
        await rig.engine.wait_requests(1)
        turn.go.set()
        assert (await client.answer()).body == b"[]"
        assert (await client.answer()).status == 400
        assert await client.ended()
        assert len(rig.engine.requests) == 1


@pytest.mark.parametrize("learnt", [False, True], ids=["first", "familiar"])
async def test_an_early_answer_does_not_make_a_body_a_request(learnt: bool) -> None:
    """What follows an answered head is still its body, even if it reads like a request."""
    inner = CHAT_BYTES + CHAT_BYTES
    head = b"POST /nowhere HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n" % len(inner)
    async with wire() as rig, rig.client() as client:
        if learnt:
            await client.ask(CHAT_BYTES)
        client.send(head)
        assert (await client.answer()).status == 404
        client.send(inner[: len(CHAT_BYTES)])
        await asyncio.sleep(0.01)  # A read that is exactly a familiar request.
        client.send(inner[len(CHAT_BYTES) :] + LIVE)
        assert (await client.answer()).status == 200
        assert len(rig.engine.requests) == int(learnt)
        assert (await client.ask(CHAT_BYTES)).status == 200


async def test_a_broken_rest_of_an_answered_body_ends_the_connection() -> None:
    """The request has had its answer: there is none to a second, which it is not."""
    async with wire() as rig, rig.client() as client:
        client.send(chunked(b"{", path="/nowhere", end=b""))
        assert (await client.answer()).status == 404
        client.send(b"zz\r\n" + CHAT_BYTES)
        assert await client.ended()
        assert rig.engine.raw == b""


async def test_a_client_that_leaves_takes_its_queue_along() -> None:
    """Requests behind the one under way are never sent."""
    async with wire([Then.HANG], [response()]) as rig, rig.client() as client:
        client.send(CHAT_BYTES * 3)
        request = await rig.engine.wait_requests(1)
        client.leave()
        await request.left.wait()
        await rig.settled()
        assert len(rig.engine.requests) == 1
        assert rig.outcomes() == {"cancelled": 1}


async def test_a_client_that_leaves_ends_the_apps_request_before_its_queue() -> None:
    """A route of the app hears of the leaving too when another request has been read since."""
    async with wire([*stream(token("a"), whole=False), Then.HANG]) as rig, rig.client() as client:
        client.send(post({"model": "m", "prompt": "x", "stream": True}, "/v1/generate"))
        request = await rig.engine.wait_requests(1)
        client.send(CHAT_BYTES)
        await eventually(lambda: len(rig.protocols[0].pipeline) == 1)
        client.leave()
        await request.abandoned(within_s=1)


async def test_a_cut_answer_ends_the_queue() -> None:
    """Behind an answer that broke off no other may follow: the client could not tell them apart."""
    whole = response(b"x" * (3 << 20))
    async with wire([whole[:-9], Then.CLOSE], [response()]) as rig, rig.client() as client:
        client.send(CHAT_BYTES * 2)
        with pytest.raises(CutError):
            await client.answer()
        await rig.settled()
        assert len(rig.engine.requests) == 1

"""One WebSocket carries chats one after the other, each with exactly one end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.control import (
    JSON,
    FakeAsk,
    FakeView,
    Script,
    Socket,
    Then,
    app,
    sse,
    within,
)

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
DONE = {"type": "done"}
CANCELLED = {"type": "cancelled"}


def delta(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


async def test_chunks_come_as_messages_and_then_the_end() -> None:
    """Each event's data is one message, as the engine wrote it; [DONE] becomes `done`."""
    ask = FakeAsk(Script([sse(delta("a")), sse(delta("b"), "[DONE]")]))
    async with Socket(app(ask)) as socket:
        await socket.open()
        socket.send(CHAT)
        assert [await socket.receive() for _ in range(3)] == [delta("a"), delta("b"), DONE]
        socket.leave()
    (asked,) = ask.asked
    assert asked.client == "127.0.0.1"
    assert asked.path == "/v1/chat/completions"
    assert asked.json == {"stream": True, **CHAT}
    assert asked.whole


async def test_a_plain_answer_is_one_message() -> None:
    """A request that says `"stream": false` is not made to stream."""
    ask = FakeAsk(Script([b'{"choices":', b"[]}"], headers=[JSON]))
    async with Socket(app(ask)) as socket:
        await socket.open()
        socket.send({**CHAT, "stream": False})
        assert [await socket.receive(), await socket.receive()] == [{"choices": []}, DONE]
        socket.leave()
    assert ask.asked[0].json == {**CHAT, "stream": False}


async def test_a_message_may_be_binary() -> None:
    """Some clients send every message as bytes; JSON is JSON."""
    ask = FakeAsk(Script([sse("[DONE]")]))
    async with Socket(app(ask)) as socket:
        await socket.open()
        socket.say(type="websocket.receive", bytes=json.dumps(CHAT).encode())
        assert await socket.receive() == DONE
        socket.leave()


async def test_requests_follow_each_other_with_ids_of_their_own() -> None:
    """The handshake's fields go with each; its id gets a number, within the allowed length."""
    ask = FakeAsk(Script([sse("[DONE]")]), Script([sse("[DONE]")]))
    headers = [
        (b"authorization", b"Bearer k"),
        (b"x-request-id", b"r" * 128),
        (b"sec-websocket-key", b"x"),
    ]
    async with Socket(app(ask), headers) as socket:
        accepted = await socket.open()
        for _ in range(2):
            socket.send(CHAT)
            assert await socket.receive() == DONE
        socket.leave()
    assert (b"x-request-id", b"r" * 128) in accepted["headers"]
    names = [asked.header(b"x-request-id") for asked in ask.asked]
    assert names == [[b"r" * 110 + b"-1"], [b"r" * 110 + b"-2"]]
    for asked in ask.asked:
        assert asked.header(b"authorization") == [b"Bearer k"]
        assert asked.header(b"content-type") == [b"application/json"]
        assert asked.header(b"sec-websocket-key") == []


async def test_cancel_ends_the_answer_and_the_socket_stays() -> None:
    """The upstream request is dropped before `cancelled` is said; the next chat works."""
    ask = FakeAsk(Script([sse(delta("a"))], then=Then.HANG), Script([sse("[DONE]")]))
    async with Socket(app(ask)) as socket:
        await socket.open()
        socket.send(CHAT)
        assert await socket.receive() == delta("a")
        await within(ask.asked[0].waiting)
        socket.send({"type": "cancel"})
        assert await socket.receive() == CANCELLED
        assert ask.asked[0].left.is_set()
        socket.send(CHAT)
        assert await socket.receive() == DONE
        socket.leave()


async def test_a_cancel_after_the_end_is_ignored() -> None:
    """Each request has one end, also when a cancel has crossed it."""
    ask = FakeAsk(Script([sse("[DONE]")]), Script([sse("[DONE]")]))
    async with Socket(app(ask)) as socket:
        await socket.open()
        socket.send(CHAT)
        assert await socket.receive() == DONE
        socket.send({"type": "cancel"})
        socket.send(CHAT)
        assert await socket.receive() == DONE
        socket.leave()
    assert socket.silent


async def test_a_second_request_under_way_is_refused() -> None:
    """The refusal ends nothing: the first answer goes on."""
    ask = FakeAsk(Script([sse(delta("a"))], then=Then.HANG))
    async with Socket(app(ask)) as socket:
        await socket.open()
        socket.send(CHAT)
        assert await socket.receive() == delta("a")
        socket.send(CHAT)
        assert (await socket.receive())["error"]["code"] == "answer_in_progress"
        assert not ask.asked[0].left.is_set()
        socket.send({"type": "cancel"})
        assert await socket.receive() == CANCELLED
        socket.leave()
    assert len(ask.asked) == 1


@pytest.mark.parametrize("script", [Script(hang_before_head=True), Script(then=Then.HANG)])
async def test_closing_cancels(script: Script) -> None:
    """A client that goes frees its engine, before the answer's head as well as in its middle."""
    ask = FakeAsk(script)
    async with Socket(app(ask)) as socket:
        await socket.open()
        socket.send(CHAT)
        await within(ask.arrived)
        await within(ask.asked[0].waiting)
        assert not ask.asked[0].left.is_set()
        socket.leave()
        await within(ask.asked[0].left)
    assert not ask.asked[0].whole
    assert socket.silent


async def test_a_send_that_finds_the_client_gone_cancels() -> None:
    """The write may notice before the read does; the session ends without an error."""
    ask = FakeAsk(Script([sse(delta("a"))], then=Then.HANG))
    socket = Socket(app(ask))
    async with socket:
        await socket.open()
        socket.break_sends()
        socket.send(CHAT)
        await within(ask.arrived)
        await within(ask.asked[0].left)
        socket.leave()
    assert socket.silent


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (Script([b'{"error":{"message":"no","code":"model_not_found"}}'], 404), "model_not_found"),
        (Script([b'{"error":"Unauthorized"}'], 401), "upstream_error"),
        (Script([sse(delta("a"), '{"error":{"code":"upstream_timeout"}}')]), "upstream_timeout"),
        (Script([sse(delta("a"))]), "upstream_error"),
        (Script([sse(delta("a"))], then=Then.CUT), "upstream_error"),
        (Script([sse("not json")]), "upstream_error"),
        (Script([b"<p>"], headers=[JSON]), "upstream_error"),
        (Script([b"{}"], headers=[JSON], then=Then.CUT), "upstream_error"),
        (Script(defect=ZeroDivisionError("secret")), "internal_error"),
    ],
)
async def test_errors_are_messages_and_the_socket_stays(script: Script, code: str) -> None:
    """Whatever goes wrong ends the request with one error message, and the next chat works."""
    ask = FakeAsk(script, Script([sse("[DONE]")]))
    async with Socket(app(ask)) as socket:
        await socket.open()
        socket.send(CHAT)
        message = await socket.receive()
        if "error" not in message:
            assert message == delta("a")
            message = await socket.receive()
        assert message["error"]["code"] == code
        assert "secret" not in json.dumps(message)
        socket.send(CHAT)
        assert await socket.receive() == DONE
        socket.leave()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model":NaN}', '{"model":"a","model":"b"}', '{"type":"stop"}']
)
async def test_a_message_that_is_no_request_is_refused(text: str) -> None:
    """In OpenAI's shape, without asking and without closing."""
    ask = FakeAsk(Script([sse("[DONE]")]))
    async with Socket(app(ask)) as socket:
        await socket.open()
        socket.send(text)
        error = (await socket.receive())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == "invalid_request_error"
        socket.send(CHAT)
        assert await socket.receive() == DONE
        socket.leave()
    assert len(ask.asked) == 1


async def test_a_message_over_the_cap_is_refused() -> None:
    """The cap is the same as for bodies."""
    async with Socket(app(max_body_bytes=100)) as socket:
        await socket.open()
        socket.send({**CHAT, "user": "x" * 100})
        assert (await socket.receive())["error"]["code"] == "request_too_large"
        socket.leave()


@pytest.mark.parametrize(
    ("origin", "origins", "welcome"),
    [
        (None, (), True),
        (b"http://gateway", (), True),
        (b"https://GATEWAY", (), True),
        (b"http://gateway:81", (), False),
        (b"https://evil.example", (), False),
        (b"null", (), False),
        (b"https://chat.example", ("https://chat.example",), True),
        (b"https://evil.example", ("*",), True),
    ],
)
async def test_pages_of_other_origins_may_not_connect(
    origin: bytes | None, origins: tuple[str, ...], welcome: bool
) -> None:
    """A browser lets any page open a WebSocket to 127.0.0.1; the handshake is where it stops."""
    headers = [(b"origin", origin)] if origin is not None else []
    async with Socket(app(origins=origins), headers) as socket:
        answer = await socket.hear()
        if welcome:
            assert answer["type"] == "websocket.accept"
            socket.leave()
            return
        assert (answer["type"], answer["status"]) == ("websocket.http.response.start", 403)
        body = await socket.hear()
        assert json.loads(body["body"])["error"]["code"] == "origin_not_allowed"


async def test_a_defect_closes_the_socket_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A message of a kind that ASGI does not know is a defect of the host: 1011, no details."""
    async with Socket(app()) as socket:
        await socket.open()
        socket.say(type="websocket.surprise")
        closed = await socket.hear()
    assert (closed["type"], closed["code"]) == ("websocket.close", 1011)
    assert "websocket.surprise" in caplog.text


async def test_an_idle_socket_is_closed_when_the_gateway_goes_away() -> None:
    """1012: its client should connect again, and will find another gateway."""
    view = FakeView()
    async with Socket(app(FakeAsk(), view)) as socket:
        await socket.open()
        view.left.set()
        assert (await socket.hear())["code"] == 1012
        socket.leave()


async def test_the_answer_under_way_is_the_last_one() -> None:
    """The socket closes no sooner than it ends, here by a cancel."""
    view = FakeView()
    ask = FakeAsk(Script([sse(delta("a"))], then=Then.HANG))
    async with Socket(app(ask, view)) as socket:
        await socket.open()
        socket.send(CHAT)
        assert await socket.receive() == delta("a")
        view.left.set()
        socket.send({"type": "cancel"})
        assert (await socket.hear())["code"] == 1012
        socket.leave()
    assert ask.asked[0].left.is_set()

"""The app on uvicorn: what only a real socket can show."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
import websockets
from fastapi import FastAPI

from tests.support.control import (
    JSON,
    PATIENCE_S,
    FakeAsk,
    FakeView,
    Script,
    Then,
    app,
    model,
    sse,
    within,
)

CHAT = json.dumps({"model": "m", "messages": []})
GENERATE = {"model": "m", "prompt": "", "stream": True}


def token(text: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": text}]}


@asynccontextmanager
async def served(application: FastAPI) -> AsyncIterator[str]:
    """Serve on a free port of 127.0.0.1; yields host and port."""
    config = uvicorn.Config(
        application, "127.0.0.1", 0, log_level="warning", ws="websockets-sansio", lifespan="off"
    )
    server = uvicorn.Server(config)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        # Not serve(): it would take over the test run's signal handlers.
        running = group.create_task(server._serve())
        while not server.started:
            assert not running.done()
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.should_exit = True


async def test_a_client_that_closes_its_socket_cancels() -> None:
    """The close of a TCP connection reaches the data path, from each route that asks."""
    requests = [
        ("/v1/chat/m", {"messages": []}),
        ("/v1/generate", {"model": "m", "prompt": ""}),
        ("/v1/generate", GENERATE),
    ]
    ask = FakeAsk(*(Script(hang_before_head=True) for _ in requests))
    async with served(app(ask)) as host:
        for path, body in requests:
            ask.arrived.clear()
            async with asyncio.TaskGroup() as group, httpx.AsyncClient() as http:
                post = group.create_task(http.post(f"http://{host}{path}", json=body))
                await within(ask.arrived)
                await within(ask.asked[-1].waiting)
                post.cancel()
            await within(ask.asked[-1].left)


async def test_tokens_arrive_before_the_answer_is_whole() -> None:
    """Nothing in between collects the stream."""
    ask = FakeAsk(Script([sse(token("now"))], then=Then.HANG))
    async with (
        served(app(ask)) as host,
        httpx.AsyncClient() as http,
        http.stream("POST", f"http://{host}/v1/generate", json=GENERATE) as answer,
    ):
        lines = answer.aiter_lines()
        assert json.loads((await anext(lines)).removeprefix("data: ")) == {"token": "now"}


async def test_a_cut_answer_is_an_error_at_the_client() -> None:
    """The chunked body has no end, which every HTTP client reports."""
    ask = FakeAsk(Script([b'{"a":'], headers=[JSON], then=Then.CUT))
    async with served(app(ask)) as host, httpx.AsyncClient() as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(f"http://{host}/v1/chat/m", json={})


async def test_date_server_and_length_stand_once() -> None:
    """The host's fields and the answer's do not double each other."""
    headers = [JSON, (b"date", b"x"), (b"server", b"engine"), (b"content-length", b"2")]
    ask = FakeAsk(Script([b"{}"], headers=headers))
    async with served(app(ask)) as host, httpx.AsyncClient() as http:
        answer = await http.post(f"http://{host}/v1/chat/m", json={})
    for name in ("date", "server", "content-length", "x-request-id"):
        assert len(answer.headers.get_list(name)) == 1
    assert answer.headers["server"] != "engine"


async def test_head_keeps_the_connection_in_step() -> None:
    """After a HEAD the same connection answers the next request."""
    async with served(app(view=FakeView([model("a")]))) as host, httpx.AsyncClient() as http:
        for _ in range(2):
            head = await http.head(f"http://{host}/v1/models")
            assert (head.status_code, head.content) == (200, b"")
            assert (await http.get(f"http://{host}/v1/models")).json()["data"][0]["id"] == "a"


async def test_a_chat_over_a_real_websocket() -> None:
    """Handshake, chunks, end, and the cancel by closing."""
    chunk = {"choices": [{"index": 0, "delta": {"content": "hi"}}]}
    ask = FakeAsk(Script([sse(chunk, "[DONE]")]), Script([sse(chunk)], then=Then.HANG))
    async with served(app(ask)) as host:
        async with websockets.connect(f"ws://{host}/v1/chat/ws") as socket:
            assert socket.response is not None
            assert len(socket.response.headers["x-request-id"]) == 32
            await socket.send(CHAT)
            assert json.loads(await socket.recv()) == chunk
            assert json.loads(await socket.recv()) == {"type": "done"}
            await socket.send(CHAT)
            assert json.loads(await socket.recv()) == chunk
            assert not ask.asked[1].left.is_set()
        await within(ask.asked[1].left)


async def test_a_foreign_page_is_denied_with_a_reason() -> None:
    """The handshake's refusal is a 403 with the error as its body."""
    async with served(app()) as host:
        with pytest.raises(websockets.InvalidStatus) as caught:
            await websockets.connect(f"ws://{host}/v1/chat/ws", origin="https://evil.example")
    assert caught.value.response.status_code == 403
    assert json.loads(caught.value.response.body)["error"]["code"] == "origin_not_allowed"

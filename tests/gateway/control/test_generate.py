"""One prompt goes out as a completion and comes back in the route's own words."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from sse_starlette.sse import AppStatus

from tests.support.control import (
    JSON,
    Asked,
    FakeAsk,
    ManualClock,
    Post,
    Script,
    Then,
    app,
    sse,
    within,
)

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WHOLE = json.dumps(
    {"choices": [{"text": "four"}], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
).encode()
USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}


def token(text: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": text}]}


def client(ask: FakeAsk, clock: ManualClock | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app(ask, clock=clock or ManualClock()))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


def events(body: str) -> list[tuple[str, Any]]:
    """Return (event name, data) of each event."""
    found = []
    for block in body.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line)
        if "data" in fields:
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


async def test_a_prompt_becomes_a_completion_request() -> None:
    """The fields travel as they are, with the client's key and ids; unset ones stay unset."""
    ask = FakeAsk(Script([WHOLE], headers=[JSON]))
    async with client(ask) as http:
        await http.post(
            "/v1/generate",
            json={"model": "m", "prompt": "2+2", "max_tokens": 4, "temperature": 0, "top_p": 1},
            headers={"authorization": "Bearer k", "x-request-id": "r-1", "traceparent": TRACE},
        )
    (asked,) = ask.asked
    assert asked.path == "/v1/completions"
    assert asked.json == {
        "model": "m",
        "prompt": "2+2",
        "max_tokens": 4,
        "temperature": 0,
        "top_p": 1,
        "stream": False,
    }
    assert asked.header(b"authorization") == [b"Bearer k"]
    assert asked.header(b"x-request-id") == [b"r-1"]
    assert asked.header(b"traceparent") == [TRACE.encode()]
    assert asked.header(b"content-type") == [b"application/json"]
    assert asked.header(b"content-length") == asked.header(b"host") == []
    assert asked.client == "127.0.0.1"
    assert asked.whole


async def test_a_whole_answer() -> None:
    """Text and count are the engine's, the latency is the clock's, the trace is the client's."""
    clock = ManualClock()

    class Slow(FakeAsk):
        def __call__(self, *args: Any) -> Any:
            clock.now += 1.25
            return super().__call__(*args)

    async with client(Slow(Script([WHOLE[:9], WHOLE[9:]], headers=[JSON])), clock) as http:
        answer = await http.post(
            "/v1/generate", json={"model": "m", "prompt": "2+2"}, headers={"traceparent": TRACE}
        )
    assert answer.status_code == 200
    assert answer.json() == {
        "generated_text": "four",
        "tokens_generated": 2,
        "latency_ms": 1250.0,
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    }


async def test_without_a_trace_the_answers_request_id_is_it() -> None:
    """The data path's own id wins over the one that it was sent."""
    headers = [JSON, (b"x-request-id", b"from-the-path")]
    ask = FakeAsk(Script([WHOLE], headers=headers), Script([WHOLE], headers=[JSON]))
    async with client(ask) as http:
        first = await http.post("/v1/generate", json={"model": "m", "prompt": ""})
        second = await http.post("/v1/generate", json={"model": "m", "prompt": ""})
    assert first.json()["trace_id"] == "from-the-path"
    assert second.json()["trace_id"] == second.headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
async def test_it_says_what_the_data_path_says_of_the_way(stream: bool) -> None:
    """The number of attempts, and with `server.route_header` where the answer came from."""
    said = [(b"x-sluice-attempts", b"2"), (b"x-sluice-route", b"cluster=c; endpoint=e:1")]
    pieces = [sse(token("four")), sse("[DONE]")] if stream else [WHOLE]
    ask = FakeAsk(Script(pieces, headers=[JSON, *said]))
    async with client(ask) as http:
        answer = await http.post(
            "/v1/generate", json={"model": "m", "prompt": "", "stream": stream}
        )
    assert answer.status_code == 200
    assert answer.headers["x-sluice-attempts"] == "2"
    assert answer.headers["x-sluice-route"] == "cluster=c; endpoint=e:1"


async def test_an_engine_that_does_not_count_is_not_guessed_for() -> None:
    """Without usage the count is null."""
    ask = FakeAsk(Script([b'{"choices":[{"text":"x"}]}'], headers=[JSON]))
    async with client(ask) as http:
        answer = await http.post("/v1/generate", json={"model": "m", "prompt": ""})
    assert answer.json()["tokens_generated"] is None


async def test_a_stream_of_tokens() -> None:
    """Each chunk's text is an event, the last event has the sum; usage is asked for."""
    pieces = [sse(token("fo"), token("ur")), sse(token(""), USAGE), sse("[DONE]")]
    ask = FakeAsk(Script(pieces))
    async with client(ask) as http:
        answer = await http.post(
            "/v1/generate",
            json={"model": "m", "prompt": "2+2", "stream": True},
            headers={"x-request-id": "r-1"},
        )
    assert answer.headers["content-type"].startswith("text/event-stream")
    done = {
        "done": True,
        "generated_text": "four",
        "tokens_generated": 2,
        "latency_ms": 0.0,
        "trace_id": "r-1",
    }
    assert events(answer.text) == [
        ("message", {"token": "fo"}),
        ("message", {"token": "ur"}),
        ("message", done),
    ]
    assert ask.asked[0].json["stream_options"] == {"include_usage": True}
    assert ask.asked[0].whole


@pytest.mark.parametrize(
    "script",
    [
        Script([sse(token("fo"), '{"error":{"message":"gone","code":"upstream_error"}}')]),
        Script([sse(token("fo"))]),
        Script([sse(token("fo"))], then=Then.CUT),
        Script([sse(token("fo"), "{")]),
    ],
)
async def test_a_stream_that_fails_ends_with_an_error_event(script: Script) -> None:
    """However the answer dies, the client is told, and never sees `done`."""
    async with client(FakeAsk(script)) as http:
        answer = await http.post("/v1/generate", json={"model": "m", "prompt": "", "stream": True})
    (first, last) = events(answer.text)
    assert first == ("message", {"token": "fo"})
    assert last[0] == "error"
    assert last[1]["error"]["code"] == "upstream_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_is_passed_on_as_it_is(stream: bool) -> None:
    """Status, fields and body of the data path's error reach the client."""
    body = b'{"error":{"message":"no","type":"t","param":null,"code":"overloaded"}}'
    script = Script([body], 503, [JSON, (b"retry-after", b"2")])
    async with client(FakeAsk(script)) as http:
        answer = await http.post(
            "/v1/generate", json={"model": "m", "prompt": "", "stream": stream}
        )
    assert (answer.status_code, answer.content) == (503, body)
    assert answer.headers["retry-after"] == "2"


@pytest.mark.parametrize("script", [Script([b"<p>"]), Script([WHOLE[:20]], then=Then.CUT)])
async def test_a_whole_answer_that_is_none_is_a_502(script: Script) -> None:
    """An unreadable or cut answer is never shown as a text."""
    async with client(FakeAsk(script)) as http:
        answer = await http.post("/v1/generate", json={"model": "m", "prompt": ""})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x"}, "model"),
        ({"model": "", "prompt": "x"}, "model"),
        ({"model": "m"}, "prompt"),
        ({"model": "m", "prompt": ["x"]}, "prompt"),
        ({"model": "m", "prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"model": "m", "prompt": "x", "max_tokens": "9"}, "max_tokens"),
        ({"model": "m", "prompt": "x", "temperature": 2.5}, "temperature"),
        ({"model": "m", "prompt": "x", "top_p": 0}, "top_p"),
        ({"model": "m", "prompt": "x", "max_token": 9}, "max_token"),
    ],
)
async def test_a_wrong_field_is_named(body: dict[str, object], param: str) -> None:
    """The refusal has OpenAI's shape and says which field; nothing is asked."""
    ask = FakeAsk()
    async with client(ask) as http:
        answer = await http.post("/v1/generate", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["param"], error["code"]) == (param, "invalid_request_error")
    assert set(error) == {"message", "type", "param", "code"}
    assert ask.asked == []


async def test_a_shutdown_lets_a_stream_come_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """sse-starlette would by default end every open stream, without an error, at SIGTERM."""
    monkeypatch.setattr(AppStatus, "should_exit", True)
    ask = FakeAsk(Script([sse(token(text)) for text in "abcdef"] + [sse("[DONE]")]))
    async with client(ask) as http:
        answer = await http.post("/v1/generate", json={"model": "m", "prompt": "", "stream": True})
    assert events(answer.text)[-1][1]["generated_text"] == "abcdef"


@pytest.mark.parametrize("script", [Script(hang_before_head=True), Script(then=Then.HANG)])
async def test_a_client_that_leaves_a_whole_answer_cancels_it(script: Script) -> None:
    """The upstream request is dropped while the client's answer is still awaited."""
    ask = FakeAsk(script)
    async with Post(app(ask), "/v1/generate", b'{"model":"m","prompt":""}') as post:
        asked = await _stuck(ask)
        assert not asked.left.is_set()
        post.leave()
        await within(asked.left)
    assert not asked.whole
    assert post.silent


async def test_a_client_that_leaves_a_stream_cancels_it() -> None:
    """The upstream request is dropped in the middle of the answer."""
    ask = FakeAsk(Script([sse(token("fo"))], then=Then.HANG))
    body = b'{"model":"m","prompt":"","stream":true}'
    async with Post(app(ask), "/v1/generate", body) as post:
        asked = await _stuck(ask)
        assert (await post.hear())["type"] == "http.response.start"
        assert b"fo" in (await post.hear())["body"]
        post.leave()
        await within(asked.left)
    assert not asked.whole


async def _stuck(ask: FakeAsk) -> Asked:
    await within(ask.arrived)
    await within(ask.asked[0].waiting)
    await asyncio.sleep(0)
    return ask.asked[0]

"""A chat is asked for with the model in the path, as JSON or as text."""

from __future__ import annotations

import json

import httpx
import pytest

from gateway.control.chat import with_model
from gateway.errors import GatewayError
from tests.support.control import JSON, FakeAsk, Post, Script, Then, app, sse, within

MESSAGES = [{"role": "user", "content": "hi"}]
WHOLE = b'{"choices":[{"message":{"role":"assistant","content":"h\xc3\xa4llo"}}]}'
TEXT = {"content-type": "text/plain; charset=utf-8", "accept": "text/plain"}


def delta(text: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def client(ask: FakeAsk) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app(ask)), base_url="http://gateway")


async def test_json_gets_the_paths_model_and_stays_as_it_was() -> None:
    """The rest of the body travels byte for byte, the answer comes back as it is."""
    ask = FakeAsk(Script([WHOLE[:5], WHOLE[5:]], headers=[JSON, (b"x-engine", b"e1")]))
    body = b'{ "messages" : [], "seed": 18446744073709551615, "x": 1.0e2 }'
    async with client(ask) as http:
        answer = await http.post("/v1/chat/org/llama", content=body)
    (asked,) = ask.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.json["model"] == "org/llama"
    assert asked.body.endswith(body[1:])
    assert (answer.status_code, answer.content) == (200, WHOLE)
    assert answer.headers["x-engine"] == "e1"
    assert asked.whole


def test_the_body_may_repeat_the_model_but_not_change_it() -> None:
    """The path wins by refusal: two names in one request are a mistake of the client's."""
    same = b'{"model":"m","messages":[]}'
    assert with_model(same, "m") == same
    assert json.loads(with_model(b"{}", "m")) == {"model": "m"}
    for other in (b'{"model":"n"}', b'{"model":null}', b'{"model":"m","model":"m"}', b"[]"):
        with pytest.raises(GatewayError) as caught:
            with_model(other, "m")
        assert caught.value.status == 400


async def test_a_json_stream_passes_unchanged() -> None:
    """What the data path streams, framing comments included, is what the client gets."""
    stream = [b": ping\n\n", sse(delta("a")), b'data: {"err', b'or":{}}\n\n']
    ask = FakeAsk(Script(stream))
    async with client(ask) as http:
        answer = await http.post("/v1/chat/m", json={"messages": MESSAGES, "stream": True})
    assert answer.content == b"".join(stream)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_a_text_prompt_is_one_user_message() -> None:
    """Without an Accept for text the answer is the JSON that chat completions give."""
    ask = FakeAsk(Script([WHOLE], headers=[JSON]))
    async with client(ask) as http:
        answer = await http.post(
            "/v1/chat/m",
            content='Say "hä"'.encode(),
            headers={"content-type": "text/plain", "authorization": "Bearer k"},
        )
    (asked,) = ask.asked
    message = {"role": "user", "content": 'Say "hä"'}
    assert asked.json == {"model": "m", "messages": [message], "stream": False}
    assert asked.header(b"authorization") == [b"Bearer k"]
    assert asked.client == "127.0.0.1"
    assert asked.header(b"content-type") == [b"application/json"]
    assert answer.content == WHOLE


async def test_a_text_prompt_may_be_answered_as_text() -> None:
    """Only what the model said comes back, with the answer's own fields."""
    headers = [JSON, (b"content-length", b"999"), (b"x-engine", b"e1")]
    async with client(FakeAsk(Script([WHOLE], headers=headers))) as http:
        answer = await http.post("/v1/chat/m", content=b"hi", headers=TEXT)
    assert answer.text == "hällo"
    assert answer.headers.get_list("content-type") == ["text/plain; charset=utf-8"]
    assert answer.headers.get_list("content-length") == ["6"]
    assert answer.headers["x-engine"] == "e1"


async def test_a_text_answer_may_stream() -> None:
    """The texts of the chunks, one after the other."""
    ask = FakeAsk(Script([sse(delta("hä"), delta("")), sse(delta("llo"), "[DONE]")]))
    async with client(ask) as http:
        answer = await http.post("/v1/chat/m?stream=true", content=b"hi", headers=TEXT)
    assert answer.text == "hällo"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert ask.asked[0].json["stream"] is True
    assert ask.asked[0].whole


@pytest.mark.parametrize(
    ("accept", "plain"),
    [
        ("*/*", False),
        ("application/json", False),
        ("text/plain;q=0, */*", False),
        ("text/plain;q=0.000", False),
        ("application/json;q=0.5, TEXT/PLAIN;q=0.9", True),
        ("text/plain;q=0.001", True),
        ("text/plain;charset=utf-8", True),
    ],
)
async def test_text_is_answered_where_it_is_accepted_by_name(accept: str, plain: bool) -> None:
    """A wildcard is no wish for text: every client sends one."""
    async with client(FakeAsk(Script([WHOLE], headers=[JSON]))) as http:
        headers = {"content-type": "text/plain", "accept": accept}
        answer = await http.post("/v1/chat/m", content=b"hi", headers=headers)
    assert (answer.content != WHOLE) is plain


async def test_text_that_streams_to_those_who_want_events() -> None:
    """?stream=true without the Accept gives the events themselves."""
    stream = sse(delta("a"), "[DONE]")
    async with client(FakeAsk(Script([stream]))) as http:
        headers = {"content-type": "text/plain"}
        answer = await http.post("/v1/chat/m?stream=true", content=b"hi", headers=headers)
    assert answer.content == stream


@pytest.mark.parametrize("query", ["", "?stream=true"])
async def test_a_refusal_is_json_even_for_text(query: str) -> None:
    """The data path's error is passed on as it is."""
    body = b'{"error":{"message":"no"}}'
    async with client(FakeAsk(Script([body], 404, [JSON]))) as http:
        answer = await http.post(f"/v1/chat/m{query}", content=b"hi", headers=TEXT)
    assert (answer.status_code, answer.content) == (404, body)
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    "script",
    [
        Script([sse(delta("a"), '{"error":{"message":"gone"}}')]),
        Script([sse(delta("a"))]),
        Script([sse(delta("a"))], then=Then.CUT),
    ],
)
async def test_a_text_stream_that_fails_is_visibly_cut(script: Script) -> None:
    """The response never gets its end, so that no client takes the part for the whole."""
    ask = FakeAsk(script)
    headers = [(b"content-type", b"text/plain"), (b"accept", b"text/plain")]
    post = Post(app(ask), "/v1/chat/m", b"hi", headers, query=b"stream=true")
    async with post:
        assert (await post.hear())["status"] == 200
        assert (await post.hear())["body"] == b"a"
        await within(ask.asked[0].left)
    assert post.silent


@pytest.mark.parametrize(
    ("content", "content_type", "query"),
    [
        (b"", "text/plain", ""),
        (b" \n", "text/plain", ""),
        (b"\xff", "text/plain", ""),
        (b"hi", "application/json", ""),
        (b"hi", "application/x-www-form-urlencoded", ""),
        (b'{"messages":[NaN]}', "application/json", ""),
        (b"{}", "application/json", "?stream=true"),
        (b"hi", "text/plain", "?stream=perhaps"),
    ],
)
async def test_a_wrong_body_or_query_is_a_400(
    content: bytes, content_type: str, query: str
) -> None:
    """In OpenAI's shape, and nothing is asked."""
    ask = FakeAsk()
    async with client(ask) as http:
        headers = {"content-type": content_type}
        answer = await http.post(f"/v1/chat/m{query}", content=content, headers=headers)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert ask.asked == []


async def test_a_path_without_a_model_is_unknown() -> None:
    """There is no default model to fall back to."""
    async with client(FakeAsk()) as http:
        answer = await http.post("/v1/chat/", json={"messages": MESSAGES})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("script", [Script(hang_before_head=True), Script([b"x"], then=Then.HANG)])
async def test_a_client_that_leaves_cancels(script: Script) -> None:
    """Before the answer's head as well as in its middle."""
    ask = FakeAsk(script)
    async with Post(app(ask), "/v1/chat/m", b'{"messages":[]}') as post:
        await within(ask.arrived)
        await within(ask.asked[0].waiting)
        assert not ask.asked[0].left.is_set()
        post.leave()
        await within(ask.asked[0].left)
    assert not ask.asked[0].whole

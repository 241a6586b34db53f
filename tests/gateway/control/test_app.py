"""The app as a whole: unknown routes, wrong methods, and its own description."""

from __future__ import annotations

import httpx
import pytest

from tests.support.control import FakeAsk, app


def client(ask: FakeAsk | None = None) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app(ask)), base_url="http://gateway")


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/health/", "/docs", "/redoc", "/reset_prefix_cache"]
)
async def test_an_unknown_route(path: str) -> None:
    """404 in OpenAI's shape; an engine's admin routes are unknown here."""
    async with client() as http:
        answer = await http.post(path)
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": f"Unknown route: {path}",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/a/b", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("GET", "/v1/generate", "POST"),
        ("GET", "/v1/chat/m", "POST"),
        ("GET", "/v1/chat/ws", "POST"),
        ("GET", "/v1/chat/completions", "POST"),
        ("PROPFIND", "/tokenize", "POST"),
        ("OPTIONS", "/v1/completions", "POST"),
    ],
)
async def test_a_wrong_method(method: str, path: str, allow: str) -> None:
    """405 says what is allowed, on the data path's routes as on our own."""
    async with client() as http:
        answer = await http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers.get_list("allow") == [allow]
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("method_not_allowed", None)


async def test_a_data_route_is_never_a_model() -> None:
    """`/v1/chat/%63ompletions` is not the data path's spelling, nor a model `completions`."""
    ask = FakeAsk()
    async with client(ask) as http:
        answer = await http.post("/v1/chat/%63ompletions", json={"messages": []})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert ask.asked == []


async def test_the_description_has_the_routes_and_their_bodies() -> None:
    """openapi.json can be made, and names what `/v1/generate` takes and gives."""
    async with client() as http:
        document = (await http.get("/openapi.json")).json()
    assert {"/v1/models", "/v1/generate", "/v1/chat/{model}", "/health"} <= set(document["paths"])
    generate = document["paths"]["/v1/generate"]["post"]
    body = generate["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["required"]) == {"model", "prompt"}
    assert "generated_text" in document["components"]["schemas"]["Generated"]["properties"]

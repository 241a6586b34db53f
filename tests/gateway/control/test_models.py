"""Models are listed as OpenAI lists them, with what their engines add."""

from __future__ import annotations

import httpx
import httpx2
import openai
import pytest

from tests.support.control import FakeView, app, model

VIEW = FakeView(
    [
        model("org/big", max_model_len=4096, root="org/big-8b", parent=None, id="upstream name"),
        model("llama", max_model_len=512),
    ]
)


def client() -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app(view=VIEW))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


async def test_the_list_is_sorted_and_keeps_engine_metadata() -> None:
    """The engine's fields stand beside OpenAI's four and never replace them."""
    async with client() as http:
        answer = await http.get("/v1/models")
    fixed = {"object": "model", "created": 1_700_000_000, "owned_by": "vllm"}
    assert answer.json() == {
        "object": "list",
        "data": [
            {"id": "llama", **fixed, "max_model_len": 512},
            {
                "id": "org/big",
                **fixed,
                "max_model_len": 4096,
                "root": "org/big-8b",
                "parent": None,
            },
        ],
    }


async def test_one_model_whose_id_has_a_slash() -> None:
    """The id may come plain or percent-encoded."""
    async with client() as http:
        plain = await http.get("/v1/models/org/big")
        encoded = await http.get("/v1/models/org%2Fbig")
    assert plain.json()["id"] == encoded.json()["id"] == "org/big"


async def test_an_unknown_model_is_not_found() -> None:
    """OpenAI's code and shape; an empty id is no model but an unknown route."""
    async with client() as http:
        answer = await http.get("/v1/models/nope/7b")
        empty = await http.get("/v1/models/")
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "The model `nope/7b` does not exist.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }
    assert (empty.status_code, empty.json()["error"]["code"]) == (404, "not_found")


async def test_the_official_sdk_lists_and_retrieves_models() -> None:
    """The SDK's own types take the answers, and keep the engine's fields."""
    transport = httpx2.ASGITransport(app(view=VIEW))
    async with openai.AsyncOpenAI(
        api_key="k",
        base_url="http://gateway/v1",
        http_client=httpx2.AsyncClient(transport=transport),
        max_retries=0,
    ) as sdk:
        listed = [entry async for entry in await sdk.models.list()]
        assert [entry.id for entry in listed] == ["llama", "org/big"]
        assert listed[0].model_dump()["max_model_len"] == 512
        assert (await sdk.models.retrieve("org/big")).owned_by == "vllm"
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.models.retrieve("nope")
    assert caught.value.code == "model_not_found"

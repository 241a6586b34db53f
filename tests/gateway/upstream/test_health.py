"""Probes and looks at the models come to a verdict whatever an endpoint answers."""

from __future__ import annotations

import httpx
import pytest
import respx

from gateway.upstream.endpoint import Endpoint
from gateway.upstream.health import list_models, probe

E = Endpoint("http://e:1")
LISTED = {"object": "list", "data": [{"id": "a", "max_model_len": 5}, {"id": "b"}]}


async def listed(answer: httpx.Response) -> object:
    async with httpx.AsyncClient() as http:
        with respx.mock:
            respx.get("http://e:1/v1/models").mock(return_value=answer)
            return await list_models(http, E, 1.0)


@pytest.mark.parametrize(("status", "well"), [(200, True), (204, True), (503, False), (302, False)])
async def test_any_2xx_is_well(status: int, well: bool) -> None:
    """Everything else says why not."""
    async with httpx.AsyncClient() as http:
        with respx.mock:
            respx.get("http://e:1/health").mock(return_value=httpx.Response(status))
            assert (await probe(http, E, "/health", 1.0) == "") is well


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), httpx.ReadTimeout(""), httpx.DecodingError("gzip")]
)
async def test_no_answer_is_not_well(error: Exception) -> None:
    """With a reason, also where the exception has none."""
    async with httpx.AsyncClient() as http:
        with respx.mock:
            respx.get("http://e:1/health").mock(side_effect=error)
            assert await probe(http, E, "/health", 1.0)


async def test_models_are_listed_with_all_that_the_engine_says() -> None:
    """The entries as they are."""
    assert await listed(httpx.Response(200, json=LISTED)) == LISTED["data"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"data": None}),
        httpx.Response(200, json={"data": [{}]}),
        httpx.Response(200, json={"data": {"id": 1}}),
        httpx.Response(200, content=b"\xff"),
        httpx.Response(200, content=b"[" * 200_000),
    ],
)
async def test_an_answer_that_is_no_list_is_none(answer: httpx.Response) -> None:
    """No answer can end the watch."""
    assert await listed(answer) is None


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.DecodingError("gzip")])
async def test_an_endpoint_that_does_not_answer_lists_nothing(error: Exception) -> None:
    """Neither a refused connection nor a broken coding ends the watch."""
    async with httpx.AsyncClient() as http:
        with respx.mock:
            respx.get("http://e:1/v1/models").mock(side_effect=error)
            assert await list_models(http, E, 1.0) is None

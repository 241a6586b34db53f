"""The app as a whole: who serves which route, and what its OpenAPI page says."""

from typing import Any

import msgspec
import pytest

from tests.support.vision_api import FakeModel, stage
from vision.api import describe_hot, predict
from vision.api.http import Http
from vision.errors import VisionError


async def test_the_page_describes_every_route_and_the_hot_ones() -> None:
    async with stage() as on:
        page = (await on.get("/openapi.json")).json()
    assert set(page["paths"]) == {
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/predict",
        "/predict",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{model}",
        "/v2/models/{model}/ready",
        "/v2/models/{model}/infer",
        "/v2/models/{model}/versions/{version}",
        "/v2/models/{model}/versions/{version}/ready",
        "/v2/models/{model}/versions/{version}/infer",
        "/v2/repository/index",
        "/v2/repository/models/{model}/load",
        "/v2/repository/models/{model}/unload",
    }
    operations = [one for path in page["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    assert not any("422" in one["responses"] for one in operations)


def test_the_described_body_is_the_one_that_is_read() -> None:
    """Field by field: what the page names, msgspec reads, and nothing else."""
    body = describe_hot.HOT_PATHS["/v1/predict"]["post"]["requestBody"]["content"]
    described = body["application/json"]["schema"]["properties"]
    assert set(described) == {one.name for one in msgspec.structs.fields(predict.Body)}


async def test_the_example_on_the_page_is_a_request() -> None:
    async with stage() as on:
        page = (await on.get("/openapi.json")).json()
        content = page["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
        example = content["application/json"]["schema"]["example"] | {"model": "m"}
        reply = await on.post("/v1/predict", example)
    # The model here takes 2 x 2 pixels; that the image is one, it has seen.
    assert "8 x 8 pixels" in reply.json()["error"]["message"]


async def test_unknown_routes_and_methods() -> None:
    async with stage() as on:
        lost = await on.get("/" + "x" * 500)
        wrong = await on.ask("DELETE", "/health")
    assert (lost.status, lost.code) == (404, "not_found")
    assert len(lost.body) < 500
    assert wrong is not None
    assert (wrong.status, wrong.code, wrong.headers["allow"]) == (405, "method_not_allowed", "GET")


async def test_a_model_may_be_called_like_a_route() -> None:
    async with stage(FakeModel("infer", 1)) as on:
        assert (await on.get("/v2/models/infer")).json()["name"] == "infer"
        assert (await on.get("/v2/models/infer/ready")).status == 200
        assert (await on.get("/v2/models/infer/infer")).status == 405


async def test_a_defect_of_another_route_is_a_500_in_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stage() as on:
        monkeypatch.setattr(on.models, "index", lambda: 1 / 0)
        for path in ("/v1/models", "/v2/models/m/ready"):
            messages: list[Any] = []

            async def send(message: Any, messages: list[Any] = messages) -> None:
                messages.append(message)

            with pytest.raises(ZeroDivisionError):  # So that the server logs it.
                await _get(on.app, path, send)
            assert messages[0]["status"] == 500
            assert b"ZeroDivision" not in messages[1]["body"]


async def _get(app: Http, path: str, send: Any) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("test", 80),
    }
    await app(scope, receive, send)


def test_every_status_of_ours_is_on_the_page() -> None:
    statuses = {one.status for one in VisionError.__subclasses__()} - {405}
    described = describe_hot.HOT_PATHS["/v1/predict"]["post"]["responses"]
    assert {str(status) for status in statuses} <= set(described)

"""The protocol's routes besides `infer`."""

from typing import Any

import pytest

from tests.support.vision_api import FakeModel, stage
from vision.errors import BadInput, LoadError, ModelNotFound
from vision.versions import Rest


async def test_the_server_tells_what_it_is() -> None:
    async with stage() as on:
        told = (await on.get("/v2")).json()
        assert told["name"] == "sluice-vision"
        assert told["version"] == "1.2.3"
        assert "binary_tensor_data" in told["extensions"]


async def test_live_at_once_ready_when_the_start_is_over_and_until_the_end() -> None:
    async with stage() as on:
        on.models.up = False
        assert (await on.get("/v2/health/live")).json() == {"live": True}
        assert (await on.get("/v2/health/ready")).status == 503
        on.models.up = True
        reply = await on.get("/v2/health/ready")
        assert (reply.status, reply.json()) == (200, {"ready": True})
        on.life.draining = True
        assert (await on.get("/v2/health/ready")).status == 503


async def test_metadata_have_the_batch_axis_first() -> None:
    async with stage(FakeModel("m", 1), FakeModel("m", 2)) as on:
        told = (await on.get("/v2/models/m")).json()
        assert told["versions"] == ["1", "2"]
        assert told["platform"] == "onnxruntime_onnx"
        assert told["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 1, 2, 2]}]
        assert [one["name"] for one in told["outputs"]] == ["sums", "twice"]
        assert (await on.get("/v2/models/m/versions/2")).status == 200
        assert on.models.leases == 0


@pytest.mark.parametrize("end", ["", "/ready"])
async def test_what_is_not_there(end: str) -> None:
    async with stage() as on:
        for path, status in {"x": 404, "m/versions/9": 404, "m/versions/x": 400}.items():
            reply = await on.get(f"/v2/models/{path}{end}")
            assert reply.status == status
            assert isinstance(reply.json()["error"], str)


async def test_a_model_is_ready_while_it_can_be_asked() -> None:
    async with stage() as on:
        on.models.rest("evicted", Rest.EVICTED)
        on.models.rest("broken", "its file is no model")  # type: ignore[arg-type]  # not at rest
        for name, status in {"m": 200, "evicted": 200, "broken": 503}.items():
            reply = await on.get(f"/v2/models/{name}/ready")
            assert (reply.status, reply.json()) == (status, {"name": name, "ready": status == 200})
        assert (await on.get("/v2/models/m/versions/1/ready")).status == 200


@pytest.mark.parametrize(("body", "count"), [(b"", 2), (b"{}", 2), (b'{"ready":true}', 1)])
async def test_the_index(body: bytes, count: int) -> None:
    async with stage() as on:
        on.models.rest("broken", "its file is no model")  # type: ignore[arg-type]  # not at rest
        rows = (await on.post("/v2/repository/index", body)).json()
    assert len(rows) == count
    assert rows[0] == {"name": "m", "version": "1", "state": "READY", "reason": ""}


async def test_load_and_unload_reach_the_repository() -> None:
    async with stage() as on:
        for body in (b"", b"{}", b'{"parameters":{"unload_dependents":false}}'):
            assert (await on.post("/v2/repository/models/m/load", body)).json() == {}
        assert (await on.post("/v2/repository/models/m/unload", b"")).json() == {}
        assert on.models.calls == [("load", "m")] * 3 + [("unload", "m")]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (BadInput("control is not explicit"), 400, "control"),
        (ModelNotFound("no such"), 404, "no such"),
        (LoadError("model.onnx: is no ONNX file"), 400, "is no ONNX file"),
    ],
)
async def test_why_a_model_is_not_loaded(error: Any, status: int, words: str) -> None:
    async with stage() as on:
        on.models.error = error
        reply = await on.post("/v2/repository/models/m/load", b"")
    assert reply.status == status
    assert words in reply.json()["error"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready":1}', b'{"parameters":1}'])
async def test_bodies_that_are_none(body: bytes) -> None:
    async with stage() as on:
        replies = [await on.post("/v2/repository/index", body)]
        replies.append(await on.post("/v2/repository/models/m/load", body))
    assert 400 in {reply.status for reply in replies}
    assert all(reply.status in (200, 400) for reply in replies)


async def test_a_large_body_is_refused() -> None:
    async with stage() as on:
        reply = await on.post("/v2/repository/index", b" " * 2**17)
    assert reply.status == 413


async def test_unknown_routes_and_methods_have_the_protocols_shape() -> None:
    async with stage() as on:
        lost = await on.get("/v2/nothing")
        wrong = await on.ask("POST", "/v2/health/live")
    assert (lost.status, lost.json()) == (404, {"error": "Unknown route: /v2/nothing"})
    assert wrong is not None
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET")

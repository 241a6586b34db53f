"""What `POST /v2/models/{model}/infer` reads, and what it answers."""

import asyncio
import gc
import json
from typing import Any

import numpy as np
import pytest

from tests.support.vision_api import GONE, FakeModel, Reply, Stage, stage
from vision.errors import VisionError
from vision.values import InferTensor

ROUTE = "/v2/models/m/infer"
LENGTH = "inference-header-content-length"
PIXELS = {"name": "pixels", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}
NUMBERS = np.array([1, 2, 3, 4], "<f4").tobytes()


def named(**fields: Any) -> dict[str, Any]:
    return {"inputs": [PIXELS | fields]}


async def binary(on: Stage, head: dict[str, Any], raw: bytes, length: str | None = None) -> Reply:
    told = json.dumps(head).encode()
    headers = {LENGTH: length or str(len(told)), "content-type": "application/octet-stream"}
    reply = await on.ask("POST", ROUTE, told + raw, headers)
    assert reply is not None
    return reply


def tensor(size: object = len(NUMBERS)) -> dict[str, Any]:
    return {
        **{key: PIXELS[key] for key in ("name", "shape", "datatype")},
        "parameters": {"binary_data_size": size},
    }


async def test_numbers_in_json() -> None:
    async with stage() as on:
        reply = await on.post(ROUTE, named() | {"id": "mine", "parameters": {"priority": 1}})
    sums, twice = reply.json()["outputs"]
    assert (reply.status, reply.json()["id"]) == (200, "mine")
    assert sums == {"name": "sums", "datatype": "FP32", "shape": [1, 2], "data": [10.0, 2.5]}
    assert (twice["shape"], twice["data"]) == ([1, 1, 2, 2], [2.0, 4.0, 6.0, 8.0])
    assert (reply.json()["model_name"], reply.json()["model_version"]) == ("m", "1")


async def test_nested_numbers_and_several_rows() -> None:
    async with stage() as on:
        data = [[[[1, 2], [3, 4]]], [[[0, 0], [0, 8]]]]
        reply = await on.post(ROUTE, named(shape=[2, 1, 2, 2], data=data))
    assert reply.json()["outputs"][0]["data"] == [10.0, 2.5, 8.0, 2.0]


async def test_a_version_in_the_path() -> None:
    async with stage(FakeModel("m", 1), FakeModel("m", 2)) as on:
        told = (await on.post("/v2/models/m/versions/1/infer", named())).json()
        assert told["model_version"] == "1"
        assert (await on.post("/v2/models/m/versions/3/infer", named())).status == 404
        assert (await on.post("/v2/models/m/versions/x/infer", named())).status == 400


async def test_only_the_outputs_that_are_asked_for() -> None:
    async with stage() as on:
        reply = await on.post(ROUTE, named() | {"outputs": [{"name": "twice"}]})
        unknown = await on.post(ROUTE, named() | {"outputs": [{"name": "other"}]})
    assert [one["name"] for one in reply.json()["outputs"]] == ["twice"]
    assert unknown.status == 400
    assert "sums, twice" in unknown.json()["error"]


async def test_bytes_behind_the_head_and_bytes_back() -> None:
    async with stage() as on:
        head = {"inputs": [tensor()], "parameters": {"binary_data_output": True}}
        reply = await binary(on, head, NUMBERS)
    length = int(reply.headers[LENGTH])
    told = json.loads(reply.body[:length])
    sums, twice = told["outputs"]
    assert reply.headers["content-type"] == "application/octet-stream"
    assert sums["parameters"] == {"binary_data_size": 8}
    assert "data" not in sums
    numbers = np.frombuffer(reply.body[length:], "<f4")
    np.testing.assert_array_equal(numbers, [10, 2.5, 2, 4, 6, 8])
    assert len(reply.body) == int(reply.headers["content-length"])
    assert twice["shape"] == [1, 1, 2, 2]


async def test_each_output_says_how_it_wants_to_travel() -> None:
    async with stage() as on:
        outputs = [{"name": "sums", "parameters": {"binary_data": True}}, {"name": "twice"}]
        reply = await on.post(ROUTE, named() | {"outputs": outputs})
    length = int(reply.headers[LENGTH])
    sums, twice = json.loads(reply.body[:length])["outputs"]
    assert ("data" in sums, "data" in twice) == (False, True)
    np.testing.assert_array_equal(np.frombuffer(reply.body[length:], "<f4"), [10, 2.5])


async def test_what_json_cannot_say_travels_as_bytes_only() -> None:
    model = FakeModel("m", 1)
    model.lane.answer = {"sums": np.array([[np.nan, 1]], np.float32)}
    async with stage(model) as on:
        as_json = await on.post(ROUTE, named())
        as_bytes = await on.post(ROUTE, named() | {"parameters": {"binary_data_output": True}})
    assert as_json.status == 500
    assert "binary" in as_json.json()["error"]
    assert np.isnan(np.frombuffer(as_bytes.body[-8:], "<f4")[0])


@pytest.mark.parametrize(
    ("size", "raw", "length"),
    [
        (16, NUMBERS[:8], None),
        (-1, NUMBERS, None),
        ("16", NUMBERS, None),
        (True, NUMBERS, None),
        (16, NUMBERS + b"\0", None),
        (16, NUMBERS, "100000"),
        (16, NUMBERS, "-3"),
        (16, NUMBERS, "x"),
        (16, NUMBERS, "5"),
    ],
)
async def test_lengths_that_do_not_add_up(size: object, raw: bytes, length: str | None) -> None:
    async with stage() as on:
        reply = await binary(on, {"inputs": [tensor(size)]}, raw, length)
    assert reply.status == 400
    assert isinstance(reply.json()["error"], str)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        {},
        {"inputs": []},
        {"inputs": [{"name": "pixels", "shape": [1, 1, 2, 2], "datatype": "FP32"}]},
        named(name="other"),
        named(shape=[1, 1, 2]),
        named(shape=[0, 1, 2, 2]),
        named(shape=[5, 1, 2, 2], data=[1] * 20),
        named(datatype="BYTES"),
        named(datatype="FP64"),
        named(data=[1, 2, 3]),
        named(data="AAAA"),
        named(data=[1, 2, 3, 1e300]),
        named() | {"outputs": "all"},
    ],
)
async def test_bad_requests_are_a_400_with_one_message(body: Any) -> None:
    async with stage() as on:
        reply = await on.post(ROUTE, body)
        assert on.models.leases == 0
    assert reply.status == 400
    assert isinstance(reply.json()["error"], str)


async def test_what_is_refused_before_the_body() -> None:
    async with stage() as on:
        assert (await on.get(ROUTE)).status == 405
        assert (await on.post("/v2/models/x/infer", named())).status == 404
        assert (await on.post("/v2/models//infer", named())).status == 404
        assert (await on.post("/v2/models/a/b/infer", named())).status == 404
        assert (await on.post(ROUTE, named(), content_type="text/plain")).status == 415
        assert (await on.post(ROUTE, named(), content_encoding="gzip")).status == 415


async def test_a_defect_is_a_500_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    model = FakeModel("m", 1)
    model.lane.error = RuntimeError("secret")
    async with stage(model) as on:
        reply = await on.post(ROUTE, named())
    assert (reply.status, b"secret" in reply.body) == (500, False)
    assert "secret" in caplog.text


async def test_a_client_that_leaves() -> None:
    model = FakeModel("m", 1)
    model.lane.gate = asyncio.Event()
    left = asyncio.Event()
    async with stage(model) as on, asyncio.TaskGroup() as group:
        assert await on.ask("POST", ROUTE, [b"{", GONE]) is None
        body = json.dumps(named()).encode()
        asked = group.create_task(on.ask("POST", ROUTE, body, left=left))
        await model.lane.entered.wait()
        left.set()
        assert await asked is None
        assert model.lane.cancelled == 1


@pytest.mark.parametrize("body", [named(), named(data=[1]), named(name="other"), b"{"])
async def test_nothing_of_a_request_waits_for_the_garbage_collector(body: Any) -> None:
    """Tensors may be large, and the collector of a service seldom runs."""
    kinds = (InferTensor, VisionError)
    async with stage() as on:
        await on.post(ROUTE, body)
        gc.collect()
        before = [one for one in gc.get_objects() if isinstance(one, kinds)]
        gc.disable()
        try:
            await on.post(ROUTE, body)
            after = [one for one in gc.get_objects() if isinstance(one, kinds)]
        finally:
            gc.enable()
    assert len(after) == len(before)

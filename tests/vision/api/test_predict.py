"""What `POST /v1/predict` reads, and what it answers."""

import asyncio
import base64
import gc
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.support.vision_api import GONE, FakeModel, stage
from vision.api.predict import Limits
from vision.decoding import Source
from vision.errors import ExecutionFailed, QueueFull, VisionError
from vision.service import Query


def png(*pixels: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8).reshape(2, 2)).save(file, "PNG")
    return file.getvalue()


WHITE = png(255, 255, 255, 255)
IMAGE = {"image": base64.b64encode(WHITE).decode()}
ROW = {"pixels": [[[1, 2], [3, 4]]]}


def form(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> list[bytes]:
    told = []
    for name, content in parts:
        disposition = f'content-disposition: form-data; name="{name}"'.encode()
        told.append(b"--x\r\n" + disposition + b"\r\n\r\n" + content + b"\r\n")
    return [*told, end]


FORM = {"content-type": "multipart/form-data; boundary=x"}


async def test_an_image_is_answered_with_predictions() -> None:
    async with stage() as on:
        reply = await on.post("/v1/predict", {"model": "m", "inputs": IMAGE})
    told = reply.json()
    assert reply.status == 200
    assert told["predictions"][0]["outputs"]["sums"] == {
        "shape": [2],
        "datatype": "FP32",
        "data": [4.0, 1.0],
    }
    assert (told["model"], told["version"]) == ("m", "1")
    assert told["latency_ms"] >= 0
    assert reply.headers["x-request-id"] == told["trace_id"]
    assert len(told["trace_id"]) == 32
    assert int(reply.headers["content-length"]) == len(reply.body)


async def test_the_short_name_is_the_same_route() -> None:
    async with stage() as on:
        assert (await on.post("/predict", {"model": "m", "inputs": IMAGE})).status == 200


async def test_tensors_by_name_are_one_row() -> None:
    async with stage() as on:
        reply = await on.post("/v1/predict", {"model": "m", "inputs": ROW})
        ((arrays, _),) = on.models.models["m", 1].lane.asked
    assert reply.json()["predictions"][0]["outputs"]["sums"]["data"] == [10.0, 2.5]
    assert arrays["pixels"].shape == (1, 1, 2, 2)


async def test_a_list_is_answered_with_results_in_its_order() -> None:
    async with stage() as on:
        inputs = [ROW, {"image": "***"}, IMAGE]
        reply = await on.post("/v1/predict", {"model": "m", "inputs": inputs})
    first, second, third = reply.json()["results"]
    assert reply.status == 200
    assert first["predictions"][0]["outputs"]["sums"]["data"][0] == 10.0
    assert second["error"]["param"] == "inputs[1].image"
    assert third["predictions"][0]["outputs"]["sums"]["data"][0] == 4.0


async def test_a_list_of_one_is_a_list() -> None:
    async with stage() as on:
        reply = await on.post("/v1/predict", {"model": "m", "inputs": [ROW]})
    assert len(reply.json()["results"]) == 1


async def test_where_nothing_succeeds_the_first_error_is_the_requests() -> None:
    model = FakeModel("m", 1)
    model.lane.error = QueueFull("full", retry_after_s=3)
    async with stage(model) as on:
        reply = await on.post("/v1/predict", {"model": "m", "inputs": [ROW, ROW]})
        alone = await on.post("/v1/predict", {"model": "m", "inputs": ROW})
    assert (reply.status, reply.code) == (429, "queue_full")
    assert [one["error"]["code"] for one in reply.json()["results"]] == ["queue_full"] * 2
    assert (alone.status, list(alone.json())) == (429, ["error"])
    assert alone.headers["retry-after"] == reply.headers["retry-after"] == "3"


async def test_top_k_reaches_the_reader() -> None:
    model = FakeModel("m", 1)
    async with stage(model) as on:
        body = {"model": "m", "inputs": ROW, "parameters": {"top_k": 3}}
        await on.post("/v1/predict", body)
        await on.ask("POST", "/v1/predict", WHITE, {"content-type": "image/png"}, "model=m&top_k=2")
        await on.ask("POST", "/predict", form(("model", b"m"), ("image", WHITE)), FORM)
    assert model.postprocessor.asked == [3, 2, None]


async def test_a_user_may_be_named_and_nobody_looks() -> None:
    async with stage(FakeModel("m", 1)) as on:
        body = {"model": "m", "inputs": ROW, "user": "bob"}
        assert (await on.post("/v1/predict", body)).status == 200
        body["user"] = 7
        assert (await on.post("/v1/predict", body)).code == "invalid_request"


@pytest.mark.parametrize("version", ["2", 2])
async def test_a_version_is_a_number_or_its_text(version: object) -> None:
    async with stage(FakeModel("m", 2), FakeModel("m", 3)) as on:
        body = {"model": "m", "version": version, "inputs": ROW}
        assert (await on.post("/v1/predict", body)).json()["version"] == "2"
        body = {"model": "m", "version": None, "inputs": ROW}
        assert (await on.post("/v1/predict", body)).json()["version"] == "3"


async def test_a_name_that_stands_twice_is_refused() -> None:
    """Or who reads the first one, such as a proxy, would take it for another model's request."""
    async with stage(FakeModel("m", 1), FakeModel("n", 1)) as on:
        image = {"content-type": "image/png"}
        asked = [
            await on.ask("POST", "/v1/predict", WHITE, image, "model=m&mod%65l=n"),
            await on.ask(
                "POST", "/predict", form(("model", b"m"), ("model", b"n"), ("image", WHITE)), FORM
            ),
        ]
    assert [reply and (reply.status, reply.code) for reply in asked] == [
        (400, "invalid_request"),
        (400, "invalid_request"),
    ]


async def test_an_image_as_the_body_has_its_names_in_the_query() -> None:
    async with stage() as on:
        kind = {"content-type": "image/png"}
        reply = await on.ask("POST", "/v1/predict", WHITE, kind, "model=m&version=1")
        assert reply is not None
        assert reply.json()["predictions"]
        unknown = await on.ask("POST", "/v1/predict", WHITE, kind, "model=m&modle=x")
        assert unknown is not None
        assert (unknown.status, unknown.json()["error"]["param"]) == (400, "modle")
        many = await on.ask("POST", "/v1/predict", WHITE, kind, "model=m&" * 20)
        assert many is not None
        assert many.status == 400


async def test_a_form_may_come_in_any_pieces() -> None:
    async with stage() as on:
        whole = b"".join(form(("model", b"m"), ("version", b"1"), ("image", WHITE)))
        for size in (1, 7, len(whole)):
            parts = [whole[at : at + size] for at in range(0, len(whole), size)]
            reply = await on.ask("POST", "/v1/predict", parts, FORM)
            assert reply is not None
            assert reply.json()["predictions"][0]["outputs"]["sums"]["data"] == [4.0, 1.0]


async def test_a_form_of_several_images_is_a_list() -> None:
    async with stage() as on:
        parts = form(("model", b"m"), ("image", WHITE), ("image", b"no image"))
        reply = await on.ask("POST", "/v1/predict", parts, FORM)
    assert reply is not None
    good, bad = reply.json()["results"]
    assert good["predictions"]
    assert bad["error"]["param"] == "image[1]"


GOOD = json.dumps({"model": "m", "inputs": ROW}).encode()


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, "invalid_json"),
        (b"\xff", {}, 400, "invalid_json"),
        (b"", {}, 400, "invalid_json"),
        (b'{"model":"m","inputs":' + b"[" * 3000, {}, 400, "invalid_json"),
        (b"[]", {}, 400, "invalid_request"),
        (b'{"model":1,"inputs":{}}', {}, 400, "invalid_request"),
        (b'{"model":"m","inputs":{},"stream":true}', {}, 400, "invalid_request"),
        (b'{"inputs":{"pixels":1}}', {}, 400, "missing_model"),
        (b'{"model":"","inputs":{"pixels":1}}', {}, 400, "missing_model"),
        (b'{"model":"m"}', {}, 400, "invalid_request"),
        (b'{"model":"m","inputs":{},"version":"x"}', {}, 400, "invalid_request"),
        (b'{"model":"m","inputs":{},"version":0}', {}, 400, "invalid_request"),
        (b'{"model":"m","inputs":{},"parameters":{"top_k":0}}', {}, 400, "invalid_request"),
        (b'{"model":"x","inputs":{"pixels":1}}', {}, 404, "model_not_found"),
        (b'{"model":"asleep","inputs":{"pixels":1}}', {}, 503, "model_not_ready"),
        (GOOD, {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, None),
        (GOOD, {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        (GOOD, {"x-request-timeout-ms": "soon"}, 400, "invalid_request"),
        (GOOD, {"content-length": "99999"}, 413, "request_too_large"),
        ([GOOD] * 99, {}, 413, "request_too_large"),
        ([b"x" * 5000], {}, 413, "request_too_large"),
        (form(("model", b"m")), FORM, 400, "invalid_request"),
        (form(("image", WHITE)), FORM, 400, "missing_model"),
        (form(("model", b"m"), ("image", WHITE), end=b""), FORM, 400, "invalid_request"),
        (b"no form", FORM, 400, "invalid_request"),
        (b"", {"content-type": "multipart/form-data"}, 400, "invalid_request"),
        (form(("model", b"m"), ("a", b"b"), ("image", WHITE)), FORM, 400, "invalid_request"),
        (form(("model", b"m"), ("top_k", b"x"), ("image", WHITE)), FORM, 400, "invalid_request"),
        (form(("model", b"m" * 2000), ("image", WHITE)), FORM, 413, "request_too_large"),
        (form(("model", b"m"), *[("image", WHITE)] * 3), FORM, 413, "request_too_large"),
        (form(("image", b"x" * 3000)), FORM, 413, "request_too_large"),
    ],
)
async def test_bad_requests_are_a_clear_4xx(
    body: object, headers: dict[str, str], status: int, code: str | None
) -> None:
    async with stage(limits=Limits(body_bytes=4096, items=2, image_bytes=2048)) as on:
        reply = await on.ask("POST", "/v1/predict", body, headers)
        assert reply is not None
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert (reply.status, error["code"]) == (status, code or error["code"])
        assert on.models.leases == 0


async def test_more_items_than_the_cap() -> None:
    async with stage(limits=Limits(items=2)) as on:
        reply = await on.post("/v1/predict", {"model": "m", "inputs": [ROW] * 3})
    assert (reply.status, reply.code) == (413, "request_too_large")


async def test_another_method() -> None:
    async with stage() as on:
        reply = await on.get("/v1/predict")
    assert (reply.status, reply.headers["allow"]) == (405, "POST")


async def test_what_no_content_type_or_curls_brings_is_read_as_json() -> None:
    async with stage() as on:
        for headers in ({}, {"content-type": "application/x-www-form-urlencoded"}):
            reply = await on.ask("POST", "/v1/predict", GOOD, headers)
            assert reply is not None
            assert reply.status == 200


async def test_the_clients_deadline_reaches_the_lane() -> None:
    model = FakeModel("m", 1)
    async with stage(model) as on:
        await on.post("/v1/predict", GOOD, x_request_timeout_ms="5000")
        await on.post("/v1/predict", GOOD)
    (_, given), (_, none) = model.lane.asked
    assert given is not None
    assert none is None


async def test_a_defect_is_a_500_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    model = FakeModel("m", 1)
    model.lane.error = RuntimeError("secret")
    async with stage(model) as on:
        reply = await on.post("/v1/predict", GOOD)
        assert on.models.leases == 0
    assert (reply.status, reply.code) == (500, "internal_error")
    assert b"secret" not in reply.body
    assert "secret" in caplog.text


async def test_an_execution_that_fails_is_told() -> None:
    model = FakeModel("m", 1)
    model.lane.error = ExecutionFailed("The model failed.")
    async with stage(model) as on:
        reply = await on.post("/v1/predict", GOOD)
    assert (reply.status, reply.code) == (500, "execution_failed")


async def test_a_client_that_leaves_amid_its_body_gets_no_answer() -> None:
    async with stage() as on:
        for headers in ({}, FORM):
            assert await on.ask("POST", "/v1/predict", [b"--x\r\n", GONE], headers) is None


async def test_a_client_that_leaves_while_it_waits_takes_its_request_along() -> None:
    model = FakeModel("m", 1)
    model.lane.gate = asyncio.Event()
    left = asyncio.Event()
    async with stage(model) as on, asyncio.TaskGroup() as group:
        asked = group.create_task(on.ask("POST", "/v1/predict", GOOD, left=left))
        await model.lane.entered.wait()
        left.set()
        assert await asked is None
        assert (model.lane.cancelled, on.models.leases) == (1, 0)
        assert on.telemetry.series("m", 1).outcomes == {"cancelled": 1}


@pytest.mark.parametrize(
    "body",
    [
        GOOD,
        b'{"model":"m","inputs":{"image":"aGVsbG8="}}',
        b'{"model":"m","inputs":[{"image":"aGVsbG8="},{}]}',
        b'{"model":"m","inputs":{"image":""}}',
        b'{"model":"m","inputs":[]}',
        b'{"model":"x","inputs":{"pixels":1}}',
        b"{",
    ],
)
async def test_nothing_of_a_request_waits_for_the_garbage_collector(body: bytes) -> None:
    """Images may be large, and the collector of a service seldom runs."""
    kinds = (Source, Query, VisionError)
    async with stage() as on:
        await on.post("/v1/predict", body)
        gc.collect()
        before = [one for one in gc.get_objects() if isinstance(one, kinds)]
        gc.disable()
        try:
            await on.post("/v1/predict", body)
            after = [one for one in gc.get_objects() if isinstance(one, kinds)]
        finally:
            gc.enable()
    assert len(after) == len(before)

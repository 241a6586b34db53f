"""The protocol over gRPC, with a real channel on this event loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest

from tests.support.vision_api import FakeModel, Stage, stage
from vision.api import inference_pb2 as pb
from vision.api.grpc import Methods, make_server
from vision.errors import (
    BadInput,
    DeadlineExceeded,
    ExecutionFailed,
    LoadError,
    ModelNotReady,
    QueueFull,
    TooLarge,
    VisionError,
)
from vision.versions import Rest

Code = grpc.StatusCode


@dataclass
class Client:
    """The API, and a channel to it."""

    on: Stage
    channel: grpc.aio.Channel

    async def call(self, method: str, request: Any, **how: Any) -> Any:
        answer = getattr(pb, f"{type(request).__name__.removesuffix('Request')}Response")
        rpc = self.channel.unary_unary(
            f"/inference.GRPCInferenceService/{method}",
            type(request).SerializeToString,
            answer.FromString,
        )
        return await rpc(request, timeout=10, **how)

    async def code(self, method: str, request: Any, **how: Any) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, request, **how)
        assert caught.value.details()
        return caught.value.code()


@asynccontextmanager
async def client(*models: FakeModel, max_bytes: int = 2**20) -> AsyncIterator[Client]:
    async with stage(*models) as on:
        server = make_server(Methods(on.service, on.view), max_bytes)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield Client(on, channel)
        finally:
            await server.stop(None)


def asked(**fields: Any) -> pb.ModelInferRequest:
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 1, 2, 2]} | fields
    contents = pb.InferTensorContents(fp32_contents=[1, 2, 3, 4])
    request = pb.ModelInferRequest(model_name="m", id="mine")
    request.inputs.add(contents=contents, **tensor)
    return request


def arrays(answer: pb.ModelInferResponse) -> dict[str, Any]:
    return {
        one.name: np.frombuffer(raw, "<f4").reshape(one.shape)
        for one, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


async def test_health_and_metadata() -> None:
    async with client() as to:
        assert (await to.call("ServerLive", pb.ServerLiveRequest())).live
        assert (await to.call("ServerReady", pb.ServerReadyRequest())).ready
        to.on.life.draining = True
        assert not (await to.call("ServerReady", pb.ServerReadyRequest())).ready
        assert (await to.call("ModelReady", pb.ModelReadyRequest(name="m"))).ready
        server = await to.call("ServerMetadata", pb.ServerMetadataRequest())
        assert (server.name, server.version) == ("sluice-vision", "1.2.3")
        model = await to.call("ModelMetadata", pb.ModelMetadataRequest(name="m", version="1"))
        assert list(model.inputs[0].shape) == [-1, 1, 2, 2]
        assert [one.name for one in model.outputs] == ["sums", "twice"]


async def test_typed_and_raw_contents_say_the_same() -> None:
    async with client() as to:
        typed = await to.call("ModelInfer", asked())
        raw = asked()
        raw.inputs[0].ClearField("contents")
        raw.raw_input_contents.append(np.array([1, 2, 3, 4], "<f4").tobytes())
        same = await to.call("ModelInfer", raw)
    assert (typed.id, typed.model_name, typed.model_version) == ("mine", "m", "1")
    np.testing.assert_array_equal(arrays(typed)["sums"], [[10, 2.5]])
    np.testing.assert_array_equal(arrays(same)["twice"], arrays(typed)["twice"])


async def test_only_the_outputs_that_are_asked_for() -> None:
    async with client() as to:
        request = asked()
        request.outputs.add(name="twice")
        assert list(arrays(await to.call("ModelInfer", request))) == ["twice"]
        request.outputs.add(name="other")
        assert await to.code("ModelInfer", request) is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "other"},
        {"shape": [1, 4]},
        {"shape": [5, 1, 2, 2]},
        {"datatype": "FP64"},
        {"datatype": "FP16"},
        {"datatype": "BYTES"},
        {"datatype": ""},
    ],
)
async def test_wrong_tensors(fields: dict[str, Any]) -> None:
    async with client() as to:
        assert await to.code("ModelInfer", asked(**fields)) is Code.INVALID_ARGUMENT


async def test_raw_contents_for_each_input_or_for_none() -> None:
    async with client() as to:
        request = asked()
        request.raw_input_contents.extend([b"", b""])
        assert await to.code("ModelInfer", request) is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("version", ["x", "-1"])
async def test_versions_that_are_none(version: str) -> None:
    async with client() as to:
        request = asked()
        request.model_version = version
        assert await to.code("ModelInfer", request) is Code.INVALID_ARGUMENT


async def test_what_is_not_there() -> None:
    async with client() as to:
        request = asked()
        request.model_name = "x"
        assert await to.code("ModelInfer", request) is Code.NOT_FOUND
        assert await to.code("ModelReady", pb.ModelReadyRequest(name="x")) is Code.NOT_FOUND
        assert await to.code("ModelMetadata", pb.ModelMetadataRequest(name="x")) is Code.NOT_FOUND


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("x"), Code.INVALID_ARGUMENT),
        (TooLarge("x"), Code.RESOURCE_EXHAUSTED),
        (QueueFull("x"), Code.RESOURCE_EXHAUSTED),
        (ModelNotReady("x"), Code.UNAVAILABLE),
        (DeadlineExceeded("x"), Code.DEADLINE_EXCEEDED),
        (ExecutionFailed("x"), Code.INTERNAL),
        (VisionError("x"), Code.INTERNAL),
    ],
)
async def test_our_errors_are_grpcs(error: VisionError, code: grpc.StatusCode) -> None:
    model = FakeModel("m", 1)
    model.lane.error = error
    async with client(model) as to:
        assert await to.code("ModelInfer", asked()) is code


async def test_a_defect_is_internal_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    model = FakeModel("m", 1)
    model.lane.error = RuntimeError("secret")
    async with client(model) as to:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await to.call("ModelInfer", asked())
    assert caught.value.code() is Code.INTERNAL
    assert "secret" not in str(caught.value.details())
    assert "secret" in caplog.text


async def test_a_message_over_the_cap() -> None:
    async with client(max_bytes=1000) as to:
        request = asked()
        request.raw_input_contents.append(b"\0" * 2000)
        assert await to.code("ModelInfer", request) is Code.RESOURCE_EXHAUSTED


async def test_the_clients_deadline_reaches_the_lane_and_its_leaving_cancels() -> None:
    model = FakeModel("m", 1)
    model.lane.gate = asyncio.Event()
    async with client(model) as to, asyncio.TaskGroup() as group:
        call = group.create_task(to.call("ModelInfer", asked()))
        await model.lane.entered.wait()
        call.cancel()
        async with asyncio.timeout(10):
            await model.lane.dropped.wait()
    ((_, deadline),) = model.lane.asked
    assert deadline is not None


async def test_the_repository() -> None:
    async with client() as to:
        to.on.models.rest("evicted", Rest.EVICTED)
        every = await to.call("RepositoryIndex", pb.RepositoryIndexRequest())
        assert [(one.name, one.state) for one in every.models] == [
            ("m", "READY"),
            ("evicted", "UNAVAILABLE"),
        ]
        load = pb.RepositoryModelLoadRequest(model_name="m")
        await to.call("RepositoryModelLoad", load)
        await to.call("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="m"))
        assert to.on.models.calls == [("load", "m"), ("unload", "m")]
        to.on.models.error = LoadError("model.onnx: is no ONNX file")
        assert await to.code("RepositoryModelLoad", load) is Code.INVALID_ARGUMENT

"""How is the Open Inference Protocol served over gRPC?

The service definition is `inference.proto`; each of its methods is one coroutine here, on the event
loop that serves HTTP (grpc.aio runs on uvloop). Errors are gRPC's codes. Generated service code is
not needed: the methods are registered by their names in the descriptor.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from vision.api import inference_pb2 as pb
from vision.api.exchange import broken, monotonic
from vision.api.infer import output_of, raw_bytes
from vision.api.parse import version_of
from vision.api.view import EXTENSIONS, NAME, Tensor, View
from vision.errors import BadInput, VisionError
from vision.service import Inferred, Service
from vision.tensors import data_type_of
from vision.values import InferTensor

_LOG = logging.getLogger("sluice.vision")

_CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

_CONTENTS: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Context], Awaitable[Message]]


class Methods:
    """The service's methods, by the names of `inference.proto`."""

    def __init__(self, service: Service, view: View) -> None:
        self._service = service
        self._view = view

    async def ServerLive(  # noqa: N802  the protocol's name, as of all below
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """Say that the process can answer."""
        del request, context
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        """Say whether start-up loading is over."""
        del request, context
        return pb.ServerReadyResponse(ready=self._view.ready)

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Say whether a version can be asked now; an unknown one is an error."""
        del context
        ready = self._view.is_ready(request.name, version_of(request.version))
        return pb.ModelReadyResponse(ready=ready)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Say what this is."""
        del request, context
        return pb.ServerMetadataResponse(
            name=NAME, version=self._view.version, extensions=EXTENSIONS
        )

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Describe a version's inputs and outputs."""
        del context
        told = await self._view.metadata(request.name, version_of(request.version))
        return pb.ModelMetadataResponse(
            name=told.name,
            versions=told.versions,
            platform=told.platform,
            inputs=[_described(one) for one in told.inputs],
            outputs=[_described(one) for one in told.outputs],
        )

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: Context
    ) -> pb.ModelInferResponse:
        """Run a model on tensors; outputs travel raw."""
        left_s = context.time_remaining()
        inferred = await self._service.infer(
            request.model_name,
            version_of(request.model_version, "model_version"),
            tensors_of(request),
            None if left_s is None else monotonic() + left_s,
        )
        return _told(inferred, request)

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """List the versions and how they stand."""
        del context
        model = pb.RepositoryIndexResponse.ModelIndex
        rows = self._view.index(only_ready=request.ready)
        return pb.RepositoryIndexResponse(models=[model(**row) for row in rows])

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model, with explicit control only."""
        del context
        await self._view.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Unload a model, with explicit control only."""
        del context
        await self._view.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()


def tensors_of(request: pb.ModelInferRequest) -> list[InferTensor]:
    """Give each input its data, raw or typed; raises `BadInput`."""
    raw: Sequence[bytes] = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadInput(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs."
        )
    tensors = []
    for index, one in enumerate(request.inputs):
        param = f"inputs[{index}]"
        if raw:
            data: object = raw[index]
        elif (field := _CONTENTS.get(one.datatype)) is None:
            # An unknown type has no field either: who reads the tensor says which there are.
            data = b""
        else:
            data = list(getattr(one.contents, field))
        tensors.append(InferTensor(one.name, one.datatype, list(one.shape), data, param))
    return tensors


def _described(tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
    )


def _told(inferred: Inferred, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    if request.outputs:
        arrays = {
            one.name: output_of(inferred, one.name, f"outputs[{index}]")
            for index, one in enumerate(request.outputs)
        }
    else:
        arrays = inferred.outputs
    tensor = pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        model_name=inferred.model,
        model_version=str(inferred.version),
        id=request.id,
        outputs=[
            tensor(name=name, datatype=str(data_type_of(array.dtype)), shape=array.shape)
            for name, array in arrays.items()
        ],
        raw_output_contents=[raw_bytes(array) for array in arrays.values()],
    )


def _rpc(method: Method, request: type[Message]) -> grpc.RpcMethodHandler[Any, Any]:
    """Return what grpc calls for a method: errors of ours become gRPC's."""

    async def call(message: Any, context: Context) -> Message:
        try:
            return await method(message, context)
        except VisionError as error:
            code, told = _CODES.get(error.status, grpc.StatusCode.UNKNOWN), error.message
        except Exception:  # The outermost edge: grpc would tell the client our exception's words.
            _LOG.exception("a gRPC call failed")
            code, told = grpc.StatusCode.INTERNAL, broken().message
        await context.abort(code, told)
        raise AssertionError("abort raises")

    return grpc.unary_unary_rpc_method_handler(
        call, request.FromString, lambda message: message.SerializeToString()
    )


def make_server(methods: Methods, max_bytes: int) -> grpc.aio.Server:
    """Return a server with the methods and no port yet; it has to be made on its event loop."""
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    handlers = {
        method.name: _rpc(getattr(methods, method.name), getattr(pb, method.input_type.name))
        for method in service.methods
    }
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # A second service on the port is an error, not a partner.
        ]
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service.full_name, handlers),)
    )
    return server

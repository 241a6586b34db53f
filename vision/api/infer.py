"""What happens to `POST /v2/models/{model}[/versions/{version}]/infer`?

    head (JSON) [+ the tensors' bytes] ──► InferTensor … ──► service ──► head [+ bytes]

The binary data extension: with `Inference-Header-Content-Length` the body's first bytes are the
JSON, and each input whose `parameters.binary_data_size` says so takes its bytes from what follows,
in the inputs' order. Outputs come as bytes where `binary_data`, or `binary_data_output` for all,
asks for them.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/protocol/extension_binary_data.html
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
import numpy as np
from starlette.types import Receive, Scope, Send

from vision.api import exchange, parse
from vision.api.departures import Departures
from vision.api.failures import unknown_route
from vision.errors import BadInput, ExecutionFailed, UnsupportedMedia, VisionError
from vision.service import Inferred, Service
from vision.tensors import Array, data_type_of
from vision.values import InferTensor

_LOG = logging.getLogger("sluice.vision")

PREFIX = "/v2/models/"
SUFFIX = "/infer"

_LENGTH = b"inference-header-content-length"
_TYPES = frozenset(
    {b"application/json", b"application/octet-stream", b"", b"application/x-www-form-urlencoded"}
)
"""tritonclient names none, or octet-stream beside the length of the head; curl's `-d` the last."""


class Input(msgspec.Struct):
    """One tensor of the head."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = msgspec.UNSET
    parameters: dict[str, Any] | None = None


class Output(msgspec.Struct):
    """One output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class Head(msgspec.Struct):
    """The JSON of a request; what else stands in it belongs to extensions that we have not."""

    inputs: list[Input]
    id: str = ""
    outputs: list[Output] | None = None
    parameters: dict[str, Any] | None = None


_DECODER = msgspec.json.Decoder(Head)


class Infer:
    """The route."""

    def __init__(
        self, service: Service, max_bytes: int, departures: Departures, rng: Random
    ) -> None:
        self._service = service
        self._max_bytes = max_bytes
        self._departures = departures
        self._rng = rng

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever comes."""
        began = exchange.monotonic()
        headers = exchange.header_map(scope)
        trace_id = exchange.trace_id_of(headers, self._rng)
        fields = exchange.json_fields(exchange.request_id_of(headers, trace_id))
        try:
            model, version = _asked(scope["path"])
            exchange.require_post(scope)
            deadline = exchange.deadline_of(headers, began)
            head, tensors = await self._read(headers, receive)
            with self._departures.watch(receive):
                inferred = await self._service.infer(model, version, tensors, deadline)
            told, raw = _told(inferred, head)
            status, body = 200, exchange.encode_json(told)
            if raw:
                fields = [
                    (b"content-type", b"application/octet-stream"),
                    (_LENGTH, b"%d" % len(body)),
                    *fields[1:],
                ]
                body = b"".join((body, *raw))
        except VisionError as error:
            status, body = error.status, exchange.encode_json({"error": error.message})
            fields += exchange.error_fields(error)
        except exchange.ClientGone:
            return
        except Exception:  # The outermost edge: whatever broke, the client gets an answer.
            _LOG.exception("inference failed, trace %s", trace_id)
            status, body = 500, exchange.encode_json({"error": exchange.broken().message})
        await exchange.answer(send, status, body, fields)

    async def _read(
        self, headers: exchange.Headers, receive: Receive
    ) -> tuple[Head, list[InferTensor]]:
        exchange.require_plain(headers)
        if exchange.media_type(headers) not in _TYPES:
            raise UnsupportedMedia("The content type has to be application/json.")
        body = await exchange.read_body(receive, headers, self._max_bytes)
        length = headers.get(_LENGTH)
        if length is None:
            head = parse.read_json(_DECODER, body)
            return head, tensors_of(head.inputs, memoryview(b""))
        if not length.isdigit() or len(length) > 12 or int(length) > len(body):
            raise BadInput("Inference-Header-Content-Length is not a length of this body.")
        view = memoryview(body)
        head = parse.read_json(_DECODER, view[: int(length)])
        return head, tensors_of(head.inputs, view[int(length) :])


def _asked(path: str) -> tuple[str, int | None]:
    """Return model and version; raises `RouteNotFound`, or `BadInput` for the version."""
    match path[len(PREFIX) : -len(SUFFIX)].split("/"):
        case [model] if model:
            return model, None
        case [model, "versions", version] if model and version:
            return model, parse.version_of(version)
        case _:
            raise unknown_route(path)


def tensors_of(inputs: Sequence[Input], raw: memoryview) -> list[InferTensor]:
    """Give each input its data, from the head or from the bytes behind it; raises `BadInput`."""
    tensors = []
    at = 0
    for index, one in enumerate(inputs):
        param = f"inputs[{index}]"
        size = (one.parameters or {}).get("binary_data_size")
        data: object = one.data
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(raw) - at:
                raise BadInput(f"{param}: binary_data_size goes beyond the body.", param=param)
            data, at = raw[at : at + size], at + size
        elif data is msgspec.UNSET:
            raise BadInput(f"{param}: has neither data nor binary_data_size.", param=param)
        tensors.append(InferTensor(one.name, one.datatype, one.shape, data, param))
    if at != len(raw):
        raise BadInput("The body has bytes that no input claims.")
    return tensors


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: str
    array: Array
    binary: bool


def _told(inferred: Inferred, head: Head) -> tuple[dict[str, Any], list[bytes]]:
    """Return the answer's head and the bytes of the outputs that travel so."""
    outputs: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for one in _wanted(inferred, head):
        told: dict[str, Any] = {
            "name": one.name,
            "datatype": str(data_type_of(one.array.dtype)),
            "shape": list(one.array.shape),
        }
        if one.binary:
            data = raw_bytes(one.array)
            told["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            told["data"] = _numbers(one)
        outputs.append(told)
    answer: dict[str, Any] = {
        "model_name": inferred.model,
        "model_version": str(inferred.version),
        "outputs": outputs,
    }
    if head.id:
        answer["id"] = head.id
    return answer, raw


def _numbers(output: _Wanted) -> list[Any]:
    if output.array.dtype.kind == "f" and not np.isfinite(output.array).all():
        raise ExecutionFailed(
            f"The output {output.name} has values that are not finite; JSON has no words for them. "
            "Ask for it as binary data."
        )
    numbers: list[Any] = output.array.ravel().tolist()
    return numbers


def _wanted(inferred: Inferred, head: Head) -> Iterable[_Wanted]:
    every = (head.parameters or {}).get("binary_data_output") is True
    if not head.outputs:
        return [_Wanted(name, array, every) for name, array in inferred.outputs.items()]
    return [
        _Wanted(
            one.name,
            output_of(inferred, one.name, f"outputs[{index}]"),
            (one.parameters or {}).get("binary_data", every) is True,
        )
        for index, one in enumerate(head.outputs)
    ]


def output_of(inferred: Inferred, name: str, param: str) -> Array:
    """Return one output; `BadInput` if the model has none of this name."""
    try:
        return inferred.outputs[name]
    except KeyError:
        there = ", ".join(inferred.outputs)
        raise BadInput(
            f"{param}: the model has no output {name[:100]!r}; it has {there}.", param=param
        ) from None


def raw_bytes(array: Array) -> bytes:
    """Return the elements in row-major, little-endian order, as the protocol wants them."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()

"""What happens to `POST /v1/predict`, and to its other name `/predict`?

    JSON · form with images · an image as the body ──► Query ──► service ──► one JSON object

A hot route: plain ASGI, msgspec, no model of pydantic's. `vision.api.describe_hot` tells
OpenAPI readers what it takes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope, Send

from vision.api import exchange, form, parse
from vision.api.departures import Departures
from vision.decoding import Source, read_inputs
from vision.errors import BadInput, UnsupportedMedia, VisionError
from vision.service import Answer, Query, Service

_LOG = logging.getLogger("sluice.vision")

PATHS = ("/v1/predict", "/predict")

_JSON_TYPES = frozenset({b"application/json", b"", b"application/x-www-form-urlencoded"})
"""The last is what curl says of `-d`; a body that is a form indeed is refused, see `_from_json`."""


class Parameters(msgspec.Struct, forbid_unknown_fields=True):
    """What a JSON body may say beside its inputs."""

    top_k: int | None = None


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """A JSON body; `vision.decoding.read_inputs` reads the inputs.

    `user` is for the gateway, whose balancers and splits read it; here nobody looks at it.
    """

    model: str | None = None
    inputs: Any = msgspec.UNSET
    version: str | int | None = None
    parameters: Parameters | None = None
    user: str | None = None


_DECODER = msgspec.json.Decoder(Body)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may weigh."""

    body_bytes: int = 32 * 1024 * 1024
    items: int = 64
    image_bytes: int = 20 * 1024 * 1024


class Predict:
    """The route."""

    def __init__(
        self, service: Service, limits: Limits, departures: Departures, rng: Random
    ) -> None:
        self._service = service
        self._limits = limits
        self._departures = departures
        self._rng = rng

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, whatever comes."""
        began = exchange.monotonic()
        headers = exchange.header_map(scope)
        trace_id = exchange.trace_id_of(headers, self._rng)
        fields = exchange.json_fields(exchange.request_id_of(headers, trace_id))
        try:
            exchange.require_post(scope)
            query, many = await self._read(scope, headers, receive, began)
            with self._departures.watch(receive):
                result = await self._service.predict(query)
            told, failure = _told(result, many)
            if many or failure is None:
                told["model"] = result.model
                told["version"] = str(result.version)
                told["latency_ms"] = round((exchange.monotonic() - began) * 1000, 3)
                told["trace_id"] = trace_id
            status, body = 200, exchange.encode_json(told)
            if failure is not None:
                status = failure.status
                fields += exchange.error_fields(failure)
        except VisionError as error:
            status, body = error.status, exchange.encode_json(error.body())
            fields += exchange.error_fields(error)
        except exchange.ClientGone:
            return
        except Exception:  # The outermost edge: whatever broke, the client gets an answer.
            _LOG.exception("prediction failed, trace %s", trace_id)
            status, body = 500, exchange.encode_json(exchange.broken().body())
        await exchange.answer(send, status, body, fields)

    async def _read(
        self, scope: Scope, headers: exchange.Headers, receive: Receive, began: float
    ) -> tuple[Query, bool]:
        """Return what is asked, and whether the answer is a list."""
        deadline = exchange.deadline_of(headers, began)
        exchange.require_plain(headers)
        kind = exchange.media_type(headers)
        if kind in _JSON_TYPES:
            body = await exchange.read_body(receive, headers, self._limits.body_bytes)
            return _from_json(kind, body, deadline, self._limits.items)
        if kind == b"multipart/form-data":
            boundary = form.boundary_of(headers[b"content-type"])
            parts = exchange.body_parts(receive, headers, self._limits.body_bytes)
            held = await form.read_form(
                parts, boundary, self._limits.items, self._limits.image_bytes
            )
            return _from_form(held, deadline)
        if kind.startswith(b"image/"):
            body = await exchange.read_body(receive, headers, self._limits.body_bytes)
            return _from_image(scope["query_string"], body, deadline)
        raise UnsupportedMedia(
            "The content type has to be application/json, multipart/form-data or image/*.",
            param="content-type",
        )


def _from_json(
    kind: bytes, body: bytes, deadline: float | None, max_items: int
) -> tuple[Query, bool]:
    if kind.endswith(b"urlencoded") and not body.lstrip()[:1] == b"{":
        raise UnsupportedMedia("A URL-encoded form is not read; send JSON.", param="content-type")
    read = parse.read_json(_DECODER, body)
    if read.inputs is msgspec.UNSET:
        raise BadInput("`inputs` is missing.", param="inputs")
    top_k = None if read.parameters is None else read.parameters.top_k
    if top_k is not None and top_k < 1:
        raise BadInput("top_k has to be at least 1.", param="parameters.top_k")
    sources, many = read_inputs(read.inputs, max_items)
    return _query(read.model, read.version, sources, top_k, deadline), many


def _from_form(held: form.Form, deadline: float | None) -> tuple[Query, bool]:
    if not held.images:
        raise BadInput(f"The form has no file in a field `{form.FILE}`.", param=form.FILE)
    many = len(held.images) > 1
    sources = [
        Source(f"{form.FILE}[{index}]" if many else form.FILE, image=image)
        for index, image in enumerate(held.images)
    ]
    return _named(held.fields, sources, deadline), many


def _from_image(query_string: bytes, body: bytes, deadline: float | None) -> tuple[Query, bool]:
    try:
        pairs = parse_qsl(query_string.decode("latin-1"), max_num_fields=16, errors="strict")
    except ValueError:  # Too many, or not UTF-8.
        raise BadInput("The query string cannot be read.") from None
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise BadInput("A field of the query string is there twice.")
    return _named(fields, [Source("body", image=body)], deadline), False


def _named(fields: dict[str, str], sources: Sequence[Source], deadline: float | None) -> Query:
    """Return the query whose names and numbers came as text."""
    unknown = fields.keys() - form.TEXTS
    if unknown:
        name = min(unknown)[:64]
        raise BadInput(f"`{name}` is no field of a prediction.", param=name)
    top_k = parse.top_k_of(fields["top_k"]) if "top_k" in fields else None
    return _query(fields.get("model"), fields.get("version"), sources, top_k, deadline)


def _query(
    model: str | None,
    version: str | int | None,
    sources: Sequence[Source],
    top_k: int | None,
    deadline: float | None,
) -> Query:
    if not model:
        raise BadInput("`model` is missing.", code="missing_model", param="model")
    return Query(model, parse.version_of(version), sources, top_k, deadline)


def _told(result: Answer, many: bool) -> tuple[dict[str, Any], VisionError | None]:
    """Return the results as they are told, and the error if none succeeded.

    It is returned, not raised: a frame that knows the error it raised is a cycle, and what hangs on
    it, the image, stays until the next collection.
    """
    if not many:
        (one,) = result.results
        if isinstance(one, VisionError):
            return one.body(), one
        return {"predictions": one}, None
    told: dict[str, Any] = {
        "results": [
            one.body() if isinstance(one, VisionError) else {"predictions": one}
            for one in result.results
        ]
    }
    failed = [one for one in result.results if isinstance(one, VisionError)]
    if len(failed) < len(result.results):
        return told, None
    return failed[0].body() | told, failed[0]

"""An engine's request is the client's, with what the plan changes and nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from itertools import pairwise
from typing import Any

import pytest

from gateway.api.body import read_json
from gateway.api.prepare import media_of, outgoing, read, read_form, read_whole
from gateway.api.routes import ROUTES
from gateway.errors import GatewayError
from gateway.model import Body
from gateway.plan.table import Plan, plan_for
from gateway.wire.guard import Head
from gateway.wire.types import Request
from tests.support.engine import Received
from tests.support.pools import pool_of

LINES = b"POST /x HTTP/1.1\r\nhost: e\r\n"
POOL = pool_of(0)
SAME = plan_for("m", "m", POOL, "m")
OTHER = plan_for("m", "m", POOL, "engine-model")
FORM = b"multipart/form-data; boundary=B"


def sent(data: bytes) -> Received:
    head, _, body = data.partition(b"\r\n\r\n")
    return Received(0, head, body)


def json_request(value: dict[str, Any], path: bytes = b"/v1/chat/completions") -> Request:
    return Request(ROUTES[path], Head(b"x-a: 1\r\n"), json.dumps(value).encode(), "peer")


def build(request: Request, plan: Plan) -> tuple[Received, bool]:
    out = outgoing(request, read_json(request.body, 9), plan, b"id-1", LINES)
    return sent(out.data), out.strips_usage


@pytest.mark.parametrize("plan", [SAME, OTHER])
def test_a_json_request_is_sent_whole(plan: Plan) -> None:
    """Its lines, the client's own fields, type, id and the length of the body as it became."""
    received, strips = build(json_request({"model": "m", "n": 1}), plan)
    assert received.line == b"POST /x HTTP/1.1"
    assert received.fields == [
        (b"host", b"e"),
        (b"x-a", b"1"),
        (b"content-type", b"application/json"),
        (b"x-request-id", b"id-1"),
        (b"content-length", b"%d" % len(received.body)),
    ]
    assert received.json == {"model": plan.upstream_model, "n": 1}
    assert not strips


def test_an_unchanged_body_is_not_touched() -> None:
    """Byte for byte, with all its odd spacing."""
    request = json_request({"model": "m"})
    request.body = b'{ "model" :"m"  ,"x":1.0e0}\n'
    assert build(request, SAME)[0].body == request.body


@pytest.mark.parametrize(
    ("path", "fields", "strips"),
    [
        (b"/v1/chat/completions", {"stream": True}, True),
        (b"/v1/completions", {"stream": True, "stream_options": None}, True),
        (b"/v1/chat/completions", {"stream": False}, False),
        (b"/v1/chat/completions", {"stream": 1}, False),
        (b"/v1/chat/completions", {}, False),
        (b"/v1/responses", {"stream": True}, False),
        (
            b"/v1/chat/completions",
            {"stream": True, "stream_options": {"include_usage": True}},
            False,
        ),
    ],
)
def test_usage_is_asked_of_streams_that_would_not_tell(
    path: bytes, fields: dict[str, Any], strips: bool
) -> None:
    """Then the usage chunk is ours to strip; otherwise the body says what the client said."""
    value = {"model": "m", **fields}
    received, stripping = build(json_request(value, path), SAME)
    assert stripping is strips
    assert received.json == (
        {**value, "stream_options": {"include_usage": True}} if strips else value
    )


# Forms.


async def stream(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def form_request(body: bytes, *rest: bytes, length: int | None = None) -> Request:
    head = Head(b"", content_length=length, content_type=FORM)
    pieces = stream(rest) if rest else None
    return Request(ROUTES[b"/v1/audio/transcriptions"], head, body, "peer", pieces)


WHOLE = (
    b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--B\r\n\r\nfile\r\n--B--\r\n'
)


async def everything(request: Request, plan: Plan) -> Received:
    facts = await read_form(request)
    assert facts.model == "m"
    out = outgoing(request, facts, plan, b"id-1", LINES)
    data = out.data
    if out.rest is not None:
        async for piece in out.rest:
            data += piece
    return sent(data)


@pytest.mark.parametrize("plan", [SAME, OTHER])
@pytest.mark.parametrize("cuts", [[], [1], [60], [70], [3, 60, 61, 64, 64, 80]])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_form_arrives_as_it_was_sent_but_for_the_model(
    plan: Plan, cuts: list[int], declared: bool
) -> None:
    """However it comes in pieces, with and without a declared length."""
    edges = [0, *cuts, len(WHOLE)]  # An empty piece among them ends nothing.
    pieces = [WHOLE[a:b] for a, b in pairwise(edges)]
    request = form_request(*pieces, length=len(WHOLE) if declared else None)
    received = await everything(request, plan)
    expected = WHOLE.replace(b"\r\n\r\nm\r\n", b"\r\n\r\n%b\r\n" % plan.upstream_model.encode())
    assert received.header(b"content-type") == [FORM]
    if received.header(b"transfer-encoding"):
        assert received.header(b"content-length") == []
        assert dechunk(received.body) == expected
    else:
        assert received.header(b"content-length") == [b"%d" % len(expected)]
        assert received.body == expected


def dechunk(data: bytes) -> bytes:
    body = b""
    while True:
        line, _, rest = data.partition(b"\r\n")
        size = int(line, 16)
        if not size:
            assert rest == b"\r\n"
            return body
        body += rest[:size]
        assert rest[size : size + 2] == b"\r\n"
        data = rest[size + 2 :]


async def test_only_as_much_of_a_form_is_awaited_as_its_model_takes() -> None:
    """The file behind it goes on to the engine while it comes."""
    end = WHOLE.index(b"\r\nfile")
    request = form_request(WHOLE[:50], WHOLE[50:end], b"later")
    await read_form(request)
    assert request.body == WHOLE[:end]
    assert request.rest is not None
    assert [piece async for piece in request.rest] == [b"later"]


async def test_a_form_that_ends_without_a_model_is_refused() -> None:
    """The end of the pieces is the end of the wait."""
    with pytest.raises(GatewayError) as caught:
        await read_form(form_request(b"--B\r\n", b"Content-Disp"))
    assert (caught.value.status, caught.value.param) == (400, "model")


# Predictions.


def prediction(body: bytes, kind: bytes = b"", query: bytes = b"") -> Request:
    return Request(
        ROUTES[b"/predict"], Head(b"x-a: 1\r\n", content_type=kind, query=query), body, "p"
    )


@pytest.mark.parametrize(
    ("kind", "media"),
    [
        (b"", Body.JSON),
        (b"application/json", Body.JSON),
        (b"application/x-www-form-urlencoded", Body.JSON),
        (b"image/png", Body.IMAGE),
        (b"IMAGE/JPEG; x=y", Body.IMAGE),
        (b"multipart/form-data; boundary=B", Body.FORM),
        (b"Multipart/Form-Data; boundary=B", Body.FORM),
        (b"multipart/mixed; boundary=B", Body.JSON),
    ],
)
def test_the_content_type_says_what_a_prediction_brings(kind: bytes, media: Body) -> None:
    """What is neither an image nor a form is taken for JSON, as `curl -d` sends it."""
    assert media_of(prediction(b"", kind)) is media
    chat = json_request({})
    chat.head.content_type = kind
    assert media_of(chat) is Body.JSON


@pytest.mark.parametrize(
    ("body", "kind", "query"),
    [
        (b'{"model":"m","stream":true,"n":3,"inputs":{}}', b"", b"model=x"),
        (WHOLE, FORM, b"model=x"),
        (b"\x89PNG", b"image/png", b"top_k=1&model=m"),
    ],
)
async def test_a_prediction_names_its_model_in_one_place(
    body: bytes, kind: bytes, query: bytes
) -> None:
    """And is no stream, whatever it says."""
    request = prediction(body, kind, query)
    for facts in (read_whole(request, 9), await read(request, 9)):
        assert (facts.model, facts.stream, facts.choices) == ("m", None, 1)


@pytest.mark.parametrize("plan", [SAME, OTHER])
def test_an_image_is_sent_with_its_query(plan: Plan) -> None:
    """Under the engine's name of the model, with its type, id and length."""
    request = prediction(b"\x89PNG", b"image/png", b"top_k=1&model=m")
    received = sent(outgoing(request, read_whole(request, 9), plan, b"id-1", LINES).data)
    assert received.line == b"POST /x?top_k=1&model=%b HTTP/1.1" % plan.upstream_model.encode()
    assert received.fields == [
        (b"host", b"e"),
        (b"x-a", b"1"),
        (b"content-type", b"image/png"),
        (b"x-request-id", b"id-1"),
        (b"content-length", b"4"),
    ]
    assert received.body == b"\x89PNG"


@pytest.mark.parametrize("plan", [SAME, OTHER])
def test_a_whole_form_can_be_built_again(plan: Plan) -> None:
    """Nothing of it is used up."""
    request = prediction(WHOLE, FORM)
    facts = read_whole(request, 9)
    first, second = (outgoing(request, facts, plan, b"id-1", LINES) for _ in range(2))
    assert (first.rest, first.data) == (None, second.data)
    expected = WHOLE.replace(b"\r\n\r\nm\r\n", b"\r\n\r\n%b\r\n" % plan.upstream_model.encode())
    assert sent(first.data).body == expected


async def test_an_upload_is_still_read_while_it_comes() -> None:
    """`read` leaves what is behind the model."""
    end = WHOLE.index(b"\r\nfile")
    request = form_request(WHOLE[:end], b"later")
    assert (await read(request, 9)).model == "m"
    assert request.rest is not None

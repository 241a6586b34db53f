"""Predictions through both hosts of the proxy core: three forms of bodies, one model each."""

from __future__ import annotations

import json
import logging
from base64 import b64encode
from typing import Any

import pytest

from tests.gateway.wire.conftest import MakeRig
from tests.support.engine import response
from tests.support.raw import post
from tests.support.rig import CHAT

IMAGE = b"\x89PNG\r\n\x1a\n\x00\xff" + bytes(range(256)) * 4
TEXT = b64encode(IMAGE).decode()
ANSWER = response(b'{"predictions":[{"class":"7","confidence":0.9}],"model":"engine/m"}')
FORM = {"Content-Type": "multipart/form-data; boundary=B"}
PNG = {"Content-Type": "image/png"}
VISION = {"kind": "vision"}


def form(*models: str) -> bytes:
    parts = [b'name="image"; filename="x.png"\r\nContent-Type: image/png\r\n\r\n' + IMAGE]
    parts += [b'name="model"\r\n\r\n' + model.encode() for model in models]
    return b"".join(
        [b"--B\r\nContent-Disposition: form-data; %b\r\n" % part for part in parts] + [b"--B--\r\n"]
    )


@pytest.mark.parametrize("path", ["/v1/predict", "/predict", "/v1/predict?model=x&model=y"])
@pytest.mark.parametrize("name", ["m", "alias"])
async def test_a_json_body_is_passed_on(serve: MakeRig, path: str, name: str) -> None:
    """Under the engines' path and name; the answer has the client's. A query is not for it."""
    async with serve([ANSWER], cluster=VISION) as rig:
        body = {"model": name, "inputs": {"image": TEXT}, "stream": True, "n": 3}
        answer = await rig.post(body, path)
        own = "m" if name == "m" else "engine/m"
        (received,) = rig.engine.requests
        assert received.line == b"POST /v1/predict HTTP/1.1"
        assert received.json == {**body, "model": own}
        assert answer.status == 200
        assert answer.json["model"] == ("engine/m" if name == "m" else "alias")
        assert received.header(b"x-request-id") == answer.header(b"x-request-id")
        assert rig.outcomes() == {"success": 1}


@pytest.mark.parametrize("name", ["m", "alias"])
async def test_a_form_is_passed_on(serve: MakeRig, name: str) -> None:
    """Byte for byte but for the model, with its content type, though the image comes first."""
    async with serve([ANSWER], cluster=VISION) as rig:
        assert (await rig.post(form(name), "/v1/predict", FORM)).status == 200
        (received,) = rig.engine.requests
        assert received.body == form("m" if name == "m" else "engine/m")
        assert received.header(b"content-type") == [b"multipart/form-data; boundary=B"]
        assert received.header(b"content-length") == [b"%d" % len(received.body)]


@pytest.mark.parametrize("name", ["m", "alias"])
async def test_an_image_is_passed_on(serve: MakeRig, name: str) -> None:
    """Its model stands in the query, and is replaced there; the rest of the query stays."""
    async with serve([ANSWER], cluster=VISION) as rig, rig.client() as client:
        for _ in range(2):  # The second time with a familiar head.
            path = f"/predict?top_k=3&model={name}&x=%20"
            assert (await client.ask(post(IMAGE, path, PNG))).status == 200
        own = b"m" if name == "m" else b"engine%2Fm"
        for received in rig.engine.requests:
            assert received.line == b"POST /v1/predict?top_k=3&model=%b&x=%%20 HTTP/1.1" % own
            assert received.body == IMAGE
            assert received.header(b"content-type") == [b"image/png"]


async def test_two_queries_on_one_connection_are_told_apart(serve: MakeRig) -> None:
    """The heads that a connection remembers are those of one query."""
    async with serve([ANSWER], cluster=VISION) as rig, rig.client() as client:
        for name in ("m", "renamed", "m", "alias"):
            await client.ask(post(IMAGE, f"/predict?model={name}", PNG))
        asked = [received.line.split(b"=")[1].split()[0] for received in rig.engine.requests]
        assert asked == [b"m", b"engine%2Fm", b"m", b"engine%2Fm"]


@pytest.mark.parametrize("name", ["m", "alias"])
async def test_a_large_answer_is_renamed_at_its_end(serve: MakeRig, name: str) -> None:
    """Outputs of megabytes come before the model in it."""
    outputs = b'{"predictions":[{"embedding":[' + b"0.5," * (1 << 20) + b'1]}],"model":"%b"}'
    own = b"m" if name == "m" else b"engine/m"
    async with serve([response(outputs % own)], cluster=VISION) as rig:
        answer = await rig.post({"model": name, "inputs": {}}, "/predict")
        assert answer.body == outputs % name.encode()
        assert answer.header(b"content-length") == [b"%d" % len(answer.body)]


@pytest.mark.parametrize(
    ("body", "path", "fields"),
    [
        (b"", "/predict", {}),
        (IMAGE, "/predict?model=m", {}),
        (IMAGE, "/predict", PNG),
        (IMAGE, "/predict?model=m&model=renamed", PNG),
        (IMAGE, "/predict?model=m&%6dodel=renamed", PNG),
        (form(), "/predict?model=m", FORM),
        (form("m", "renamed"), "/predict", FORM),
        (form("m")[:-6], "/predict", FORM),
        (form("m").replace(b'name="image"', b"name*=utf-8''model"), "/predict", FORM),
        (b'{"model":"m","model":"renamed"}', "/predict", {}),
        ({"inputs": {}}, "/predict", {}),
    ],
)
async def test_what_names_no_one_model_is_refused(
    serve: MakeRig, body: bytes | dict[str, Any], path: str, fields: dict[str, str]
) -> None:
    """Gateway and endpoint could read two of them differently, so no endpoint hears of it."""
    async with serve([ANSWER], cluster=VISION) as rig:
        answer = await rig.post(body, path, fields)
        assert (answer.status, answer.code) == (400, "invalid_request_error")
        assert rig.engine.requests == []


async def test_nothing_but_the_model_chooses_the_upstream(serve: MakeRig) -> None:
    """Whatever else a body or a query holds."""
    odd = {"url": "http://1.2.3.4", "endpoint": "x", "host": "evil", "path": "/sleep"}
    query = "&".join(f"{key}={value}" for key, value in odd.items())
    async with serve([ANSWER], cluster=VISION) as rig:
        await rig.post({"model": "m", **odd}, f"/predict?{query}")
        await rig.post(IMAGE, f"/predict?model=m&{query}", PNG)
        for received in rig.engine.requests:
            assert received.line.startswith(b"POST /v1/predict")
            assert received.header(b"host") == [rig.engine.url.removeprefix("http://").encode()]


async def test_other_routes_have_no_query(serve: MakeRig) -> None:
    """As ever: what stands behind their path goes nowhere."""
    async with serve() as rig:
        await rig.post(CHAT, "/v1/chat/completions?model=x&api-version=1")
        assert rig.engine.requests[0].line == b"POST /v1/chat/completions HTTP/1.1"


@pytest.mark.parametrize(
    ("kind", "path", "status"),
    [
        ("vision", "/v1/chat/completions", 400),
        ("vision", "/v1/predict", 200),
        ("llm", "/v1/predict", 400),
        ("llm", "/v1/chat/completions", 200),
    ],
)
async def test_a_model_answers_on_the_routes_of_its_kind(
    serve: MakeRig, kind: str, path: str, status: int
) -> None:
    """Another one is refused before an endpoint is asked."""
    async with serve(cluster={"kind": kind}) as rig:
        answer = await rig.post(CHAT, path)
        assert answer.status == status
        assert len(rig.engine.requests) == (status == 200)
        if status == 400:
            assert answer.code == "wrong_route"
            assert rig.outcomes() == {"rejected": 1}


async def test_images_are_not_logged(
    serve: MakeRig, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither where all is well, nor where the endpoint fails or the request is refused."""
    caplog.set_level(logging.DEBUG)
    failing = response(b"{}", b"500 Oops")
    async with serve([ANSWER], [failing], cluster=VISION) as rig:
        for name in ("m", "m", "nobody"):
            await rig.post({"model": name, "inputs": {"image": TEXT}}, "/predict")
        await rig.post({"inputs": {"image": TEXT}}, "/predict")
        await rig.post(form("m", "m"), "/predict", FORM)
        await rig.post(IMAGE, f"/predict?model=nobody&x={TEXT}", PNG)
    said = caplog.text + "".join(capsys.readouterr())
    pieces = [TEXT[at : at + 12] for at in range(0, len(TEXT) - 12, 6)]
    assert [piece for piece in pieces if piece in said] == []
    assert json.dumps(TEXT)[1:13] not in said

"""Request bodies, large and of forms, through both hosts of the proxy core."""

from __future__ import annotations

import json

import pytest

from tests.gateway.wire.conftest import MakeRig
from tests.support.engine import Then, Turn, response
from tests.support.raw import post
from tests.support.rig import CHAT, eventually

FORM_PATH = "/v1/audio/transcriptions"
AUDIO = bytes(range(256)) * 20 + b"\r\n--not-the-boundary\r\n"


def form(model: bytes | None, *, first: bool = True, boundary: bytes = b"xYz") -> bytes:
    file = (
        b'Content-Disposition: form-data; name="file"; filename="model"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" + AUDIO
    )
    parts = [file]
    if model is not None:
        field = b'Content-Disposition: form-data; name="model"\r\n\r\n' + model
        parts.insert(0 if first else 1, field)
    return (
        b"".join([b"--%b\r\n%b\r\n" % (boundary, part) for part in parts])
        + b"--%b--\r\n" % boundary
    )


def form_fields(boundary: str = "xYz") -> dict[str, str]:
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}


async def test_a_large_body_arrives_whole(serve: MakeRig) -> None:
    """Many reads on both sides, one body."""
    body = json.dumps({**CHAT, "pad": "x" * 5_000_000}).encode()
    async with serve([response()]) as rig:
        assert (await rig.post(body)).status == 200
        assert rig.engine.requests[0].body == body


async def test_bodies_that_come_in_pieces(serve: MakeRig) -> None:
    """A slow client on a kept-alive connection, whose heads are familiar by then."""
    async with serve([response()]) as rig, rig.client() as client:
        for number in range(4):
            body = json.dumps({**CHAT, "n": 1, "user": f"u{number}" * 50}).encode()
            request = post(body)
            for start in range(0, len(request), 97):
                client.send(request[start : start + 97])
                await client.writer.drain()
            assert (await client.answer()).status == 200
            assert rig.engine.requests[-1].body == body


@pytest.mark.parametrize("first", [True, False])
async def test_a_form_passes_byte_for_byte(serve: MakeRig, first: bool) -> None:
    """Wherever its model stands; the audio is not looked into."""
    async with serve([response()]) as rig:
        body = form(b"m", first=first)
        assert (await rig.post(body, FORM_PATH, form_fields())).status == 200
        request = rig.engine.requests[0]
        assert request.body == body
        assert request.line == b"POST /v1/audio/transcriptions HTTP/1.1"
        assert request.header(b"content-type") == [b"multipart/form-data; boundary=xYz"]


@pytest.mark.parametrize("first", [True, False])
async def test_a_forms_model_is_renamed(serve: MakeRig, first: bool) -> None:
    """Its length on the wire is that of the changed form."""
    async with serve([response()]) as rig:
        await rig.post(form(b"renamed", first=first), FORM_PATH, form_fields())
        assert rig.engine.requests[0].body == form(b"engine/m", first=first)


@pytest.mark.parametrize(
    ("body", "boundary", "status"),
    [
        (form(None), "xYz", 400),
        (form(b""), "xYz", 400),
        (form(b"\xff"), "xYz", 400),
        (form(b"nope"), "xYz", 404),
        (form(b"m"), "other", 400),
        (form(b"m")[:60], "xYz", 400),
        (b"", "xYz", 400),
    ],
)
async def test_a_form_that_is_no_request(
    serve: MakeRig, body: bytes, boundary: str, status: int
) -> None:
    """Refused before a byte of it reaches an engine."""
    async with serve() as rig:
        answer = await rig.post(body, FORM_PATH, form_fields(boundary))
        assert answer.status == status
        assert answer.code
        assert rig.engine.raw == b""


async def test_a_form_without_a_boundary(serve: MakeRig) -> None:
    """JSON on the form's route is a 400, not a crash."""
    async with serve() as rig:
        answer = await rig.post(CHAT, FORM_PATH)
        assert (answer.status, answer.code) == (400, "invalid_request_error")


async def test_a_client_that_leaves_in_its_upload(serve: MakeRig) -> None:
    """Half a form is never taken for a whole one; its engine, if it has heard of it, is let go."""
    body = form(b"m")
    async with serve() as rig:
        async with rig.client() as client:
            client.send(post(body, FORM_PATH, form_fields())[:-1000])
            await client.writer.drain()
        await eventually(lambda: rig.inflight == 0)
        assert rig.engine.requests == []
        assert (await rig.post(body, FORM_PATH, form_fields())).status == 200


async def test_an_engine_that_is_slow_to_take_a_body(serve: MakeRig) -> None:
    """A large body waits in the gateway until the engine reads; its answer is as right."""
    body = json.dumps({**CHAT, "pad": "x" * 8_000_000}).encode()
    turn = Turn()
    async with serve([Then.DEAF, turn, response(b'{"late":1}')]) as rig, rig.client() as client:
        client.send(post(body))
        await rig.engine.wait_requests(1)
        turn.go.set()
        answer = await client.answer()
        assert (answer.status, answer.json) == (200, {"late": 1})

"""The access log of a service that has no gateway before it."""

import io
import json
from typing import Any

import pytest

from vision.api.access import AccessLog


async def serve(app: Any, scope: dict[str, Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    stream, sent = io.StringIO(), []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"an image"}

    async def send(message: Any) -> None:
        sent.append(message)

    try:
        await AccessLog(app, stream)(scope, receive, send)
    except RuntimeError:
        sent.append("raised")
    return [json.loads(line) for line in stream.getvalue().splitlines()], sent


SCOPE = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"model=secret"}


async def test_a_line_says_what_became_of_a_request() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(
            {"type": "http.response.start", "status": 201, "headers": [(b"x-request-id", b"mine")]}
        )
        await send({"type": "http.response.body", "body": b"an answer"})

    (line,), sent = await serve(app, SCOPE)
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/predict", 201)
    assert line["request_id"] == "mine"
    assert line["ms"] >= 0
    assert len(sent) == 2
    assert "secret" not in json.dumps(line)


@pytest.mark.parametrize("fails", [True, False])
async def test_a_request_without_an_answer_is_a_499(fails: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if fails:
            raise RuntimeError

    (line,), _ = await serve(app, SCOPE)
    assert line["status"] == 499


async def test_what_is_no_request_has_no_line() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send("lifespan")

    assert await serve(app, {"type": "lifespan"}) == ([], ["lifespan"])


async def test_a_line_that_cannot_be_written_is_no_failure_of_its_request() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.body"})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await AccessLog(app, Full())(SCOPE, receive, send)
    assert sent == ["http.response.body"]

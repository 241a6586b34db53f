"""What clients may say of an answer, and what they are told."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gateway.control.app import build
from gateway.telemetry.feedback import Given
from tests.support.control import FakeAsk, FakeView, ManualClock


class Told:
    """Remembers what it was told."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.calls: list[tuple[str, float, str]] = []

    def give(self, name: str, score: float, label: str = "") -> Given:
        self.calls.append((name, score, label))
        return self.given


async def post(body: Any, scores: Told | None = None) -> httpx.Response:
    app = build(FakeView(), FakeAsk(), clock=ManualClock(), data_routes={}, scores=scores)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        return await http.post("/v1/feedback", json=body)


@pytest.mark.parametrize("given", [Given.COUNTED, Given.REPEATED, Given.HANDED_ON])
@pytest.mark.parametrize("by", ["request_id", "trace_id"])
async def test_a_score_is_taken(given: Given, by: str) -> None:
    """202, and what became of it."""
    told = Told(given)
    answer = await post({by: "x-1", "score": 1, "label": "helpful"}, told)
    assert (answer.status_code, answer.json()) == (202, {"status": given})
    assert told.calls == [("x-1", 1.0, "helpful")]


@pytest.mark.parametrize("scores", [None, Told(Given.UNKNOWN)], ids=["no policies", "too old"])
async def test_an_unknown_request(scores: Told | None) -> None:
    """404 with a code of its own."""
    answer = await post({"trace_id": "t", "score": 0}, scores)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("request_not_found", "trace_id")


async def test_what_is_wrong_is_said_in_our_words() -> None:
    """Without the prefix that pydantic gives to errors of validators."""
    answer = await post({"score": 1}, Told(Given.COUNTED))
    assert answer.json()["error"]["message"] == "needs either request_id or trace_id."


@pytest.mark.parametrize(
    "body",
    [
        {"score": 1},
        {"request_id": "a", "trace_id": "b", "score": 1},
        {"request_id": "", "score": 1},
        {"request_id": "a" * 129, "score": 1},
        {"request_id": "a"},
        {"request_id": "a", "score": "1"},
        {"request_id": "a", "score": True},
        {"request_id": "a", "score": 100.5},
        {"request_id": "a", "score": 1, "label": "x" * 201},
        {"request_id": "a", "score": 1, "rating": 1},
        [],
    ],
)
async def test_a_malformed_score(body: Any) -> None:
    """400 in the one shape; nothing is counted."""
    told = Told(Given.COUNTED)
    answer = await post(body, told)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request_error")
    assert told.calls == []

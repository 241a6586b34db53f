"""The hot path under many clients at once: every answer is its own, and everything is counted."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.support.vision_service import Service, digit, service, text

pytestmark = pytest.mark.integration

CLIENTS = 32
EACH = 10
DIGITS = [digit(index) for index in range(CLIENTS)]


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service() as found:
        yield found


@asynccontextmanager
async def clients(running: Service) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
    async with httpx.AsyncClient(
        base_url=running.url, trust_env=False, limits=limits, timeout=60
    ) as client:
        yield client


def body(image: bytes, model: str = "digits") -> dict[str, Any]:
    return {"model": model, "inputs": {"image": text(image)}, "parameters": {"top_k": 1}}


def counted(page: str, name: str, **labels: str) -> float:
    told = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    found = page.partition(f"{name}{{{told}}} ")[2].partition("\n")[0]
    return float(found or 0)


async def test_each_client_gets_the_answer_to_its_own_image(running: Service) -> None:
    """Batches are made of many clients' images; the known errors of the model are left out."""
    async with clients(running) as http:
        alone = [
            (await http.post("/v1/predict", json=body(image))).json()["predictions"][0]
            for image, _ in DIGITS
        ]
        assert (
            sum(one["class"] == label for one, (_, label) in zip(alone, DIGITS, strict=True)) > 30
        )
        before = (await http.get("/metrics")).text

        async def ask(index: int) -> None:
            for turn in range(EACH):
                which = (index + turn) % CLIENTS
                answer = await http.post("/v1/predict", json=body(DIGITS[which][0]))
                told = answer.raise_for_status().json()["predictions"][0]
                assert told["class"] == alone[which]["class"]
                assert told["confidence"] == pytest.approx(alone[which]["confidence"], abs=1e-4)

        async with asyncio.TaskGroup() as group:
            for index in range(CLIENTS):
                group.create_task(ask(index))
        after = (await http.get("/metrics")).text

    def grown(name: str, **labels: str) -> float:
        told = {"model": "digits", "version": "1", **labels}
        return counted(after, name, **told) - counted(before, name, **told)

    assert grown("sluice_vision_requests_total", outcome="ok") == CLIENTS * EACH
    assert grown("sluice_vision_batch_rows_sum") == CLIENTS * EACH
    assert grown("sluice_vision_stage_seconds_count", stage="queue") == CLIENTS * EACH
    assert grown("sluice_vision_batch_rows_count") < CLIENTS * EACH  # Some travelled together.
    assert counted(after, "sluice_vision_queue_rows", model="digits", version="1") == 0


async def test_bad_items_among_them_harm_no_others(running: Service) -> None:
    good, label = DIGITS[0]
    broken = (good[:50], b"", b"no image")
    async with clients(running) as http:

        async def ask(index: int) -> tuple[int, str]:
            image = good if index % 2 else broken[index % len(broken)]
            answer = await http.post("/v1/predict", json=body(image))
            told = answer.json()
            return answer.status_code, told.get("predictions", [{}])[0].get("class", "")

        answers = await asyncio.gather(*(ask(index) for index in range(128)))
    assert collections.Counter(answers) == {(200, label): 64, (400, ""): 64}


async def test_more_than_the_queue_holds_is_refused_and_nothing_else(running: Service) -> None:
    """A request is answered or refused with 429 and a time to come again; none is lost."""
    item = {"image": text(DIGITS[0][0])}
    async with clients(running) as http:
        many = {"model": "digits", "inputs": [item] * 64}
        answers = await asyncio.gather(*(http.post("/v1/predict", json=many) for _ in range(24)))
        assert {one.status_code for one in answers} <= {200, 429}
        for answer in answers:
            for result in answer.json()["results"]:
                if "error" in result:
                    assert result["error"]["code"] == "queue_full"
            assert (answer.status_code == 429) == ("retry-after" in answer.headers)
        well = await http.post("/v1/predict", json=body(DIGITS[0][0]))
    assert well.status_code == 200


async def test_clients_that_give_up_leave_nothing_behind(running: Service) -> None:
    async with clients(running) as http:
        for _ in range(20):
            with pytest.raises(httpx.TimeoutException):
                await http.post("/v1/predict", json=body(DIGITS[0][0]), timeout=1e-4)
        page = (await http.get("/metrics")).text
        assert counted(page, "sluice_vision_queue_rows", model="digits", version="1") == 0
        health = (await http.get("/health")).json()
    assert health["status"] == "ok"

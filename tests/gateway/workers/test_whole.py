"""What clients are told by whichever worker they reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from gateway.control.failures import install
from gateway.workers.front import ask_parent
from gateway.workers.inner import serve_inside
from gateway.workers.seat import parent_socket
from gateway.workers.whole import Whole, build_whole
from tests.gateway.control.test_admin import Here
from tests.gateway.workers.crew import Crew, crew
from tests.support.control import endpoint, model


@asynccontextmanager
async def port(crew: Crew, *, parent: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """A worker's port on the clients' side, with a parent behind it or without."""
    app = FastAPI()
    install(app)
    ask_parent(app, crew.hands[0].view, parent_socket(crew.folder))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gw") as http:
        if not parent:
            yield http
            return
        async with serve_inside(build_whole(crew.roster, Here()), parent_socket(crew.folder)):
            yield http


def scripted(crew: Crew, number: int, *, healthy: bool, draining: bool = False) -> None:
    view = crew.hands[number].view
    view.draining = draining
    view.known = [model("m")]
    view.pool = [endpoint("a:1", "m", healthy=healthy)]


async def test_one_worker_that_would_ask_an_endpoint_is_enough_to_be_ready(
    tmp_path: Path,
) -> None:
    async with crew(tmp_path) as one, port(one) as http:
        scripted(one, 0, healthy=False)
        scripted(one, 1, healthy=False)
        assert (await http.get("/readyz")).status_code == 503
        scripted(one, 1, healthy=True)
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        body = (await http.get("/health")).json()
    assert (body["status"], body["models"]) == ("ok", ["m"])
    assert body["endpoints"]["total"] == body["endpoints"]["healthy"] == 1


async def test_the_gateway_drains_when_all_workers_do(tmp_path: Path) -> None:
    """One that is restarted drains alone; the others go on."""
    async with crew(tmp_path) as one, port(one) as http:
        scripted(one, 0, healthy=True, draining=True)
        scripted(one, 1, healthy=True)
        assert (await http.get("/readyz")).status_code == 200
        scripted(one, 1, healthy=True, draining=True)
        assert (await http.get("/readyz")).json() == {"status": "draining"}


async def test_metrics_are_of_all_workers(tmp_path: Path) -> None:
    async with crew(tmp_path) as one, port(one) as http:
        answer = await http.get("/metrics")
    assert "sluice_asked_total 2.0" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


async def test_without_the_parent_a_worker_tells_its_state_and_no_metrics(
    tmp_path: Path,
) -> None:
    """Counters of one worker alone would look like a restart to Prometheus."""
    async with crew(tmp_path, 1) as one, port(one, parent=False) as http:
        scripted(one, 0, healthy=True)
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        answer = await http.get("/metrics")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "gateway_busy")
        assert (await http.post("/metrics")).status_code == 405


async def test_a_parent_that_fails_gives_no_metrics(tmp_path: Path) -> None:
    async with crew(tmp_path, 1) as one:
        one.roster.metrics = None  # type: ignore[method-assign, assignment]  # to fail
        async with port(one) as http:
            assert (await http.get("/metrics")).status_code == 503


async def test_before_anything_is_known_nothing_is_served() -> None:
    whole = Whole()
    assert (whole.draining, whole.generation, whole.uptime_s()) == (False, 1, 0.0)
    assert not whole.models()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(whole.closing(), 0.001)

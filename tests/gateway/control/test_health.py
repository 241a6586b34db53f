"""Probes and operators are told the truth about the gateway."""

from __future__ import annotations

import httpx
import pytest

from gateway.control.health import Status, served, status_of
from tests.support.control import FakeView, app, endpoint, model


def client(view: FakeView) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app(view=view))
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


def test_status_in_one_word() -> None:
    """ok needs everything, degraded something, and draining outranks both."""
    models = [model("a"), model("b")]
    both, down = endpoint("e1", "a", "b"), endpoint("e2", "a", healthy=False)
    assert status_of(models, [both], draining=False) is Status.OK
    assert status_of(models, [both, down], draining=False) is Status.DEGRADED
    assert status_of(models, [endpoint("e1", "a")], draining=False) is Status.DEGRADED
    assert status_of(models, [down], draining=False) is Status.UNAVAILABLE
    assert status_of([], [], draining=False) is Status.UNAVAILABLE
    assert status_of(models, [both], draining=True) is Status.DRAINING


def test_served_names_only_known_models() -> None:
    """A name that an engine serves and no client may use is not shown."""
    pool = [endpoint("e1", "b", "internal"), endpoint("e2", "a", healthy=False)]
    assert served([model("b"), model("a")], pool) == ["b"]


async def test_health_shows_models_and_endpoints_but_no_urls() -> None:
    """The whole document, on a gateway that has lost one of two endpoints."""
    pool = [endpoint("e1", "a"), endpoint("e2", "a", healthy=False)]
    async with client(FakeView([model("a")], pool)) as http:
        answer = await http.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "degraded",
        "models": ["a"],
        "endpoints": {
            "total": 2,
            "healthy": 1,
            "list": [
                {"id": "e1", "cluster": "pool", "healthy": True, "inflight": 3, "models": ["a"]},
                {"id": "e2", "cluster": "pool", "healthy": False, "inflight": 3, "models": ["a"]},
            ],
        },
        "generation": 7,
        "uptime_seconds": 12.5,
    }
    assert "http://" not in answer.text


@pytest.mark.parametrize(
    ("view", "status", "health", "ready"),
    [
        (FakeView([model("a")], [endpoint("e", "a")]), "ok", 200, 200),
        (FakeView([model("a")], [endpoint("e", "a", healthy=False)]), "unavailable", 503, 503),
        (FakeView([model("a")], [endpoint("e")]), "unavailable", 503, 503),
        (FakeView(), "unavailable", 503, 503),
        (FakeView([model("a")], [endpoint("e", "a")], draining=True), "draining", 503, 503),
    ],
)
async def test_statuses_follow_what_is_served(
    view: FakeView, status: str, health: int, ready: int
) -> None:
    """Load balancers look at the status only; livez never depends on engines."""
    async with client(view) as http:
        answer = await http.get("/health")
        assert (answer.json()["status"], answer.status_code) == (status, health)
        assert (await http.get("/readyz")).status_code == ready
        assert (await http.get("/livez")).status_code == 200


async def test_version_and_metrics_come_from_the_view() -> None:
    """The exposition keeps the content type that names its format."""
    async with client(FakeView()) as http:
        assert (await http.get("/version")).json() == {"version": "1.2.3"}
        answer = await http.get("/metrics")
    assert answer.content == b"sluice_inflight 0.0\n"
    assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"

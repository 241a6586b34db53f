"""The operators' routes over scripted workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from gateway.control.operations import Registration, Reloaded
from gateway.workers.desk import Parent, build_desk
from tests.gateway.control.test_admin import Here, code, state
from tests.gateway.workers.crew import Crew, crew


@asynccontextmanager
async def desk(
    crew: Crew,
    *,
    token: str | None = None,
    lag_s: float = 0.0,
    drain: Callable[[], None] = lambda: None,
) -> AsyncIterator[httpx.AsyncClient]:
    powers = Parent(drain, lambda: 100.0, lambda: lag_s)
    app = build_desk(crew.roster, Here(), powers, token)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9090") as http:
        yield http


async def test_endpoints_are_those_of_all_workers(tmp_path: Path) -> None:
    """In flight adds up, the worst state counts, and each worker's own stands beside it."""
    async with crew(tmp_path) as one, desk(one) as http:
        one.hands[1].operations.pool[0] = state("a:1", state="open", breaker="open", inflight=5)
        listed = (await http.get("/admin/endpoints")).json()["endpoints"]
        shown = (await http.get("/admin/endpoints/a:1?cluster=c")).json()
    assert [each["id"] for each in listed] == ["a:1", "b:2/base"]
    assert listed[0] == shown
    assert (shown["state"], shown["inflight"]) == ("open", 7)
    assert shown["workers"] == [
        {"worker": 0, "state": "healthy", "breaker": "closed", "inflight": 2},
        {"worker": 1, "state": "open", "breaker": "open", "inflight": 5},
    ]


async def test_a_drain_is_told_to_every_worker_and_taken_back_in_every_one(tmp_path: Path) -> None:
    async with crew(tmp_path, 3) as one, desk(one) as http:
        drained = await http.post("/admin/endpoints/b:2/base/drain")
        assert drained.json()["draining"] is True
        assert [each.operations.pool[1].draining for each in one.hands] == [True] * 3
        back = await http.post("/admin/endpoints/b:2/base/undrain?cluster=c")
        assert back.json()["draining"] is False
        assert [each.operations.pool[1].draining for each in one.hands] == [False] * 3


async def test_what_one_process_refuses_all_refuse_in_its_words(tmp_path: Path) -> None:
    async with crew(tmp_path) as one, desk(one) as http:
        assert code(await http.post("/admin/endpoints/x:1/drain")) == (404, "endpoint_not_found")
        assert code(await http.get("/admin/endpoints/x:1")) == (404, "endpoint_not_found")
        assert code(await http.delete("/admin/endpoints/x:1")) == (404, "endpoint_not_found")
        assert code(await http.get("/admin/nothing")) == (404, "not_found")


async def test_who_registers_is_registered_with_all_and_the_limit_is_divided(
    tmp_path: Path,
) -> None:
    body = {"cluster": "c", "url": "http://new:1", "max_inflight": 5, "ttl_s": 9}
    async with crew(tmp_path) as one, desk(one) as http:
        answer = await http.post("/admin/endpoints", json=body)
        assert (answer.status_code, answer.json()["id"]) == (201, "new:1")
        assert [each.operations.told for each in one.hands] == [
            [Registration("c", "http://new:1", 1.0, 3, 9.0)],
            [Registration("c", "http://new:1", 1.0, 2, 9.0)],
        ]
        assert (await http.delete("/admin/endpoints/new:1?cluster=c")).json() == {
            "status": "removed"
        }
        assert [each.operations.told[-1] for each in one.hands] == [("c", "new:1")] * 2


async def test_who_registers_without_a_limit_has_none(tmp_path: Path) -> None:
    body = {"cluster": "c", "url": "http://new:1"}
    async with crew(tmp_path, 1) as one, desk(one) as http:
        await http.post("/admin/endpoints", json=body)
        assert one.hands[0].operations.told == [Registration("c", "http://new:1", 1.0, None, 30.0)]


async def test_a_reload_tells_each_worker_s_result(tmp_path: Path) -> None:
    async with crew(tmp_path) as one, desk(one) as http:
        one.hands[1].operations.reloaded = Reloaded("unchanged", 3, (), ())
        answer = (await http.post("/admin/reload")).json()
    assert (answer["result"], answer["generation"]) == ("unchanged", 3)
    assert answer["workers"] == [
        {"worker": 0, "result": "applied", "generation": 2},
        {"worker": 1, "result": "unchanged", "generation": 3},
    ]


async def test_a_reload_that_a_worker_refuses_is_refused(tmp_path: Path) -> None:
    """Who could take it over is named: the file was written between two workers' looks."""
    bad = Reloaded("failed", 2, (), ("sluice.yaml:3: clusters",))
    async with crew(tmp_path) as one, desk(one) as http:
        one.hands[1].operations.reloaded = bad
        some = await http.post("/admin/reload")
        one.hands[0].operations.reloaded = bad
        none = await http.post("/admin/reload")
    assert code(some) == code(none) == (400, "invalid_request_error")
    assert "worker 0 could take it over" in some.json()["error"]["message"]
    assert none.json()["error"]["message"] == "sluice.yaml:3: clusters"


async def test_the_newest_configuration_is_shown_with_each_worker_s(tmp_path: Path) -> None:
    async with crew(tmp_path) as one, desk(one) as http:
        shown = (await http.get("/admin/config")).json()
    assert (shown["generation"], shown["last_error"]) == (3, ["sluice.yaml:3: clusters"])
    assert shown["workers"] == [{"worker": 0, "generation": 3}, {"worker": 1, "generation": 3}]


async def test_a_drain_of_the_process_ends_all(tmp_path: Path) -> None:
    """The parent hears it first: a worker that ends must not be started again."""
    heard: list[str] = []
    async with (
        crew(tmp_path) as one,
        desk(one, drain=lambda: heard.append("parent")) as http,
    ):
        answer = await http.post("/admin/drain")
        assert (answer.status_code, answer.json()) == (202, {"status": "draining"})
        assert [each.operations.told for each in one.hands] == [["drain"], ["drain"]]
    assert heard == ["parent"]


async def test_metrics_are_of_all_workers(tmp_path: Path) -> None:
    async with crew(tmp_path) as one, desk(one) as http:
        one.hands[1].numbers.asked = 4
        text = (await http.get("/metrics")).text
    assert "sluice_asked_total 5.0" in text
    assert "sluice_inflight 2.0" in text
    assert "sluice_workers 2.0" in text
    assert "sluice_workers_missing 0.0" in text


async def test_a_silent_worker_is_missing_and_said_to_be(tmp_path: Path) -> None:
    """What is told to all and not heard by one is no success; what is asked is answered."""
    async with crew(tmp_path, 3, absent=1) as one, desk(one) as http:
        text = (await http.get("/metrics")).text
        assert "sluice_workers_missing 1.0" in text
        assert "sluice_asked_total 2.0" in text
        assert len((await http.get("/admin/endpoints")).json()["endpoints"]) == 2
        told = await http.post("/admin/endpoints/a:1/drain")
    assert code(told) == (503, "gateway_busy")
    assert "worker 2" in told.json()["error"]["message"]


async def test_without_workers_nothing_is_known(tmp_path: Path) -> None:
    async with crew(tmp_path, 1, absent=1) as one, desk(one) as http:
        for path in ("/admin/endpoints", "/admin/config", "/docs"):
            assert code(await http.get(path)) == (503, "gateway_busy")
        body = {"cluster": "c", "url": "http://new:1"}
        assert code(await http.post("/admin/endpoints", json=body)) == (503, "gateway_busy")
        assert code(await http.post("/admin/explain", json={})) == (503, "gateway_busy")


async def test_what_nobody_was_told_holds_nowhere(tmp_path: Path) -> None:
    """As while the workers start: no number is named, and nothing said of others."""
    async with crew(tmp_path, 1) as one, desk(one) as http:
        one.roster.members[0].answers = False
        told = await http.delete("/admin/endpoints/a:1")
    assert code(told) == (503, "gateway_busy")
    assert told.json()["error"]["message"] == "No worker answers."


async def test_other_routes_are_one_worker_s(tmp_path: Path) -> None:
    """With query, body and the answer's own type; a worker that is gone is passed over."""
    async with crew(tmp_path, 2) as one, desk(one) as http:
        page = await http.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        one.roster.members[0].answers = False
        assert "/admin/endpoints" in (await http.get("/openapi.json?x=1")).json()["paths"]


async def test_workers_are_listed(tmp_path: Path) -> None:
    async with crew(tmp_path) as one, desk(one) as http:
        one.roster.gone(one.roster.members[1])
        listed = (await http.get("/admin/workers")).json()["workers"]
    assert [each["state"] for each in listed] == ["up", "ended"]
    assert listed[1] == {
        "worker": 1,
        "pid": None,
        "state": "ended",
        "restarts": 0,
        "uptime_s": 0.0,
    }


@pytest.mark.parametrize(("lag_s", "expected"), [(0.1, (200, "alive")), (31.0, (503, "stuck"))])
async def test_liveness_is_the_parent_s(
    tmp_path: Path, lag_s: float, expected: tuple[int, str]
) -> None:
    """Workers that are stuck are ended by it."""
    async with crew(tmp_path, 1) as one, desk(one, token="secret", lag_s=lag_s) as http:
        answer = await http.get("/livez")
        assert (answer.status_code, answer.json()["status"]) == expected
        assert code(await http.get("/admin/endpoints")) == (401, "invalid_admin_token")
        fields = {"authorization": "Bearer secret"}
        assert (await http.get("/admin/endpoints", headers=fields)).status_code == 200


async def test_a_worker_that_does_not_know_an_endpoint_yet_does_not_refuse_it(
    tmp_path: Path,
) -> None:
    """Between two workers' reloads one has it and the other has not."""
    async with crew(tmp_path) as one, desk(one) as http:
        only = one.hands[1].operations
        only.pool.append(replace(only.pool[0], id="late:1"))
        assert (await http.post("/admin/endpoints/late:1/drain")).json()["draining"] is True

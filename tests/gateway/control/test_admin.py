"""The operators' routes over a scripted gateway: what they say, do and refuse."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from gateway.control.admin import build_admin
from gateway.control.operations import ConfigState, EndpointState, Registration, Reloaded
from gateway.errors import GatewayError


def state(name: str, cluster: str = "c", **changed: Any) -> EndpointState:
    known = EndpointState(
        id=name,
        cluster=cluster,
        url=f"http://{name}",
        state="healthy",
        health="healthy",
        breaker="closed",
        ejected=False,
        draining=False,
        ramp=1.0,
        weight=1.0,
        inflight=2,
        max_inflight=None,
        load=2.5,
        first_token_ms=12.5,
        whole_ms=None,
        models=("m",),
        expires_in_s=None,
    )
    return replace(known, **changed)


@dataclass
class FakeOperations:
    """Remembers what it was told."""

    pool: list[EndpointState] = field(default_factory=lambda: [state("a:1"), state("b:2/base")])
    reloaded: Reloaded = field(default_factory=lambda: Reloaded("applied", 2, ("+ endpoint",), ()))
    told: list[object] = field(default_factory=list)

    def endpoints(self) -> Sequence[EndpointState]:
        return self.pool

    def set_draining(self, cluster: str, endpoint: str, draining: bool) -> None:
        self.pool = [
            replace(one, draining=draining) if (one.cluster, one.id) == (cluster, endpoint) else one
            for one in self.pool
        ]

    def register(self, registration: Registration) -> str:
        self.told.append(registration)
        self.pool.append(state("new:1", expires_in_s=registration.ttl_s))
        return "new:1"

    def remove(self, cluster: str, endpoint: str) -> None:
        self.told.append((cluster, endpoint))

    def drain(self) -> None:
        self.told.append("drain")

    async def reload(self) -> Reloaded:
        return self.reloaded

    def config(self) -> ConfigState:
        return ConfigState(3, "sluice.yaml", 1_700_000_000.0, ("sluice.yaml:3: clusters",))

    def metrics_text(self) -> tuple[bytes, str]:
        return b"sluice_inflight 0.0\n", "text/plain; version=1.0.0; charset=utf-8"


@dataclass
class Here:
    """The main loop is the test's own, unless it is said not to answer."""

    stuck: bool = False

    async def read(self, work: Callable[[], Any]) -> Any:
        if self.stuck:
            raise GatewayError(503, "gateway_busy", "The gateway's main loop does not answer.")
        return work()

    async def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return await work()


@dataclass
class Heart:
    lag: float = 0.0

    def lag_s(self) -> float:
        return self.lag


def client(
    operations: FakeOperations | None = None,
    *,
    main: Here | None = None,
    heart: Heart | None = None,
    token: str | None = None,
    host: str = "127.0.0.1:9090",
) -> httpx.AsyncClient:
    app = build_admin(operations or FakeOperations(), main or Here(), heart or Heart(), token)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}")


def code(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error["code"]


async def test_the_list_and_one_endpoint_say_the_same() -> None:
    """With everything that decides whether it is picked."""
    async with client() as http:
        listed = (await http.get("/admin/endpoints")).json()["endpoints"]
        one = (await http.get("/admin/endpoints/b:2/base")).json()
    assert listed[1] == one
    assert (one["id"], one["state"], one["breaker"]) == ("b:2/base", "healthy", "closed")
    assert (one["load"], one["first_token_ms"], one["whole_ms"]) == (2.5, 12.5, None)
    assert (one["models"], one["expires_in_s"]) == (["m"], None)


async def test_drain_and_undrain_by_an_id_with_slashes() -> None:
    """The suffix is no part of the id; the answer shows the new state."""
    async with client() as http:
        drained = await http.post("/admin/endpoints/b:2/base/drain")
        assert drained.json()["draining"] is True
        back = await http.post("/admin/endpoints/b:2%2Fbase/undrain")
        assert back.json()["draining"] is False


async def test_an_id_that_several_clusters_have_needs_its_cluster() -> None:
    """409 names the clusters; with one of them it is clear."""
    operations = FakeOperations([state("a:1", "one"), state("a:1", "two")])
    async with client(operations) as http:
        answer = await http.post("/admin/endpoints/a:1/drain")
        assert code(answer) == (409, "ambiguous_endpoint")
        assert "one, two" in answer.json()["error"]["message"]
        await http.post("/admin/endpoints/a:1/drain?cluster=two")
    assert [one.draining for one in operations.pool] == [False, True]


@pytest.mark.parametrize("path", ["nope", "nope/drain", "a:1?cluster=other"])
async def test_an_unknown_endpoint(path: str) -> None:
    """404 on reading as on steering."""
    async with client() as http:
        answer = await http.request(
            "POST" if "drain" in path else "GET", f"/admin/endpoints/{path}"
        )
    assert code(answer) == (404, "endpoint_not_found")


async def test_registration_and_its_end() -> None:
    """Defaults are filled in; 201 shows the endpoint; DELETE ends it."""
    operations = FakeOperations()
    async with client(operations) as http:
        body = {"cluster": "c", "url": "http://new:1"}
        answer = await http.post("/admin/endpoints", json=body)
        assert (answer.status_code, answer.json()["expires_in_s"]) == (201, 30.0)
        gone = await http.delete("/admin/endpoints/new:1")
    assert gone.json() == {"status": "removed"}
    assert operations.told == [Registration("c", "http://new:1", 1.0, None, 30.0), ("c", "new:1")]


@pytest.mark.parametrize(
    "body", [b"{}", b"[", b'{"cluster":"c","url":"http://x","weigth":1}', b"[" * 60_000]
)
async def test_a_malformed_registration(body: bytes) -> None:
    """400 in the one shape, for a misspelt key as for no JSON."""
    async with client() as http:
        headers = {"content-type": "application/json"}
        answer = await http.post("/admin/endpoints", content=body, headers=headers)
    assert code(answer) == (400, "invalid_request_error")


async def test_a_body_of_another_content_type_is_told_which_one_it_needs() -> None:
    """As curl -d sends it without -H; the words are not the parser's about bytes."""
    async with client() as http:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        answer = await http.post(
            "/admin/endpoints", content=b'{"cluster":"c","url":"http://new:1"}', headers=headers
        )
    assert code(answer) == (400, "invalid_request_error")
    assert "`content-type: application/json`" in answer.json()["error"]["message"]


async def test_a_body_over_the_cap() -> None:
    """1 MiB is plenty, also for a long prompt that is to be explained."""
    async with client() as http:
        assert code(await http.post("/admin/endpoints", content=b" " * 1_100_000)) == (
            413,
            "request_too_large",
        )


async def test_reload_says_what_changed() -> None:
    """With the number of the configuration in effect."""
    async with client() as http:
        answer = await http.post("/admin/reload")
    assert answer.json() == {"result": "applied", "generation": 2, "changes": ["+ endpoint"]}


async def test_a_reload_that_failed_says_where() -> None:
    """400 with file and line of each problem; the old configuration is kept."""
    problems = ("sluice.yaml:3: clusters: is missing", "sluice.yaml:9: models")
    async with client(FakeOperations(reloaded=Reloaded("failed", 1, (), problems))) as http:
        answer = await http.post("/admin/reload")
    assert code(answer) == (400, "invalid_request_error")
    assert answer.json()["error"]["message"] == "\n".join(problems)


async def test_the_configuration_in_effect() -> None:
    """Generation, file, when, and what was wrong with the last one."""
    async with client() as http:
        assert (await http.get("/admin/config")).json() == {
            "generation": 3,
            "file": "sluice.yaml",
            "loaded_at": "2023-11-14T22:13:20Z",
            "last_error": ["sluice.yaml:3: clusters"],
        }


async def test_draining_the_gateway() -> None:
    """202: it has begun."""
    operations = FakeOperations()
    async with client(operations) as http:
        answer = await http.post("/admin/drain")
    assert (answer.status_code, answer.json()) == (202, {"status": "draining"})
    assert operations.told == ["drain"]


async def test_metrics_keep_their_content_type() -> None:
    """Prometheus may scrape this port instead of the clients'."""
    async with client() as http:
        answer = await http.get("/metrics")
    assert answer.content == b"sluice_inflight 0.0\n"
    assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"


@pytest.mark.parametrize(
    ("lag", "status", "word"), [(0.0, 200, "alive"), (29.9, 200, "alive"), (30.0, 503, "stuck")]
)
async def test_liveness_needs_neither_token_nor_main_loop(
    lag: float, status: int, word: str
) -> None:
    """It is the one answer when the main loop gives none."""
    async with client(main=Here(stuck=True), heart=Heart(lag), token="t") as http:
        answer = await http.get("/livez")
        assert answer.status_code == status
        assert answer.json() == {"status": word, "event_loop_lag_s": lag}
        busy = await http.get("/admin/endpoints", headers={"authorization": "Bearer t"})
    assert code(busy) == (503, "gateway_busy")


async def test_the_description_and_its_page() -> None:
    """Every route with its fields, and nothing from another host."""
    async with client() as http:
        document = (await http.get("/openapi.json")).json()
        page = await http.get("/docs")
    assert "/admin/endpoints/{endpoint}/drain" in document["paths"]
    for path in document["paths"]:
        assert path in page.text
    assert "expires_in_s" in page.text
    assert "<script" not in page.text
    assert "//" not in page.text.replace("<!doctype", "")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")

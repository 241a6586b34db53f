"""The operators' routes for policies over a scripted gateway: what they say, do and refuse."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest

from gateway.control.admin import build_admin
from gateway.control.failures import unknown_route
from gateway.plan.explain import Explanation
from gateway.plan.rollout_state import Command, RefusedError
from gateway.releases.overview import PoliciesView, PolicyView, StoreView
from gateway.store.base import StoreError
from tests.gateway.control.test_admin import FakeOperations, Heart, Here, code

VIEW = PolicyView(
    name="new",
    kind="route",
    description="",
    models=["m"],
    epoch=0,
    arms=[],
    rollout=None,
    experiment=None,
    mirror=None,
)
STATE = {"phase": "progressing", "weight": 5.0, "step": 1, "reason": "resumed"}


class FakePolicies:
    """Remembers what it was told, and fails as it is told to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.told: list[object] = []

    async def policies(self) -> PoliciesView:
        store = StoreView(label="memory", available=True, reason="")
        return PoliciesView(policies=[VIEW], store=store, leads=True)

    async def policy(self, name: str) -> PolicyView:
        if name != "new":
            raise KeyError(name)
        return VIEW

    async def command(self, name: str, wanted: Command, by: str) -> Any:
        self.told.append((name, wanted, by))
        if self.failure is not None:
            raise self.failure
        return STATE

    async def audit(self, count: int, policy: str | None = None) -> Sequence[Any]:
        if self.failure is not None:
            raise self.failure
        return [{"count": count, "policy": policy}]


class FakeExplainer:
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, Mapping[str, str], str | None]] = []

    def explain(
        self, body: bytes, headers: Mapping[str, str] | None = None, path: str | None = None
    ) -> Explanation:
        self.asked.append((body, headers or {}, path))
        if path == "/nope":
            raise unknown_route(path)
        return Explanation(
            model="m",
            route="chat",
            policies=[],
            decision=None,
            way=None,
            refused="why",
            mirrors=[],
            mirror=None,
            mirror_way=None,
        )


def client(
    policies: FakePolicies | None = None, explainer: FakeExplainer | None = None
) -> httpx.AsyncClient:
    app = build_admin(
        FakeOperations(),
        Here(),
        Heart(),
        None,
        policies or FakePolicies(),
        explainer or FakeExplainer(),
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:9090")


async def test_the_list_and_one_policy_say_the_same() -> None:
    """With the store's state beside the list."""
    async with client() as http:
        listed = (await http.get("/admin/policies")).json()
        one = (await http.get("/admin/policies/new")).json()
        assert listed["policies"] == [one]
        assert listed["store"] == {"label": "memory", "available": True, "reason": ""}
        answer = await http.get("/admin/policies/" + "x" * 300)
        assert code(answer) == (404, "policy_not_found")
        assert "x" * 101 not in answer.text


@pytest.mark.parametrize("action", [*Command])
async def test_every_command_is_passed_on(action: Command) -> None:
    """With who gave it, and the state that follows."""
    policies = FakePolicies()
    async with client(policies) as http:
        answer = await http.post(f"/admin/rollouts/new/{action}", json={"by": "anna"})
        await http.post(f"/admin/rollouts/new/{action}")
    assert answer.json() == {
        "policy": "new",
        "phase": "progressing",
        "weight": 5.0,
        "step": 2,
        "reason": "resumed",
    }
    assert policies.told == [("new", action, "anna"), ("new", action, "admin API")]


@pytest.mark.parametrize(
    ("failure", "wanted"),
    [
        (RefusedError("cannot pause: it has not started"), (409, "rollout_refused")),
        (KeyError("new"), (404, "policy_not_found")),
        (StoreError("no connection"), (503, "store_unavailable")),
        (TimeoutError("it is changing all the time"), (503, "rollout_busy")),
    ],
)
async def test_a_command_that_cannot_be_done(failure: Exception, wanted: tuple[int, str]) -> None:
    """Says why, in the one shape."""
    async with client(FakePolicies(failure)) as http:
        answer = await http.post("/admin/rollouts/new/pause")
        assert code(answer) == wanted
        if isinstance(failure, RefusedError):
            assert "cannot pause: it has not started" in answer.text


@pytest.mark.parametrize(
    ("action", "body"), [("explode", {}), ("pause", {"by": ""}), ("pause", {"who": "me"})]
)
async def test_a_malformed_command(action: str, body: Any) -> None:
    """Nothing is done."""
    policies = FakePolicies()
    async with client(policies) as http:
        answer = await http.post(f"/admin/rollouts/new/{action}", json=body)
    assert code(answer) == (400, "invalid_request_error")
    assert policies.told == []


async def test_the_audit_log() -> None:
    """As much of it as is asked for; 503 while the store is down."""
    async with client() as http:
        answer = await http.get("/admin/audit?count=7&policy=new")
        assert answer.json() == {"events": [{"count": 7, "policy": "new"}]}
        assert (await http.get("/admin/audit")).json()["events"][0]["count"] == 50
        assert code(await http.get("/admin/audit?count=0")) == (400, "invalid_request_error")
    async with client(FakePolicies(StoreError("down"))) as http:
        assert code(await http.get("/admin/audit")) == (503, "store_unavailable")


async def test_a_request_is_explained_as_it_was_written() -> None:
    """Its bytes are kept, so that big numbers and the order of keys are the client's."""
    explainer = FakeExplainer()
    body = b'{"model":"m",  "seed":123456789012345678901234567890}'
    wrapped = b'{"headers":{"x-team":"blue"},"body":%b}' % body
    async with client(explainer=explainer) as http:
        headers = {"content-type": "application/json"}
        answer = await http.post("/admin/explain", content=wrapped, headers=headers)
        assert answer.json()["refused"] == "why"
        answer = await http.post("/admin/explain", json={"body": {}, "path": "/nope"})
        assert code(answer) == (404, "not_found")
    assert explainer.asked[0] == (body, {"x-team": "blue"}, None)


@pytest.mark.parametrize(
    "content",
    [b"{}", b'{"body":[]}', b'{"body":{},"header":{}}', b'{"body":{"a":NaN}}', b"\xff", b"["],
)
async def test_a_malformed_question(content: bytes) -> None:
    """400 in the one shape."""
    async with client() as http:
        headers = {"content-type": "application/json"}
        answer = await http.post("/admin/explain", content=content, headers=headers)
    assert code(answer) == (400, "invalid_request_error")


async def test_the_page_describes_every_field() -> None:
    """Of what the routes take and give."""
    async with client() as http:
        page = (await http.get("/docs")).text
        schema = (await http.get("/openapi.json")).json()["components"]["schemas"]
    assert "POST /admin/rollouts/{name}/{action}" in page
    assert "Null if none applies: the model then goes its own way." in page
    assert json.dumps(schema["RolloutView"]).count("description") >= 8


async def test_without_policies_there_are_no_such_routes() -> None:
    """A gateway may be run without them."""
    app = build_admin(FakeOperations(), Here(), Heart())
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9090") as http:
        assert code(await http.get("/admin/policies")) == (404, "not_found")

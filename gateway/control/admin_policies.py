"""How do operators look at policies, and steer rollouts?"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from gateway.control.operations import MainLoop
from gateway.control.strict import read_object
from gateway.errors import GatewayError
from gateway.plan.explain import Explanation
from gateway.plan.rollout_state import Command, RefusedError
from gateway.releases.overview import PoliciesView, PolicyView
from gateway.store.base import Json, StoreError

T = TypeVar("T")

MAX_NAME_CHARS = 100
"""Of the person who gives a command."""

MAX_AUDIT = 1000
"""Events in one answer."""

_OFFERED = 50


class Policies(Protocol):
    """The policies of the running gateway (`gateway.releases.overview.Overview`)."""

    async def policies(self) -> PoliciesView:
        """Return all of them."""

    async def policy(self, name: str) -> PolicyView:
        """Return one. Raises `KeyError`."""

    async def command(self, name: str, wanted: Command, by: str) -> Json:
        """Do what a person asks of a rollout; return its state.

        Raises `KeyError` for no such rollout, `RefusedError`, `StoreError` and `TimeoutError`.
        """

    async def audit(self, count: int, policy: str | None = None) -> Sequence[Json]:
        """Return the last transitions, the newest last. Raises `StoreError`."""


class Explain(Protocol):
    """Says what would become of a request (`gateway.dispatch.explanation.Explainer`)."""

    def explain(
        self, body: bytes, headers: Mapping[str, str] | None = None, path: str | None = None
    ) -> Explanation:
        """Explain. Raises the `GatewayError` that the client would get."""


class ExplainBody(BaseModel):
    """A request to be explained, as a client would send it."""

    model_config = ConfigDict(extra="forbid")

    body: dict[str, Any] = Field(description="The request's body.")
    headers: dict[str, str] = Field(default={}, description="Its header fields.")
    path: str | None = Field(
        default=None,
        description="Where it is sent: /v1/chat/completions, or /v1/predict for a vision model, "
        "unless it says something else.",
    )


class CommandBody(BaseModel):
    """Who gives a command."""

    model_config = ConfigDict(extra="forbid")

    by: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] = Field(
        default="admin API", description="A name for the audit log."
    )


class RolloutBody(BaseModel):
    """A rollout's state after a command."""

    policy: str = Field(description="Its name.")
    phase: str = Field(
        description="pending, progressing, paused, succeeded, rolled_back or failed."
    )
    weight: float = Field(description="Percent of the keys that the canary has.")
    step: int = Field(description="Which step it is in, from 1.")
    reason: str = Field(description="Why it is as it is.")


class AuditBody(BaseModel):
    """What has happened to policies."""

    events: list[dict[str, Any]] = Field(description="Transitions, the newest last.")


def router(policies: Policies, explainer: Explain, main: MainLoop) -> APIRouter:
    """Return the routes; everything of `policies` and `explainer` is called in the main loop."""
    routes = APIRouter()

    @routes.post("/admin/explain")
    async def explain(request: Request, asked: ExplainBody) -> Explanation:
        """Say where a request would go, and why; nothing is sent."""
        # As it was written: decoding and encoding it again would lose what only bytes tell.
        body = _body_of(await request.body())
        return await main.read(lambda: explainer.explain(body, asked.headers, asked.path))

    @routes.get("/admin/policies")
    async def listing() -> PoliciesView:
        """List every policy with its state and each arm's figures."""
        return await main.run(policies.policies)

    @routes.get("/admin/policies/{name}")
    async def one(name: str) -> PolicyView:
        """Show one policy."""
        return await main.run(lambda: _told(policies.policy(name), name))

    @routes.post("/admin/rollouts/{name}/{action}")
    async def command(name: str, action: Command, body: CommandBody | None = None) -> RolloutBody:
        """Do what a person asks: start, pause, resume, promote or abort.

        409 says why it does not fit the rollout's phase.
        """
        by = (body or CommandBody()).by
        state = await main.run(lambda: _told(policies.command(name, action, by), name, "rollout"))
        return RolloutBody(
            policy=name,
            phase=state["phase"],
            weight=state["weight"],
            step=state["step"] + 1,
            reason=state["reason"],
        )

    @routes.get("/admin/audit")
    async def audit(
        count: Annotated[int, Query(ge=1, le=MAX_AUDIT, description="How many.")] = _OFFERED,
        policy: Annotated[str | None, Query(description="Of this one only.")] = None,
    ) -> AuditBody:
        """Show what has happened to policies: every transition with its numbers."""
        found = await main.run(lambda: _told(policies.audit(count, policy), policy or ""))
        return AuditBody(events=list(found))

    return routes


async def _told(work: Coroutine[Any, Any, T], name: str, kind: str = "policy") -> T:
    """Return what `work` gives; its failures become answers."""
    try:
        return await work
    except KeyError:
        shown = name if len(name) <= MAX_NAME_CHARS else name[:MAX_NAME_CHARS] + "…"
        message = f"There is no {kind} `{shown}`."
        raise GatewayError(404, "policy_not_found", message) from None
    except RefusedError as error:
        raise GatewayError(409, "rollout_refused", f"{name}: {error}.") from None
    except StoreError as error:
        message = f"The store does not answer: {error}"
        raise GatewayError(503, "store_unavailable", message, retry_after_s=2) from None
    except TimeoutError as error:
        raise GatewayError(503, "rollout_busy", str(error), retry_after_s=1) from None


class _Wrapped(msgspec.Struct):
    body: msgspec.Raw


_WRAPPED = msgspec.json.Decoder(_Wrapped)


def _body_of(wrapped: bytes) -> bytes:
    """Return the text of the member `body`. Raises `GatewayError` 400 if it is no strict JSON."""
    read_object(wrapped)
    return bytes(_WRAPPED.decode(wrapped).body)

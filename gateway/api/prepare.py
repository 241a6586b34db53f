"""What does a request ask for, and what is sent upstream in its place?"""

from __future__ import annotations

from gateway.api.body import Facts, ask_for_usage, read_json, rename_model
from gateway.plan.table import Plan
from gateway.wire.types import Request


async def facts_of(request: Request, max_json_depth: int) -> Facts:
    """Read what routing and relaying need from the body. Raises `GatewayError` 400."""
    return read_json(request.body, max_json_depth)


def upstream_body(request: Request, facts: Facts, plan: Plan) -> tuple[bytes, bool]:
    """Return the body for the engine, and whether the usage chunk in its stream is our own wish."""
    body = request.body
    if plan.rename is not None:
        body = rename_model(body, plan.upstream_model)
    if request.route.injects_usage and facts.stream is True and not facts.wants_usage:
        return ask_for_usage(body, facts), True
    return body, False

"""How is each thing done that operators ask of several workers as of one?"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

import httpx

from gateway.control.admin import find
from gateway.control.admin_models import ConfigBody, EndpointBody, RegistrationBody, ReloadBody
from gateway.control.operations import EndpointState
from gateway.errors import GatewayError
from gateway.workers.desk_models import (
    Part,
    SharedConfig,
    SharedEndpoint,
    SharedReload,
    WorkerConfig,
    WorkerReload,
)
from gateway.workers.inner import Question
from gateway.workers.roster import Roster
from gateway.workers.shares import share
from gateway.workers.states import by_endpoint, merged

RELOAD_S = 55.0
"""For a reload in every worker: less than the way into the main loop waits."""

JSON = (("content-type", "application/json"),)


async def all_endpoints(roster: Roster) -> list[SharedEndpoint]:
    """Return every endpoint over all workers."""
    found = by_endpoint(await roster.endpoints())
    return [_shown(states) for states in found.values()]


async def find_endpoint(roster: Roster, name: str, cluster: str | None) -> SharedEndpoint:
    """Return one endpoint. Raises `GatewayError`: 404 for none, 409 for several."""
    found = by_endpoint(await roster.endpoints())
    whole = [merged(list(states.values())) for states in found.values()]
    one = find(whole, name, cluster)
    return _shown(found[one.cluster, one.id])


def _shown(states: Mapping[int, EndpointState]) -> SharedEndpoint:
    whole = EndpointBody.of(merged(list(states.values())))
    parts = [
        Part(worker=number, state=one.state, breaker=one.breaker, inflight=one.inflight)
        for number, one in states.items()
    ]
    return SharedEndpoint(**whole.model_dump(), workers=parts)


async def register(roster: Roster, body: RegistrationBody) -> SharedEndpoint:
    """Let an endpoint join in every worker, each with its part of the limit."""
    count = len(roster.members)
    answers: dict[int, httpx.Response] = {}
    async with roster.commands:
        for number in [one.number for one in roster.members if one.answers]:
            part = body.max_inflight
            if part is not None and part > 0:
                part = share(part, number, count)
            own = body.model_copy(update={"max_inflight": part})
            content = own.model_dump_json().encode()
            question = Question("POST", "/admin/endpoints", content, JSON)
            answers |= await roster.ask(question, {number})
    first = EndpointBody.model_validate_json(check(answers).content)
    return await find_endpoint(roster, first.id, body.cluster)


async def reload(roster: Roster) -> SharedReload:
    """Take the file over in every worker. Raises `GatewayError` 400 if one of them cannot."""
    async with roster.commands:
        answers = await roster.tell(Question("POST", "/admin/reload", limit_s=RELOAD_S))
    check(answers, {200, 400})
    done = {
        number: ReloadBody.model_validate_json(one.content)
        for number, one in answers.items()
        if one.status_code == 200
    }
    failed = {number: _said(one) for number, one in answers.items() if one.status_code == 400}
    if failed:
        problems = "\n".join(dict.fromkeys(failed.values()))
        if done:
            names = ", ".join(map(str, done))
            problems += f"\nBut worker {names} could take it over; the file has changed meanwhile."
        raise GatewayError(400, "invalid_request_error", problems)
    newest = max(done.values(), key=lambda one: one.generation)
    return SharedReload(
        **newest.model_dump(),
        workers=[
            WorkerReload(worker=number, result=one.result, generation=one.generation)
            for number, one in done.items()
        ],
    )


async def config_of(roster: Roster) -> SharedConfig:
    """Return the newest configuration in effect, and each worker's error."""
    answers = await roster.tell(Question("GET", "/admin/config"))
    check(answers)
    said = {
        number: ConfigBody.model_validate_json(one.content)
        for number, one in answers.items()
        if one.is_success
    }
    newest = max(said.values(), key=lambda one: (one.generation, one.loaded_at))
    errors = dict.fromkeys(text for one in said.values() for text in one.last_error)
    return SharedConfig(
        **{**newest.model_dump(), "last_error": list(errors)},
        workers=[
            WorkerConfig(worker=number, generation=one.generation) for number, one in said.items()
        ],
    )


def check(
    answers: Mapping[int, httpx.Response], fine: frozenset[int] | set[int] = frozenset()
) -> httpx.Response:
    """Return the first good answer, if not all refused. Raises `GatewayError` as they did.

    They are alike, so that they refuse alike; where they do not, the others have done it.
    """
    good = [one for one in answers.values() if one.is_success or one.status_code in fine]
    if good:
        return good[0]
    if not answers:
        message = "No worker answers."
        raise GatewayError(503, "gateway_busy", message, retry=True, retry_after_s=1)
    refusal = next(iter(answers.values()))
    error = _error(refusal)
    raise GatewayError(
        refusal.status_code, str(error.get("code")), _said(refusal), param=error.get("param")
    )


def _error(answer: httpx.Response) -> dict[str, str]:
    error: dict[str, str] = answer.json().get("error", {})
    return error


def _said(answer: httpx.Response) -> str:
    return _error(answer).get("message", "")


def path_of(name: str, cluster: str | None, verb: str = "") -> str:
    """Return an endpoint's route in a worker, escaped."""
    query = f"?{urlencode({'cluster': cluster})}" if cluster is not None else ""
    return f"/admin/endpoints/{quote(name)}{verb}{query}"

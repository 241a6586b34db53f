"""What does a worker that is started while others run have to be told?

What operators told the others while they ran: which endpoints are drained, and which have
registered. The others are asked, so that nothing is kept twice and nothing can differ. If no other
worker is there, both are forgotten, as by a gateway that is started again.
"""

from __future__ import annotations

import logging

from gateway.control.admin_models import ConfigBody, RegistrationBody
from gateway.control.operations import EndpointState
from gateway.upstream.fleet import MIN_TTL_S
from gateway.workers.inner import Question
from gateway.workers.roster import Roster
from gateway.workers.together import JSON, path_of

_LOG = logging.getLogger("sluice.workers")


async def generation(roster: Roster) -> int:
    """Return the number of the newest configuration that a worker has; 1 if there is none."""
    answers = await roster.ask(Question("GET", "/admin/config"))
    numbers = [
        ConfigBody.model_validate_json(one.content).generation
        for one in answers.values()
        if one.is_success
    ]
    return max(numbers, default=1)


async def hand_over(roster: Roster, number: int) -> None:
    """Tell worker `number` what the others know. Raises `GatewayError` if nobody answers."""
    others = {one.number for one in roster.up()} - {number}
    said = await roster.endpoints(others)
    for question in orders(next(iter(said.values()))):
        answers = await roster.ask(question, {number})
        if not any(one.is_success for one in answers.values()):
            _LOG.warning("worker %d did not take %s", number, question.path)


def orders(endpoints: list[EndpointState]) -> list[Question]:
    """Return what brings a new worker to what another one sees. Pure."""
    found = []
    for one in endpoints:
        if one.expires_in_s is not None and one.expires_in_s >= MIN_TTL_S:
            body = RegistrationBody(
                cluster=one.cluster,
                url=one.url,
                weight=one.weight,
                max_inflight=one.max_inflight,  # The other's part; ours differs by 1 at the most.
                ttl_s=one.expires_in_s,
            )
            content = body.model_dump_json().encode()
            found.append(Question("POST", "/admin/endpoints", content, JSON))
        if one.draining:
            found.append(Question("POST", path_of(one.id, one.cluster, "/drain")))
    return found

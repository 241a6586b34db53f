"""Which policies apply to a request, and what do they make of it?"""

from __future__ import annotations

from zlib import crc32

from gateway.api.body import Facts
from gateway.api.prepare import media_of, read_whole
from gateway.errors import no_healthy_upstream
from gateway.model import Body
from gateway.plan.match import Subject
from gateway.plan.table import Plan
from gateway.telemetry.arms import ArmTallies
from gateway.telemetry.record import Record
from gateway.wire.types import Request


def subject_of(request: Request, facts: Facts, record: Record) -> Subject:
    """Return what rules look at of a request."""
    user = facts.user if isinstance(facts.user, str) else ""
    head = request.head
    return Subject(
        record.model,
        record.route,
        head.field,
        record.request_id,
        user,
        credentials=head.credentials,
    )


def steer(
    plan: Plan,
    subject: Subject,
    request: Request,
    facts: Facts,
    record: Record,
    tallies: ArmTallies,
) -> tuple[Plan, Facts]:
    """Return the plan that the first policy that matches makes of `plan`, and what is asked now.

    `request.body` is changed where the arm says so. Raises `GatewayError` 503 if the arm's model
    is served by nobody.
    """
    assert plan.junction is not None  # noqa: S101  without policies there is nothing to ask
    course = plan.junction.steer(subject, request.body)
    if course is None:
        return plan, facts
    rule = course.rule
    record.policy, record.arm = rule.policy.name, course.arm
    # Who goes to the baseline for want of a key was not drawn, and would bias its figures.
    if rule.falls_back or rule.sticky(subject):
        record.tally = tallies.of(record.policy, rule.epoch, course.arm)
        if rule.groups:
            record.group = crc32(rule.sticky(subject))
    if course.plan is None:
        raise no_healthy_upstream(plan.model)
    if course.override is not None and media_of(request) is Body.JSON:
        request.body = course.override.apply(request.body, record.route)
        # It was valid, and no field that could name a model or choices may be set.
        facts = read_whole(request, max_depth=_ANY_DEPTH)
    return course.plan, facts


_ANY_DEPTH = 1_000
"""The client's part was checked; an operator's own may be deep."""

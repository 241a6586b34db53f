"""Which endpoints are asked for one request, one after the other, until one gives an answer?

    admit ─> pick ─> send ─┬─ an answer ──────────────────> commit
              ^            └─ a verdict ─┬─ once more ─┐
              └──────────────────────────┼─────────────┘
                                         └─ enough ─> the model's fallbacks ─> the first error

Nothing of this is seen by the client, but the time that it takes.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from gateway.api.traits import traits_of
from gateway.dispatch.attempts import Attempts
from gateway.dispatch.outcome import MOVED, Cause, Verdict, outcome_of, verdict_of
from gateway.dispatch.race import race
from gateway.errors import GatewayError, no_healthy_upstream
from gateway.model import Body
from gateway.plan.table import Plan
from gateway.upstream.pool import Lease
from gateway.upstream.traits import Traits
from gateway.wire.types import UpstreamError

_FORM = Body.FORM  # To reach it through its class takes 0.1 µs in Python 3.11.


def first_reply(attempts: Attempts) -> Coroutine[Any, Any, Verdict | None]:
    """Find a reply that may be shown; when this has been awaited, it is `attempts.reply`.

    Awaiting raises `GatewayError`: the first model's, where no fallback had an answer either.
    """
    plan, now = attempts.plan, attempts.record.started_at
    if attempts.request.route.body is _FORM:
        now = attempts.shared.monotonic()  # As much of it as names the model has been waited for.
    return _with_fallbacks(attempts, plan, now) if plan.fallbacks else _ask(attempts, plan, now)


async def _with_fallbacks(attempts: Attempts, plan: Plan, now: float) -> Verdict | None:
    try:
        flaw = await _ask(attempts, plan, now)
    except GatewayError as error:
        if error.status < 500 or not await _fall_back(attempts, None):
            raise
        attempts.record.counted = outcome_of(error.status, error, committed=False)
        return None
    reply = attempts.reply
    if flaw is None or reply is None or not reply.ended:
        return flaw  # A refusal that is too long to be held is shown as it comes.
    if not await _fall_back(attempts, flaw.cause):
        attempts.drop()
        attempts.reply = reply  # The first model's own refusal tells more than a fallback's.
    else:
        attempts.record.counted = outcome_of(reply.status, None, committed=False)
    return flaw


async def _fall_back(attempts: Attempts, cause: Cause | None) -> bool:
    """Ask the fallbacks; say whether one has answered. If not, the plan stays what it was."""
    first = attempts.plan
    for plan in attempts.fallbacks():
        if attempts.spent:
            break
        longer = (plan.max_model_len or 0) > (first.max_model_len or 0)
        if (cause is Cause.TOO_LONG and not longer) or attempts.is_over():
            continue
        attempts.change(plan)
        try:
            flaw = await _ask(attempts, plan, attempts.shared.monotonic())
        except GatewayError:
            continue
        if flaw is None:
            attempts.shared.metrics.count("sluice_fallbacks", first.label, plan.label)
            return True
    attempts.plan = first
    return False


async def _ask(attempts: Attempts, plan: Plan, now: float) -> Verdict | None:
    """Try one model's endpoints; return what is wrong with a reply that can be shown all the same.

    Raises `GatewayError` if there is none.
    """
    pool = plan.pool
    gate = pool.owner.gate
    if gate.try_enter():
        attempts.gate, attempts.entered_at = gate, now
    else:
        now = await attempts.enter(gate)
    attempts.shared.deposit(pool, now)
    traits = traits_of(attempts.request.head, attempts.facts, pool)
    lease = pool.pick(plan.model, traits, now)
    assert lease is not None  # noqa: S101  nobody has been tried yet
    races = traits.stream and pool.owner.spec.hedging.enabled
    made = 0
    while True:
        made += 1
        if races:
            verdict = await race(attempts, plan, lease, traits)
        else:
            try:
                reply = await attempts.send(plan, lease)
            except UpstreamError as failure:
                verdict = verdict_of(failure)
            else:
                if reply.failure is None and reply.status < 300:
                    lease.committed(attempts.shared.monotonic())
                    return None
                verdict = attempts.judge(plan, lease, reply)
        if verdict is None:
            return None
        attempts.settle(verdict, verdict.outcome)
        following = await _next(attempts, plan, traits, verdict, made)
        if following is not None:
            lease = following
        elif verdict.error is None:
            return verdict
        else:
            # In panic, that nobody is there is no news of one endpoint but of all.
            nobody = lease.panic and verdict.cause in {Cause.UNREACHABLE, Cause.DEAF}
            raise no_healthy_upstream(plan.model) if nobody else verdict.error


async def _next(
    attempts: Attempts, plan: Plan, traits: Traits, verdict: Verdict, made: int
) -> Lease | None:
    """Return where to try again, perhaps after a pause; None if it is enough."""
    shared, pool = attempts.shared, plan.pool
    now = shared.monotonic()
    enough = made >= pool.owner.spec.retries.attempts or attempts.is_over()
    if enough or not _repeatable(attempts, verdict.cause):
        return None
    if verdict.cause not in MOVED and not shared.budget(pool).withdraw(now):
        shared.metrics.count("sluice_retries_refused", pool.cluster)
        return None
    try:
        lease = pool.pick(plan.model, traits, now, attempts.tried)
        if lease is None:  # All have been asked. Who was not silent may be asked once more.
            pause_s = max(shared.backoff.wait_s(made), attempts.asked_to_wait() or 0.0)
            if pause_s > pool.owner.spec.retries.max_wait_s or now + pause_s >= attempts.by:
                return None
            await shared.pause(pause_s)
            if attempts.is_over():
                return None
            lease = pool.pick(plan.model, traits, shared.monotonic(), attempts.given_up)
    except GatewayError:  # None is left that may be tried, or has room: this verdict tells more.
        return None
    if lease is not None:
        shared.metrics.count("sluice_retries", pool.cluster, verdict.cause)
    return lease


def _repeatable(attempts: Attempts, cause: Cause) -> bool:
    """Whether the request may be sent again after this. Generating has no side effect."""
    if cause is Cause.TOO_LONG:
        return False
    return not attempts.spent

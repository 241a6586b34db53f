"""What if the first token is late: is a second endpoint quicker?

first ──────────────── after the cluster's usual time ──────── answers ─> it goes on
                          └─ second, if budget and load allow ─ answers ─> it goes on
                                                                 the other one is cancelled
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.dispatch.hedge import hedge_after, may_hedge
from gateway.dispatch.outcome import Verdict
from gateway.errors import GatewayError
from gateway.model import Outcome
from gateway.plan.table import Plan
from gateway.upstream.pool import Lease
from gateway.upstream.traits import Traits

if TYPE_CHECKING:
    from gateway.dispatch.attempts import Attempts


async def race(attempts: Attempts, plan: Plan, lease: Lease, traits: Traits) -> Verdict | None:
    """Make one attempt, and a second beside it if it is late; as `Attempts.attempt`."""
    shared, pool = attempts.shared, plan.pool
    recent = shared.recent(pool)
    started_at = shared.monotonic()
    after_s = hedge_after(pool.owner.spec.hedging, recent)
    if after_s is None or attempts.once or attempts.request.rest is not None:
        # Not so late that a second would be worth it, or it may be sent once only.
        verdict = await attempts.attempt(plan, lease)
    else:
        verdict = await _race(attempts, plan, lease, traits, after_s)
    if verdict is None:
        recent.observe(shared.monotonic() - started_at)
    return verdict


async def _race(
    attempts: Attempts, plan: Plan, lease: Lease, traits: Traits, after_s: float
) -> Verdict | None:
    rival: Attempts | None = None
    try:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(attempts.attempt(plan, lease))
            await asyncio.wait({first}, timeout=after_s)
            other = None if first.done() else _second(attempts, plan, lease, traits)
            if other is None:
                return await first
            rival = _rival(attempts)
            rival.lease = other  # Before the task runs: it may be cancelled first.
            second = group.create_task(rival.attempt(plan, other))
            running = {first, second}
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                if any(task.result() is None for task in done):
                    break
            # If both have an answer, the first one's is it: `rival.end` gives up the other.
            won = not (first.done() and first.result() is None)
            won = won and second.done() and second.result() is None
            for task in running:
                task.cancel()
        attempts.shared.metrics.count("sluice_hedges", plan.pool.cluster, "won" if won else "lost")
        if won:
            failed = first.result() if first not in running else None
            if failed is not None:
                attempts.settle(failed, failed.outcome)
            _adopt(attempts, rival)
            return None
        failed = second.result() if second not in running else None
        if failed is not None:
            rival.settle(failed, failed.outcome)
            attempts.tried += rival.tried
            attempts.given_up += rival.given_up
        attempts.record.endpoint = lease.endpoint.id
        return first.result()
    finally:
        if rival is not None:
            rival.end(Outcome.CANCELLED)


def _second(attempts: Attempts, plan: Plan, lease: Lease, traits: Traits) -> Lease | None:
    """Claim another endpoint, if a second attempt is possible, and worth its price now."""
    shared, pool = attempts.shared, plan.pool
    now = shared.monotonic()
    gate, spec = pool.owner.gate, pool.owner.spec
    try:
        other = pool.pick(plan.model, traits, now, [*attempts.tried, lease.endpoint])
    except GatewayError:
        return None
    if other is None or may_hedge(
        spec.hedging, gate.inflight, spec.max_inflight, shared.budget(pool), now
    ):
        return other
    other.close(Outcome.CANCELLED, now)
    return None


def _rival(attempts: Attempts) -> Attempts:
    """Return what holds a second attempt beside the one under way."""
    one = attempts
    return type(one)(one.shared, one.request, one.facts, one.plan, one.record)


def _adopt(attempts: Attempts, rival: Attempts) -> None:
    """Go on with the rival's attempt, and give up the own, which was cancelled or failed."""
    lease, attempts.lease = attempts.lease, rival.lease
    rival.lease = None
    if lease is not None:
        shared, cluster = attempts.shared, attempts.record.cluster
        lease.close(Outcome.CANCELLED, shared.monotonic())
        shared.metrics.attempted(cluster, lease.endpoint.id, Outcome.CANCELLED)
    attempts.drop()
    attempts.reply, rival.reply = rival.reply, None
    attempts.delivered = rival.delivered
    if attempts.reply is not None and rival.by < attempts.by:
        attempts.reply.limit(attempts.by)  # The client was told to wait meanwhile.

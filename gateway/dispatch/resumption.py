"""How does a stream go on that broke after its client had seen some of it?

    broken ─> a way (continue or replay) at another endpoint ─┬─ new text ─> spliced: the client
                ^                                             │               sees but a pause
                ├── another endpoint: this one failed ────────┤
                └── the other way: this one was refused,  ────┘
                    or the answer became another
    no way is left, or it broke for the third time ─> the first failure, in the stream

A resume is not paid from the retry budget: a stream's load moves from an endpoint that no longer
has it, and ends with its own two tries.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

from gateway.api.resume import (
    Wishes,
    allowance,
    continue_body,
    modes,
    prefix,
    read_count,
    read_wishes,
    tokenize_body,
)
from gateway.dispatch.attempt import send
from gateway.dispatch.attempts import Again, Attempts
from gateway.dispatch.outcome import Cause, Verdict, verdict_of
from gateway.errors import GatewayError
from gateway.model import Outcome
from gateway.plan.table import Plan
from gateway.relay.delivered import Delivered, Mode
from gateway.relay.reply import Reply
from gateway.relay.resumed import DIVERGED, ResumedWatcher, length_ending
from gateway.relay.watch import ChatWatcher, Watcher
from gateway.upstream.pool import Lease, PoolFull
from gateway.upstream.traits import STREAM
from gateway.wire.guard import ResponseHead
from gateway.wire.types import UpstreamError

MAX_RESUMES = 2
"""A stream that has broken three times is not merely unlucky."""

TOKENIZE_S = 2.0
"""How long counting the tokens of a beginning may take; without an answer they are estimated."""

FULL_S = 10.0
"""How long a stream waits to go on where every endpoint is full."""

_PAUSE_S = 0.1
_REFUSED = Verdict(Cause.BROKEN)


async def resume(attempts: Attempts, broken: Reply) -> Reply | None:
    """Return a reply that goes on where `broken` ended, ready to be spliced; None: it cannot."""
    record = attempts.record
    if attempts.delivered is None or record.resumes >= MAX_RESUMES or attempts.is_over():
        return None
    if not broken.streams:
        return None  # A stream was asked for, but what came is none.
    before = attempts.delivered()
    wishes = read_wishes(attempts.request.body)
    setting, route = attempts.plan.pool.owner.spec.resume, attempts.request.route.name
    if wishes is None or not modes(setting, route, wishes, before):
        return None
    assert broken.failure is not None  # noqa: S101  it is broken
    attempts.settle(verdict_of(broken.failure, broken.lost_by), Outcome.FAILURE)
    record.first_at = record.first_at or broken.first_at
    if attempts.tried.count(attempts.tried[-1]) > 1:
        attempts.given_up.append(attempts.tried[-1])  # Or it would use up all the resumes.
    resumption = _Resumption(attempts, wishes, before)
    for plan in (attempts.plan, *attempts.fallbacks()):
        try:
            await attempts.move(plan)
        except GatewayError:
            continue  # There is no place.
        for mode in modes(plan.pool.owner.spec.resume, route, wishes, before):
            reply = await resumption.run(mode)
            result = "failed" if reply is None else "resumed"
            attempts.shared.metrics.count("sluice_resumes", plan.pool.cluster, mode, result)
            if reply is not None:
                record.resumes += 1
                return reply
    return None


class _Resumption:
    """The tries to go on with one stream."""

    def __init__(self, attempts: Attempts, wishes: Wishes, before: Delivered) -> None:
        self._attempts = attempts
        self._wishes = wishes
        self._before = before
        self._route = attempts.request.route.name
        self._prefix = prefix(self._route, before)
        self._failed = list(attempts.tried)

    async def run(self, mode: Mode) -> Reply | None:
        """Try one way, at as many endpoints as a request may; None if it does not work."""
        attempts = self._attempts
        plan = attempts.plan
        for _ in range(plan.pool.owner.spec.retries.attempts):
            lease = await self._pick(plan)
            if lease is None:
                return None
            tokens = self._prefix.tokens
            if mode is Mode.CONTINUE:
                tokens = await self._count_tokens(plan, lease)
                left = allowance(self._route, self._wishes, tokens)
                if left is not None and left <= 0:
                    attempts.lease = None
                    lease.close(Outcome.CANCELLED, attempts.shared.monotonic())
                    return self._ending()
            verdict = await attempts.attempt(plan, lease, self._again(mode, tokens))
            reply = attempts.reply
            if verdict is None and reply is not None and reply.streams:
                return reply
            if self._is_refusal(verdict, reply):
                attempts.settle(_REFUSED, Outcome.REJECTED)
                attempts.tried.pop()  # It may have the answer in another way.
                return None
            assert verdict is not None  # noqa: S101  it would be a refusal
            attempts.settle(verdict, verdict.outcome)
            self._failed.append(lease.endpoint)
            attempts.given_up.append(lease.endpoint)  # Or it would be asked until it works.
        return None

    @staticmethod
    def _is_refusal(verdict: Verdict | None, reply: Reply | None) -> bool:
        """Whether the endpoint is well, and only this way does not work with it."""
        if verdict is None or verdict.cause is Cause.TOO_LONG:
            return True
        return reply is not None and reply.failure is DIVERGED

    async def _pick(self, plan: Plan) -> Lease | None:
        """Choose an endpoint that has not failed, or else the one that did so first.

        It may be well, and only the connection have broken. But once more is enough.
        """
        attempts, monotonic = self._attempts, self._attempts.shared.monotonic
        full_until = monotonic() + FULL_S
        while not attempts.is_over():
            now = monotonic()
            try:
                lease = plan.pool.pick(plan.model, STREAM, now, self._failed)
                if lease is None:
                    lease = plan.pool.pick(plan.model, STREAM, now, attempts.given_up)
            except PoolFull:
                if now >= full_until:
                    return None
                await asyncio.sleep(_PAUSE_S)
            except GatewayError:
                return None  # None may be tried.
            else:
                if lease is not None:
                    attempts.lease = lease
                return lease
        return None

    async def _count_tokens(self, plan: Plan, lease: Lease) -> int:
        """Ask the endpoint how many tokens the text so far is; without an answer, estimate."""
        attempts, monotonic = self._attempts, self._attempts.shared.monotonic
        body = tokenize_body(plan.upstream_model, self._prefix.text)
        request = b"%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
            attempts.lines(plan, lease, "/tokenize"),
            len(body),
            body,
        )
        until = monotonic() + TOKENIZE_S
        try:
            new_reply = partial(_plain_reply, attempts, plan)
            reply = await send(lease.client, request, new_reply, monotonic, until)
        except UpstreamError:
            return self._prefix.tokens
        if not reply.ended:
            reply.cancel()
        count = read_count(reply.body) if reply.status == 200 else None
        return self._prefix.tokens if count is None else count

    def _again(self, mode: Mode, tokens: int) -> Again:
        attempts = self._attempts
        request = attempts.request
        if mode is Mode.CONTINUE:
            text = self._prefix.text
            body = continue_body(request.body, self._route, self._wishes, text, tokens)
            request = replace(request, body=body)
        seam = self._prefix.seam if mode is Mode.CONTINUE else ""

        def watch(strip_usage: bool) -> Watcher:
            watcher = ResumedWatcher(
                self._before, mode, strip_usage=strip_usage, tokens=tokens, seam=seam
            )
            attempts.delivered = watcher.delivered
            return watcher

        return Again(request, watch, names=bool(self._before.model))

    def _ending(self) -> Reply:
        """Return what ends a stream that has had every token that was asked for."""
        attempts = self._attempts
        reply = _plain_reply(attempts, attempts.plan)
        reply.head(ResponseHead(200, b"", b"text/event-stream", streams=True, length=None))
        events = length_ending(self._before, chat=self._route == "chat", usage=None)
        reply.data(events, last=True)
        return reply


def _plain_reply(attempts: Attempts, plan: Plan) -> Reply:
    """Make a reply that no engine's stream is to be resumed from, and make it known."""
    series = attempts.record.series
    assert series is not None  # noqa: S101  there is a plan
    gaps, monotonic = series.inter_token, attempts.shared.monotonic
    reply = Reply(partial(ChatWatcher, 1, strip_usage=False), plan.rename, gaps, monotonic)
    attempts.reply = reply
    return reply

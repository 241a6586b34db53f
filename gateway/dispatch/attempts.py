"""What does one request hold while endpoints are asked for it, and how is one of them asked?

The place in its cluster, the lease of the attempt under way, and what its client has seen: all of
it is given back in `Attempts.end`, whatever happens. Which endpoint comes next is decided in
`gateway.dispatch.first`; how a stream goes on that broke, in `gateway.dispatch.resumption`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from gateway.admit.gate import Gate
from gateway.admit.ticket import read_priority
from gateway.api.body import Facts, has_effect
from gateway.api.prepare import outgoing
from gateway.api.routes import watcher_for
from gateway.dispatch.attempt import send, send_streaming
from gateway.dispatch.backoff import retry_after
from gateway.dispatch.blame import blame, is_out_of_patience
from gateway.dispatch.outcome import UNSENT, Cause, Verdict, judge, verdict_of
from gateway.dispatch.shared import Shared
from gateway.model import Kind, Outcome
from gateway.plan.table import Plan
from gateway.relay.delivered import Delivered
from gateway.relay.reply import WHOLE_BYTES, Reply
from gateway.relay.transcript import Transcript
from gateway.relay.watch import Watcher
from gateway.telemetry.record import Record
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.pool import Lease
from gateway.wire.types import Request, UpstreamError

OVERLOAD_S = 1.0
"""How long an endpoint that refused for load, without saying for how long, comes after others."""

MAX_OVERLOAD_S = 60.0
"""The longest that one is left alone; openai-python takes a longer Retry-After for a mistake."""

_NEVER_AGAIN = frozenset({Cause.DEAF, Cause.SILENT, Cause.REFUSED})
"""What a second try at the same endpoint would only repeat, after as long a wait."""

_TIMED_OUT = frozenset({Cause.DEAF, Cause.SILENT})
_COMES_LATER = frozenset({Cause.OVERLOADED, Cause.LIMITED, Cause.UNREADY})
_SUCCESS = Outcome.SUCCESS  # To reach it through its class takes 0.1 µs in Python 3.11.


@dataclass(frozen=True, slots=True)
class Again:
    """What is asked for when a stream has broken, in place of what the client asked for."""

    request: Request
    watch: Callable[[bool], Watcher]
    """Makes the watcher of the new stream; told whether the usage chunk was our own wish."""
    names: bool
    """Whether it writes the name of the model, too: the one that the stream began with."""


class Attempts:
    """All attempts of one request, one after the other."""

    __slots__ = (
        "by",
        "delivered",
        "entered_at",
        "facts",
        "gate",
        "given_up",
        "lease",
        "once",
        "plan",
        "record",
        "reply",
        "request",
        "shared",
        "shown",
        "spent",
        "tried",
        "until",
    )

    def __init__(
        self, shared: Shared, request: Request, facts: Facts, plan: Plan, record: Record
    ) -> None:
        self.shared = shared
        self.request = request
        self.facts = facts
        self.plan = plan
        """Whose answer it is: the model's own, or a fallback's."""
        self.record = record
        self.reply: Reply | None = None
        """The last attempt's; None where there was no connection."""
        self.shown: Reply | None = None
        """The one that the client sees."""
        self.delivered: Callable[[], Delivered] | None = None
        """Tells what the client has of a stream that might be resumed."""
        self.gate: Gate | None = None
        """Where it has a place, which `release` gives back."""
        self.entered_at = 0.0
        self.lease: Lease | None = None
        """The attempt's under way; settled when it failed, or given back when the request ends."""
        self.tried: list[Endpoint] = []
        self.given_up: list[Endpoint] = []
        head, now = request.head, record.started_at
        self.until = now + plan.pool.owner.spec.timeouts.total_s
        """When the answer must have ended (monotonic seconds)."""
        if head.total_s:
            self.until = min(self.until, now + head.total_s)
        self.once = request.route.name == "responses" and has_effect(request.body)
        """Whether it may be sent once only."""
        self.spent = False
        """Whether that has been done, or its body was passed on while it came, and is gone."""
        self.by = min(self.until, now + head.patience_s) if head.patience_s else self.until
        """When its first byte must have come."""

    def fallbacks(self) -> Iterator[Plan]:
        """Yield the plans of the fallbacks that there are at this moment."""
        plans, kinds = self.shared.table().plans, (self.request.route.kind, None)
        for name in self.plan.fallbacks:
            plan = plans.get(name)
            if plan is not None and plan is not self.plan and plan.kind in kinds:
                yield plan

    async def enter(self, gate: Gate) -> float:
        """Wait for a place in the cluster; return when it was given, in monotonic seconds."""
        head, monotonic = self.request.head, self.shared.monotonic
        since = monotonic()
        tenant = head.credentials or self.request.client.encode()
        await gate.enter(read_priority(head.priority), tenant, self.by, since)
        now = monotonic()
        self.record.queued_s += now - since
        self.gate, self.entered_at = gate, now
        return now

    async def attempt(self, plan: Plan, lease: Lease, again: Again | None = None) -> Verdict | None:
        """Make one attempt; return what is wrong with it. Its lease is held until `settle`.

        `again` is what is sent and looked for instead, to go on with a stream that broke.
        """
        try:
            reply = await self.send(plan, lease, again)
        except UpstreamError as failure:
            return verdict_of(failure)
        return self.judge(plan, lease, reply)

    def judge(self, plan: Plan, lease: Lease, reply: Reply) -> Verdict | None:
        """Say what is wrong with a reply that is ready."""
        if reply.failure is None and reply.status < 300:
            lease.committed(self.shared.monotonic())
            return None
        return judge(reply, own_credentials=not plan.pool.owner.spec.forward_authorization)

    def send(
        self, plan: Plan, lease: Lease, again: Again | None = None
    ) -> Coroutine[Any, Any, Reply]:
        """Put the request to the endpoint; the reply is ready when this has been awaited.

        Awaiting it raises `UpstreamError` where there is no connection. The lease is held until
        `settle`. This and `judge` are what `attempt` does; a coroutine of its own costs 0.5 µs.
        """
        self.lease = lease
        facts, record = self.facts, self.record
        record.attempts += 1
        record.cluster, record.endpoint = plan.pool.cluster, lease.endpoint.id
        if self.reply is not None:
            self.drop()
        request = self.request if again is None else again.request
        path, rare = request.route.path, request.head.total_s
        if rare or plan.pool.owner.spec.forward_authorization:
            lines = self.lines(plan, lease, path)
        else:
            lines = lease.client.head(path)
        out = outgoing(request, facts, plan, record.request_id, lines)
        kept: Transcript | None = None
        if facts.stream is True and again is None and self._may_be_resumed(plan):
            kept = Transcript()
            self.delivered = kept.state

        def watch() -> Watcher:
            if again is not None:
                return again.watch(out.strips_usage)
            return watcher_for(request.route, facts, strip_usage=out.strips_usage)

        assert record.series is not None  # noqa: S101  there is a plan
        gaps, monotonic = record.series.inter_token, self.shared.monotonic
        # A fallback's engine may know its model by the very name that the client has.
        rename = None if again is not None and again.names else plan.rename

        def new_reply() -> Reply:
            self.reply = reply = Reply(watch, rename, gaps, monotonic, kept)
            if rename is not None and request.route.kind is Kind.VISION:
                reply.hold_bytes = WHOLE_BYTES  # The model to rename stands behind the outputs.
            return reply

        if out.rest is None:
            return send(lease.client, out.data, new_reply, monotonic, self.by, self.once)
        return send_streaming(lease.client, out.data, out.rest, new_reply, monotonic, self.by)

    def _may_be_resumed(self, plan: Plan) -> bool:
        route, spec = self.request.route, plan.pool.owner.spec
        return route.injects_usage and spec.resume != "off" and self.facts.choices == 1

    def lines(self, plan: Plan, lease: Lease, path: str) -> bytes:
        """Return the request line and the fields that stand before the client's own."""
        head = self.request.head
        lines = lease.client.head(path)
        if plan.pool.owner.spec.forward_authorization:
            lines += head.credentials
        if head.total_s:
            left_ms = max(1, (self.until - self.shared.monotonic()) * 1000)
            lines += b"x-request-timeout-ms: %d\r\n" % left_ms
        return lines

    async def move(self, plan: Plan) -> None:
        """Go on with another plan's cluster. Raises `GatewayError` if it has no place."""
        if plan is not self.plan:
            self.change(plan)
            await self.enter(plan.pool.owner.gate)

    def change(self, plan: Plan) -> None:
        """Leave the plan's cluster for another one's."""
        self.release(Outcome.REJECTED)
        self.plan = plan
        self.tried, self.given_up = [], []

    def relax(self) -> None:
        """The client has its first byte: what its SDK waits for that ends no more."""
        if self.by < self.until:
            self.by = self.until
            if self.reply is not None:
                self.reply.limit(self.until)

    def drop(self) -> None:
        """Let go of the last reply; an engine whose failure has no end is not listened to."""
        reply, self.reply = self.reply, None
        if reply is not None and not reply.ended:
            reply.cancel()

    def settle(self, verdict: Verdict, outcome: Outcome) -> None:
        """Give the lease back after an attempt that failed."""
        lease, self.lease = self.lease, None
        assert lease is not None  # noqa: S101  an attempt has one
        now, endpoint = self.shared.monotonic(), lease.endpoint
        if self.reply is not None and self.reply.failure is not None:
            self.record.broke(cut=self.reply.failure.cut)
        if verdict.cause not in UNSENT:
            self.spent = self.spent or self.once or self.request.rest is not None
        if verdict.cause in _TIMED_OUT and is_out_of_patience(self):
            outcome = Outcome.CANCELLED
        lease.close(outcome, now)
        result = verdict.error.code if verdict.error is not None else str(outcome)
        self.shared.metrics.attempted(self.record.cluster, endpoint.id, result)
        self.tried.append(endpoint)
        if verdict.cause in _NEVER_AGAIN:
            self.given_up.append(endpoint)
        if verdict.cause is Cause.LEAVING:
            endpoint.leave(now)
        elif verdict.cause in _COMES_LATER:
            endpoint.shun(now + min(self.asked_to_wait() or OVERLOAD_S, MAX_OVERLOAD_S))

    def asked_to_wait(self) -> float | None:
        """Return how long the last engine that answered wants to be left alone, in seconds."""
        return None if self.reply is None else retry_after(self.reply.lines, self.shared.wall())

    def is_over(self) -> bool:
        """Whether nothing may be tried any more."""
        return self.shared.stopping or self.shared.monotonic() >= self.by

    def release(self, outcome: Outcome) -> None:
        """Give lease and place back."""
        lease, self.lease = self.lease, None
        now = self.shared.monotonic()
        if lease is not None:
            lease.close(outcome, now)
            result = self.record.error or outcome
            self.shared.metrics.attempted(self.record.cluster, lease.endpoint.id, result)
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.leave(self.entered_at, now)

    def end(self, outcome: Outcome) -> None:
        """Give back whatever is held; an engine that is still at it hears that nobody listens."""
        reply, shown = self.reply, self.shown
        if reply is not None and not reply.ended:
            reply.cancel()
        if shown is not None:
            self.record.usage = shown.usage()
            self.record.first_at = self.record.first_at or shown.first_at
        if outcome is not _SUCCESS:
            if outcome is Outcome.CANCELLED and self._is_told():
                self.record.outcome = outcome = _SUCCESS
            else:
                outcome = blame(self, outcome)
        self.release(outcome)
        self.reply = self.shown = None  # They know this object: a cycle for the collector.

    def _is_told(self) -> bool:
        """Whether the client has the whole stream, its end mark too.

        SDKs close the connection on `[DONE]`, without waiting for the response's own end, and vLLM
        sends that a moment later. Most answers would count as cancelled where that moment is long.
        """
        return self.shown is not None and self.shown is self.reply and self.shown.told

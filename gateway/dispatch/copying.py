"""How is one copy of a request asked for, and compared with the live answer?

    begun ─> picked ─> sent ─> answered ─> the live answer has ended ─> compared
      │        │         │        │              │
      └────────┴─────────┴────────┴──────────────┴─> given up: for load, because the client has
                                                     left, because it is too long, at the end

A copy is a task beside the live request and shares nothing with it but the bytes. It begins in a
later turn of the event loop than the live request, so that this one is sent first. It takes no
place in its cluster's gate, is asked for once, and is never resumed.

It leaves no trace on its endpoint but the count of requests in flight: its lease always closes as
CANCELLED, and it tells no latency. What serves copies alone today may serve clients in a minute
(a rollout), and neither should the failures of a new model open a breaker for the old one's
traffic, nor its successes hide failures. For the same reason a copy never is the one request that
a half-open breaker lets through: it might hold that place for as long as its time-out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple, Protocol

from gateway.api.body import Facts
from gateway.api.prepare import media_of, outgoing
from gateway.api.routes import watcher_for
from gateway.api.traits import traits_of
from gateway.config.policy import Mirror
from gateway.dispatch.attempt import send
from gateway.dispatch.couple import Both, Compared, figures_of, is_whole, liken
from gateway.dispatch.tap import Kept, Sink, Tap
from gateway.errors import GatewayError
from gateway.model import Body, Kind, Outcome
from gateway.plan.likeness import Figures
from gateway.plan.override import Override
from gateway.plan.table import Plan
from gateway.relay.flow import Gaps
from gateway.relay.reply import Reply
from gateway.relay.watch import Watcher
from gateway.releases.mirrored import Content, Pair
from gateway.telemetry.record import Record
from gateway.upstream.breaker import State
from gateway.upstream.pool import Lease, PoolFull
from gateway.wire.types import Downstream, Request, UpstreamError

_LOG = logging.getLogger("sluice.mirror")

INLINE_BYTES = 32 * 1024
"""Pairs up to this size are compared at once, in 0.5 ms; longer ones in a thread."""

MARK = b"x-sluice-mirror: "
"""Names the policy to the engine, so that its own log tells copies."""


class Result(StrEnum):
    """What came of a request that a mirror's rule matched."""

    COMPARED = "compared"
    FAILED = "failed"  # The copy had no whole answer, or one with a status of 500 or more.
    TOO_LONG = "too_long"  # One of the answers is longer than what is kept.
    ABANDONED = "abandoned"  # The live answer was no whole one: the client left, or it failed.
    YIELDED = "yielded"  # Live requests needed the room.
    FULL = "full"  # `max_concurrency` copies were under way.
    UNAVAILABLE = "unavailable"  # No endpoint of the target was well.
    UNFIT = "unfit"  # A body that is passed on while it comes, or that has effects.
    STOPPED = "stopped"  # The gateway is being ended.
    DEFECT = "defect"  # Ours; the log has it.


class Owner(Protocol):
    """What copies have in common, and who keeps count of them."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    heard: Callable[[Pair], None]

    @property
    def gaps(self) -> Gaps:
        """Where the times between tokens of copies go."""

    @property
    def executor(self) -> Executor:
        """Where long answers are compared."""

    def join(self, copy: Copy) -> bool:
        """Count a copy as under way at its target; False if it must yield instead."""

    def leave(self, copy: Copy) -> None:
        """It is under way no longer."""


class Order(NamedTuple):
    """What is copied, and where to. A tuple, because one is made for each copy."""

    policy: str
    epoch: int
    spec: Mirror
    plan: Plan
    override: Override | None
    request: Request
    body: bytes
    """The request's, as it was then: a policy may change it for the live one."""
    facts: Facts
    request_id: bytes
    """The live request's."""

    def __repr__(self) -> str:
        return f"<Order, {self.policy}>"  # Prompts never are in a log, in a traceback neither.


class Copy:
    """One copy and its live request."""

    __slots__ = ("_live", "_owner", "_reply", "_waiter", "order", "tap", "task", "why")

    def __init__(self, owner: Owner, order: Order, down: Downstream) -> None:
        """`down` is the live request's client."""
        self.order = order
        self.tap = Tap(down, self._told)
        """Stands between the live request and its client."""
        self.task: asyncio.Task[Result] | None = None
        """Its own; set by who starts it."""
        self.why: Result | None = None
        """Why it was given up, if it was."""
        self._owner = owner
        self._live: Record | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._reply: Reply | None = None

    def _told(self, record: Record) -> None:
        """The live request has ended. Unless it has a whole answer, the copy is for nothing."""
        if not is_whole(record):
            self.give_up(Result.ABANDONED)
            return
        self._live = record
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def give_up(self, why: Result) -> None:
        """End the copy; its engine sees a client leave."""
        if self.why is None and self.task is not None and not self.task.done():
            self.why = why
            self.task.cancel()

    def release(self) -> None:
        """The task has ended: let go of what it held, which refers to this object in its turn."""
        self.tap.kept.drop()
        self.task = self._reply = None

    async def run(self) -> Result:
        """Make the copy; return what came of it."""
        try:
            return await self._run()
        except Exception:  # A task's edge: a defect here must not become the live request's.
            _LOG.exception("the copy of %s failed", self.order.request_id.decode())
            return Result.DEFECT

    async def _run(self) -> Result:
        order, owner = self.order, self._owner
        if not owner.join(self):
            return Result.YIELDED
        try:
            now = owner.monotonic()
            lease = self._pick(now)
            if isinstance(lease, Result):
                return lease
            kept = Kept(on_full=lambda: self.give_up(Result.TOO_LONG))
            try:
                figures = await self._ask(lease, Sink(kept), now)
            finally:
                if self._reply is not None and not self._reply.ended:
                    self._reply.cancel()
                lease.close(Outcome.CANCELLED, owner.monotonic())
                order.plan.pool.owner.gate.poke()
        finally:
            owner.leave(self)
        return await self._conclude(figures, kept)

    def _pick(self, now: float) -> Lease | Result:
        order = self.order
        pool = order.plan.pool
        try:
            traits = traits_of(order.request.head, order.facts, pool)
            lease = pool.pick(order.plan.model, traits, now)
        except PoolFull:
            return Result.YIELDED
        except GatewayError:
            return Result.UNAVAILABLE
        assert lease is not None  # noqa: S101  nobody has been tried yet
        if lease.panic or lease.endpoint.breaker.state is not State.CLOSED:
            lease.close(Outcome.CANCELLED, now)
            return Result.UNAVAILABLE
        return lease

    async def _ask(self, lease: Lease, sink: Sink, now: float) -> Figures:
        """Send the copy and let its answer come to the end; whatever that is, it is told."""
        order, monotonic = self.order, self._owner.monotonic
        data = self._data(lease)
        try:
            reply = await send(
                lease.client, data, self._new_reply, monotonic, now + order.spec.timeout_s
            )
        except UpstreamError as error:
            return Figures(failure=str(error))
        if reply.failure is None:
            reply.splice(sink, b"")
            if not reply.ended:
                await reply.news()
        if reply.failure is not None:
            return Figures(reply.status, failure=reply.failure.message)
        usage = reply.usage()
        return Figures(
            reply.status,
            monotonic() - now,
            reply.first_at - now if reply.first_at else None,
            usage.completion_tokens if usage is not None else None,
        )

    def _data(self, lease: Lease) -> bytes:
        """Return the copy as its engine gets it."""
        order = self.order
        request, plan, body = replace(order.request, body=order.body), order.plan, order.body
        if order.override is not None and media_of(request) is Body.JSON:
            request.body = order.override.apply(body, request.route.name)
        lines = lease.client.head(request.route.path)
        if plan.pool.owner.spec.forward_authorization:
            lines += request.head.credentials
        lines += b"%b%b\r\n" % (MARK, order.policy.encode())
        # Engines name a request by this field: one of them may have the live one, too.
        return outgoing(request, order.facts, plan, b"mirror-" + order.request_id, lines).data

    def _new_reply(self) -> Reply:
        self._reply = Reply(self._watcher, None, self._owner.gaps, self._owner.monotonic)
        return self._reply

    def _watcher(self) -> Watcher:
        return watcher_for(self.order.request.route, self.order.facts, strip_usage=False)

    async def _conclude(self, figures: Figures, kept: Kept) -> Result:
        """Wait for the live answer, compare the two and tell."""
        if self._live is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        live, tap, order = self._live, self.tap, self.order
        assert live is not None  # noqa: S101  else this task was cancelled
        tap.kept.fold()
        if tap.kept.full or kept.full:
            return Result.TOO_LONG
        reply = self._reply
        both = Both(
            order.request.route.name,
            order.body,
            figures_of(live),
            figures,
            (tap.kept, kept),
            (live.stream, reply is not None and reply.streams),
        )
        if tap.kept.size + kept.size > INLINE_BYTES:
            loop = asyncio.get_running_loop()
            compared = await loop.run_in_executor(self._owner.executor, liken, both)
        else:
            compared = liken(both)
        self._tell(live, both, compared)
        failed = figures.failure or figures.status >= 500
        return Result.FAILED if failed else Result.COMPARED

    def _tell(self, live: Record, both: Both, compared: Compared) -> None:
        order = self.order
        content = None
        if order.spec.log_content:
            seen = order.request.route.kind is Kind.VISION  # Images are in no log and no report.
            prompt = "" if seen else order.body.decode(errors="replace")
            content = Content.of(prompt, compared.live, compared.copy)
        pair = Pair(
            order.policy,
            order.epoch,
            live.request_id.decode(),
            live.model,
            live.route,
            self._owner.wall(),
            both.live,
            both.copy,
            compared.likeness,
            content,
        )
        self._owner.heard(pair)

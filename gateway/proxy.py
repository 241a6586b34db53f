"""What happens to one data-plane request, from its arrival to its one outcome?

`Proxy.serve` is the whole way; each stage is another module, and none of them knows the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random

from gateway.api.body import Facts
from gateway.api.prepare import facts_of, upstream_body
from gateway.api.routes import watcher_for
from gateway.clock import Clock
from gateway.dispatch.attempt import Attempt, send
from gateway.dispatch.outcome import error_of, judge, outcome_of
from gateway.errors import GatewayError, internal_error
from gateway.model import Outcome
from gateway.plan.table import Plan, Table
from gateway.relay.reply import Reply
from gateway.telemetry.record import Record, Recorder
from gateway.upstream.pool import Lease
from gateway.wire.guard import response_lines
from gateway.wire.types import Downstream, Request, UpstreamError

_LOG = logging.getLogger("sluice.proxy")

# A proxy in front of us must not buffer events (nginx honours the second field).
_STREAM_LINES = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"


class Proxy:
    """The data plane's core: one instance serves every connection of a process."""

    def __init__(
        self,
        table: Callable[[], Table],
        recorder: Recorder,
        clock: Clock,
        rng: Random,
        max_json_depth: int,
    ) -> None:
        self._table = table
        self._recorder = recorder
        self._monotonic = clock.monotonic
        self._rng = rng
        self._max_json_depth = max_json_depth

    async def serve(self, request: Request, down: Downstream) -> None:
        """Answer one request: the engine's whole answer, or one honest error."""
        given = request.head.request_id
        request_id = given or b"%032x" % self._rng.getrandbits(128)
        record = Record(request.route.name, request_id.decode(), request.client, self._monotonic())
        try:
            await self._answer(request, down, record)
        except GatewayError as error:
            self._refuse(error, request, down, record)
        except Exception:  # The outermost edge: a defect must not become a hanging client.
            _LOG.exception("request %s failed", record.request_id)
            self._refuse(internal_error(), request, down, record)
        finally:
            self._recorder.finish(record)

    async def _answer(self, request: Request, down: Downstream, record: Record) -> None:
        facts = await facts_of(request, self._max_json_depth)
        plan = self._plan(facts, record)
        with plan.pool.pick(plan.model) as lease:
            record.endpoint = lease.endpoint.id
            attempt = await self._send(request, facts, plan, lease, record)
            try:
                await self._relay(attempt, plan, request, down, record)
            finally:
                attempt.cancel()

    def _plan(self, facts: Facts, record: Record) -> Plan:
        model = facts.model or ""
        plan = self._table().lookup(model)
        record.model = plan.model
        record.series = self._recorder.metrics.series(plan.label, record.route)
        return plan

    async def _send(
        self, request: Request, facts: Facts, plan: Plan, lease: Lease, record: Record
    ) -> Attempt:
        route, head = request.route, request.head
        series = record.series
        assert series is not None  # noqa: S101  set by _plan
        body, strips_usage = upstream_body(request, facts, plan)
        lines = lease.client.head(route.path)
        if head.authorization is not None and plan.pool.forward_authorization:
            lines += b"authorization: %b\r\n" % head.authorization
        data = b"%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b" % (
            lines,
            head.forward,
            record.request_id.encode(),
            len(body),
            body,
        )

        def new_reply() -> Reply:
            watcher = watcher_for(route, facts, strip_usage=strips_usage)
            return Reply(watcher, plan.rename, series.inter_token, self._monotonic)

        metrics = self._recorder.metrics
        result = "cancelled"
        try:
            attempt = await send(lease.client, data, new_reply, self._monotonic)
            error = judge(attempt.reply, own_credentials=not plan.pool.forward_authorization)
            result = "ok" if error is None else error.code
        except UpstreamError as failure:
            error = error_of(failure)
            result = error.code
        finally:
            metrics.attempted(plan.pool.cluster, lease.endpoint.id, result)
        if error is not None:
            raise error
        return attempt

    async def _relay(
        self, attempt: Attempt, plan: Plan, request: Request, down: Downstream, record: Record
    ) -> None:
        reply = attempt.reply
        record.status = reply.status
        record.stream = reply.streams
        lines = b"%bx-request-id: %b\r\n" % (
            response_lines(reply.headers),
            record.request_id.encode(),
        )
        if reply.streams:
            lines += _STREAM_LINES
        try:
            reply.splice(down, lines, attempt.connection)
            await reply.finished()
        finally:
            record.first_at = reply.first_at
            record.usage = reply.usage
        failed = None if reply.failure is None else error_of(reply.failure)
        if failed is not None:
            record.error = failed.code
            if reply.streams:
                down.finish(failed.event(request.route.shape))
            else:
                down.abort()
        record.outcome = outcome_of(reply.status, failed, committed=True)

    def _refuse(
        self, error: GatewayError, request: Request, down: Downstream, record: Record
    ) -> None:
        record.status = error.status
        record.error = error.code
        record.outcome = outcome_of(error.status, error, committed=False)
        if down.started:
            down.abort()
            record.outcome = Outcome.FAILURE
            return
        lines = b"".join([b"%b: %b\r\n" % field for field in error.headers()])
        lines += b"x-request-id: %b\r\n" % record.request_id.encode()
        down.respond(error.status, lines, error.body(request.route.shape))

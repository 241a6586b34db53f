"""What happens to one data-plane request, from its arrival to its one outcome?

`Proxy.serve` is the whole way; each stage is another module, and none of them knows the next.
"""

from __future__ import annotations

import logging
from binascii import hexlify
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from gateway.api.body import Facts, read_json
from gateway.api.prepare import outgoing, read_form
from gateway.api.routes import watcher_for
from gateway.clock import Clock
from gateway.dispatch.attempt import send, send_streaming
from gateway.dispatch.outcome import error_of, judge, outcome_of
from gateway.errors import GatewayError, internal_error
from gateway.model import Outcome, Route
from gateway.plan.table import Plan, Table
from gateway.relay.reply import Reply
from gateway.relay.watch import Watcher
from gateway.telemetry.record import Record, Recorder
from gateway.upstream.pool import Lease
from gateway.wire.guard import Head
from gateway.wire.types import Downstream, Request, UpstreamError

_LOG = logging.getLogger("sluice.proxy")


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
        record = self._begin(request.route, request.head, request.client)
        try:
            if request.route.multipart:
                facts = await read_form(request)
            else:
                facts = read_json(request.body, self._max_json_depth)
            plan = self._plan(facts, record)
            with plan.pool.pick(plan.model) as lease:
                record.cluster, record.endpoint = plan.pool.cluster, lease.endpoint.id
                reply = await self._send(request, facts, plan, lease, record)
                try:
                    self._commit(reply, plan, down, record)
                    if not reply.ended:
                        await reply.news()
                finally:  # Also when the client has left: its engine must hear of it.
                    if not reply.ended:
                        reply.cancel()
                    record.first_at, record.usage = reply.first_at, reply.usage()
                self._conclude(reply, request, down, record)
        except UpstreamError as failure:
            self._refuse(error_of(failure), request, down, record)
        except GatewayError as error:
            self._refuse(error, request, down, record)
        except Exception:  # The outermost edge: a defect must not become a hanging client.
            _LOG.exception("request %s failed", record.request_id.decode())
            self._refuse(internal_error(), request, down, record)
        finally:
            self._recorder.finish(record)

    def _plan(self, facts: Facts, record: Record) -> Plan:
        plan = self._table().lookup(facts.model or "")
        record.model = plan.model
        record.series = self._recorder.metrics.series(plan.label, record.route)
        return plan

    def _send(
        self, request: Request, facts: Facts, plan: Plan, lease: Lease, record: Record
    ) -> Coroutine[Any, Any, Reply]:
        """Put the request to the endpoint; the reply is ready when this has been awaited."""
        series = record.series
        assert series is not None  # noqa: S101  set by _plan
        lines = lease.client.head(request.route.path)
        if plan.pool.forward_authorization:
            lines += request.head.credentials
        out = outgoing(request, facts, plan, record.request_id, lines)

        def watch() -> Watcher:
            return watcher_for(request.route, facts, strip_usage=out.strips_usage)

        def new_reply() -> Reply:
            return Reply(watch, plan.rename, series.inter_token, self._monotonic)

        if out.rest is None:
            return send(lease.client, out.data, new_reply, self._monotonic)
        return send_streaming(lease.client, out.data, out.rest, new_reply, self._monotonic)

    def _commit(self, reply: Reply, plan: Plan, down: Downstream, record: Record) -> None:
        """Show the reply to the client from here on. Raises `GatewayError` if it is no answer."""
        error = judge(reply, own_credentials=not plan.pool.forward_authorization)
        if error is not None:
            raise error
        record.status = reply.status
        record.stream = reply.streams
        reply.splice(down, b"%bx-request-id: %b\r\n" % (reply.lines, record.request_id))

    def _conclude(self, reply: Reply, request: Request, down: Downstream, record: Record) -> None:
        failed = None if reply.failure is None else error_of(reply.failure)
        if failed is not None:
            record.error = failed.code
            if reply.streams:
                down.finish(failed.event(request.route.shape))
            else:
                down.abort()
        record.outcome = outcome_of(reply.status, failed, committed=True)

    def refuse(self, route: Route, head: Head, error: GatewayError, client: str) -> bytes:
        """Record a request that never came to be served; return its answer's header lines."""
        record = self._begin(route, head, client)
        lines = self._fail(error, record)
        record.outcome = Outcome.REJECTED
        self._recorder.finish(record)
        return lines

    def _begin(self, route: Route, head: Head, client: str) -> Record:
        request_id = head.request_id or hexlify(self._rng.getrandbits(128).to_bytes(16))
        return Record(route.name, request_id, client, self._monotonic())

    def _refuse(
        self, error: GatewayError, request: Request, down: Downstream, record: Record
    ) -> None:
        lines = self._fail(error, record)
        if down.started:
            record.outcome = Outcome.FAILURE
            down.abort()
        else:
            down.respond(error.status, lines, error.body(request.route.shape))

    def _fail(self, error: GatewayError, record: Record) -> bytes:
        record.status = error.status
        record.error = error.code
        record.outcome = outcome_of(error.status, error, committed=False)
        lines = [b"%b: %b\r\n" % field for field in error.headers()]
        lines.append(b"x-request-id: %b\r\n" % record.request_id)
        return b"".join(lines)

"""What happens to one data-plane request, from its arrival to its one outcome?

`Proxy.serve` is the whole way; each stage is another module, and none of them knows the next.
"""

from __future__ import annotations

import logging
from binascii import hexlify
from random import Random

from gateway.api.body import Facts, read_json
from gateway.api.prepare import read
from gateway.api.routes import check_kind
from gateway.dispatch.attempts import Attempts
from gateway.dispatch.first import first_reply
from gateway.dispatch.mirror import Mirrors
from gateway.dispatch.outcome import error_of, outcome_of
from gateway.dispatch.pulse import Pulse
from gateway.dispatch.resumption import resume
from gateway.dispatch.shared import Shared
from gateway.dispatch.steering import steer, subject_of
from gateway.errors import GatewayError, internal_error, overloaded, shutting_down
from gateway.model import Body, Outcome, Route
from gateway.plan.table import Plan
from gateway.relay.reply import Reply
from gateway.telemetry.record import Record, Recorder
from gateway.wire.guard import Head
from gateway.wire.types import Downstream, Request

_LOG = logging.getLogger("sluice.proxy")
_JSON = Body.JSON  # To reach it through its class takes 0.1 µs in Python 3.11.


class Proxy:
    """The data plane's core: one instance serves every connection of a process."""

    def __init__(
        self,
        shared: Shared,
        recorder: Recorder,
        rng: Random,
        max_json_depth: int,
        *,
        shows_route: bool = False,
    ) -> None:
        """`shows_route`: answers tell where they came from, as `x-sluice-route`."""
        self.pulse = Pulse()
        """The streams whose clients must not wait in silence."""
        self.mirrors: Mirrors | None = None
        """Copies requests that a policy mirrors; None while nothing is copied."""
        self._shared = shared
        self._recorder = recorder
        self._monotonic = shared.monotonic
        self._rng = rng
        self._max_json_depth = max_json_depth
        self._shows_route = shows_route

    async def serve(self, request: Request, down: Downstream) -> None:
        """Answer one request: the engine's whole answer, or one honest error."""
        record = self._begin(request.route, request.head, request.client)
        attempts: Attempts | None = None
        try:
            if request.route.body is _JSON:
                facts = read_json(request.body, self._max_json_depth)
            else:
                facts = await read(request, self._max_json_depth)
            plan = self._plan(facts, request.route, record)
            if plan.junction is not None:
                down, plan, facts = self._divert(plan, request, facts, record, down)
            attempts = Attempts(self._shared, request, facts, plan, record)
            if facts.stream is True and request.route.streams:
                self.pulse.add(attempts, down)
            await first_reply(attempts)
            reply = attempts.reply
            assert reply is not None  # noqa: S101  without a reply there is an error
            self._commit(reply, attempts, down)
            if not reply.ended:
                await reply.news()
            if reply.failure is not None:
                reply = await self._resume(reply, attempts, down)
            self._conclude(reply, request, down, record)
        except GatewayError as error:
            self._refuse(error, request, down, record)
        except Exception:  # The outermost edge: a defect must not become a hanging client.
            _LOG.exception("request %s failed", record.request_id.decode())
            self._refuse(internal_error(), request, down, record)
        finally:  # Also when the client has left: its engine must hear of it.
            if attempts is not None:
                if facts.stream is True:
                    self.pulse.remove(attempts)
                attempts.end(record.outcome)
            self._recorder.finish(record)

    def _divert(
        self, plan: Plan, request: Request, facts: Facts, record: Record, down: Downstream
    ) -> tuple[Downstream, Plan, Facts]:
        """Let policies copy the request and send it elsewhere; return what holds from here on."""
        assert plan.junction is not None  # noqa: S101  without policies there is nothing to ask
        subject = subject_of(request, facts, record)
        if self.mirrors is not None and plan.junction.mirrors:
            copied = plan.junction.mirror(subject)
            if copied is not None:
                tap = self.mirrors.offer(copied, request, facts, record, down)
                if tap is not None:
                    record.told, down = tap.end, tap
        # Only now: the copy is of what the client has asked for.
        tallies = self._recorder.tallies
        plan, facts = steer(plan, subject, request, facts, record, tallies)
        if record.tally is not None:
            self._recorder.remembered.remember(record, request.head.field(b"traceparent"))
        return down, plan, facts

    def _plan(self, facts: Facts, route: Route, record: Record) -> Plan:
        if self._shared.shed_s:
            raise overloaded("The gateway has more to do than it can.", self._shared.shed_s)
        plan = self._shared.table().lookup(facts.model or "")
        record.model = plan.model
        record.series = self._recorder.metrics.series(plan.label, record.route)
        if plan.kind is not route.kind:
            check_kind(plan, route)
        return plan

    def _commit(self, reply: Reply, attempts: Attempts, down: Downstream) -> None:
        """Show the reply to the client from here on.

        Raises `GatewayError` if the client was promised a stream already, and this is none.
        """
        record = attempts.record
        attempts.shown = reply
        if down.started and not reply.streams:
            refused = 400 <= reply.status < 500
            raise GatewayError(
                reply.status if refused else 502, "upstream_error", reply.complaint(), retry=False
            )
        record.status, record.stream = reply.status, reply.streams
        lines = b"%bx-request-id: %b\r\n" % (reply.lines, record.request_id)
        if record.attempts > 1:
            lines += b"x-sluice-attempts: %d\r\n" % record.attempts
        if self._shows_route:
            lines += b"x-sluice-route: %b\r\n" % record.way.encode()
        reply.splice(down, lines)
        if attempts.by < attempts.until:
            attempts.relax()

    async def _resume(self, reply: Reply, attempts: Attempts, down: Downstream) -> Reply:
        """Let a stream that broke go on, as often as it may; return its last reply."""
        while reply.failure is not None:
            attempts.record.broke(cut=reply.failure.cut)
            following = await resume(attempts, reply)
            if following is None:
                break
            reply = attempts.shown = following
            reply.splice(down, b"")
            if not reply.ended:
                await reply.news()
        return reply

    def _conclude(self, reply: Reply, request: Request, down: Downstream, record: Record) -> None:
        failed = None
        if reply.failure is not None:
            failed = error_of(reply.failure)
            if self._shared.stopping:
                failed, record.counted = shutting_down(), Outcome.REJECTED
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
        record = Record(route.name, request_id, client, self._monotonic())
        record.generation = self._recorder.generation
        return record

    def _refuse(
        self, error: GatewayError, request: Request, down: Downstream, record: Record
    ) -> None:
        if self._shared.stopping:  # That a gateway is ended says nothing of an arm.
            error, record.counted = shutting_down(), Outcome.REJECTED
        lines = self._fail(error, record)
        if not down.started:
            down.respond(error.status, lines, error.body(request.route.shape))
            return
        record.outcome = outcome_of(200, error, committed=True)
        record.status = 200
        if record.stream:  # Nothing but comments, or whole events, have gone out.
            down.finish(error.event(request.route.shape))
        else:
            down.abort()

    def _fail(self, error: GatewayError, record: Record) -> bytes:
        record.status = error.status
        record.error = error.code
        record.outcome = outcome_of(error.status, error, committed=False)
        lines = [b"%b: %b\r\n" % field for field in error.headers()]
        lines.append(b"x-request-id: %b\r\n" % record.request_id)
        if record.attempts > 1:
            lines.append(b"x-sluice-attempts: %d\r\n" % record.attempts)
        return b"".join(lines)

"""What belongs to one request is not touched for another: connections, bodies, blame, time."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest

from gateway.dispatch.pulse import PING
from gateway.relay.reply import HOLD_BYTES
from gateway.upstream.fleet import Term
from tests.support.engine import (
    DONE,
    Script,
    Then,
    Turn,
    finish,
    response,
    stream,
    token,
)
from tests.support.failover import Failover, failover
from tests.support.raw import CutError, post
from tests.support.rig import STREAM, eventually

WHOLE = stream(token("a"), finish(), DONE)
GREEDY = {**STREAM, "temperature": 0}
ENDED_EARLY: Script = [*stream(token("a"), whole=False), Then.YIELD, b"0\r\n\r\n"]
"""A clean end of the response without an end of the answer: the connection is kept alive."""
FALLBACK = {"m": {"cluster": "pool", "fallbacks": ["o"]}}


def _field(name: bytes, value: bytes) -> bytes:
    return b'--B\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name, value)


FORM_PATH = "/v1/audio/transcriptions"
FORM_TYPE = {"Content-Type": "multipart/form-data; boundary=B"}
FORM = _field(b"model", b"m") + _field(b"file", b"s" * 40_000) + b"--B--\r\n"


def unreachable(rig: Failover, number: int) -> None:
    """Let nobody listen where an endpoint of `pool` is."""
    client = rig.gateway.clusters["pool"].clients[f"127.0.0.1:{rig.engines[number].port}"]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client.address = replace(client.address, port=unused.getsockname()[1])


async def test_a_client_that_leaves_while_its_stream_is_resumed_cuts_nobody_elses() -> None:
    """The connection of its first reply carries another client's request by then."""
    first, second = Turn(), Turn()
    async with (
        failover([ENDED_EARLY, [second, *WHOLE]], [[first, *WHOLE]]) as rig,
        rig.client() as leaving,
        rig.client() as staying,
    ):
        leaving.send(post(GREEDY))
        await rig.engines[1].wait_requests(1)  # It is being resumed there.
        rig.gateway.clusters["pool"].endpoints[1].drain()
        staying.send(post(STREAM))
        other = await rig.engines[0].wait_requests(2)
        assert other.connection == rig.engines[0].requests[0].connection
        leaving.leave()
        await rig.engines[1].requests[0].abandoned()
        second.go.set()
        answer = await staying.answer()
        assert answer.body == token("a") + finish() + DONE


# Bodies and connections.


async def test_a_form_that_was_waited_for_meets_the_endpoints_of_now() -> None:
    """Its model came last, and the endpoint that was leaving when it began is back by then."""
    form = _field(b"file", b"s" * 100) + _field(b"model", b"m") + b"--B--\r\n"
    fields = {**FORM_TYPE, "Expect": "100-continue", "Content-Length": str(len(form))}
    async with failover([[response()]]) as rig, rig.client() as client:
        cluster = rig.gateway.clusters["pool"]
        cluster.endpoints[0].leave(rig.clock.now)
        client.send(post(b"", FORM_PATH, fields))
        assert (await client.head()).status == 100  # By now it is being served.
        rig.clock.now += cluster.spec.outliers.eject_s
        client.send(form)
        assert (await client.answer()).status == 200


LARGE = b"x" * (HOLD_BYTES + 1)


async def test_a_form_that_was_passed_on_goes_to_no_fallback() -> None:
    """Its end is gone: the fallback would get the beginning alone."""
    oops = [response(b"{}", b"500 Oops")]
    async with (
        failover([oops], others=[[[response()]]], models=FALLBACK) as rig,
        rig.client() as client,
    ):
        client.send(post(FORM[:-20], FORM_PATH, {**FORM_TYPE, "Content-Length": str(len(FORM))}))
        await eventually(lambda: rig.engines[0].raw)
        client.send(FORM[-20:])
        assert (await client.answer()).status == 502
        assert not rig.others[0].requests


async def test_a_form_that_has_not_left_goes_to_the_fallback() -> None:
    """Nobody listens at the first model's endpoint."""
    async with (
        failover([[response()]], others=[[[response()]]], models=FALLBACK) as rig,
        rig.client() as client,
    ):
        unreachable(rig, 0)
        client.send(post(FORM[:-20], FORM_PATH, {**FORM_TYPE, "Content-Length": str(len(FORM))}))
        await asyncio.sleep(0.01)
        client.send(FORM[-20:])
        assert (await client.answer()).status == 200
        assert rig.others[0].requests[0].body == FORM.replace(b"\r\nm\r\n", b"\r\no\r\n")


async def test_what_is_sent_once_goes_to_no_fallback() -> None:
    """The first engine may have kept the answer before it failed."""
    body = {"model": "m", "input": "hi", "store": True}
    oops = [response(b"{}", b"500 Oops")]
    async with failover([oops], others=[[[response()]]], models=FALLBACK) as rig:
        assert (await rig.post(body, "/v1/responses")).status == 502
        assert not rig.others[0].requests


async def test_a_failed_answer_that_goes_on_and_on_is_not_listened_to() -> None:
    """Its connection ends when another endpoint is asked, not when its engine has said all."""
    endless: Script = [response(LARGE, b"500 Oops", length=2 * len(LARGE)), Then.HANG]
    async with failover([endless], [[response()]]) as rig:
        assert (await rig.post()).status == 200
        await rig.engines[0].requests[0].abandoned()


async def test_a_refusal_that_goes_on_and_on_is_shown_to_its_end() -> None:
    """It is not given up for a fallback that may have nothing better."""
    slow: Script = [response(LARGE, b"429 Slow", length=len(LARGE) + 1), Then.YIELD, b"y"]
    async with failover([slow], others=[[[response(b"", b"429 Slow")]]], models=FALLBACK) as rig:
        answer = await rig.post()
        assert (answer.status, answer.body) == (429, LARGE + b"y")


async def test_two_first_tokens_at_once_leave_one_stream() -> None:
    """The other engine sees its client leave, whichever it is."""
    first, second = Turn(), Turn()
    begun = stream(token("a"), whole=False)
    async with failover(
        [[first, *begun, Then.HANG]],
        [[second, *begun, Then.HANG]],
        cluster={"hedging": {"enabled": True}, "retries": {"budget_min_per_s": 10}},
    ) as rig:
        recent = rig.gateway.shared.recent(rig.gateway.clusters["pool"].whole())
        for _ in range(50):
            recent.observe(0.001)
        async with rig.client() as client:
            client.send(post(STREAM))
            await rig.engines[1].wait_requests(1)
            first.go.set()
            second.go.set()
            await client.head()
            await client.piece()
            await eventually(lambda: rig.open_upstream == 1)


async def test_no_comment_gets_into_an_answer_that_is_no_stream() -> None:
    """A stream was asked for, but what came has a length."""
    turn = Turn()
    script: Script = [response(LARGE, length=len(LARGE) + 1), turn, b"y"]
    async with failover([script]) as rig, rig.client() as client:
        client.send(post(STREAM))
        head = await client.head()
        async with asyncio.timeout(10):
            await turn.reached.wait()
        rig.pass_time(11)
        turn.go.set()
        assert head.header(b"content-length") == [b"%d" % (len(LARGE) + 1)]
        assert b"".join([piece async for piece in client.pieces(head)]) == LARGE + b"y"


@pytest.mark.parametrize("status", [b"200 OK", b"429 Slow Down"])
async def test_what_is_no_stream_is_not_resumed(status: bytes) -> None:
    """Its client hears of the break by the end of the connection, as with any such answer."""
    script: Script = [response(LARGE, status, length=len(LARGE) + 1), Then.YIELD, Then.RESET]
    one_try = {"retries": {"attempts": 1}}
    async with failover([script], [WHOLE], cluster=one_try) as rig, rig.client() as client:
        client.send(post({**STREAM, "temperature": 0}))
        with pytest.raises(CutError):
            await client.answer()
        assert rig.asked == [1, 0]


# Blame.


@pytest.mark.parametrize("field", ["x-request-timeout-ms", "x-stainless-timeout"])
async def test_a_clients_deadline_is_not_the_endpoints_fault(field: str) -> None:
    """Or one impatient client could take every endpoint from all others."""
    async with failover([[Then.HANG]] * 5 + [WHOLE]) as rig:
        for count in range(1, 6):
            async with asyncio.TaskGroup() as group:
                value = "10" if field == "x-stainless-timeout" else "10000"
                asking = group.create_task(rig.post(STREAM, fields={field: value}))
                await rig.engines[0].wait_requests(count)
                rig.pass_time(11)
            assert asking.result().status in {200, 504}
        endpoint = rig.gateway.clusters["pool"].endpoints[0]
        assert endpoint.state(rig.clock.now) == "healthy"
        assert endpoint.latency(True, rig.clock.now) == 0.0
        assert (await rig.post(STREAM)).body == token("a") + finish() + DONE


async def test_the_gateways_own_timer_is_the_endpoints_fault() -> None:
    """Silence for as long as the configuration lets it be silent."""
    async with failover([[Then.HANG]]) as rig:
        for count in range(1, 6):
            async with asyncio.TaskGroup() as group:
                group.create_task(rig.post(fields={"x-request-timeout-ms": "300000"}))
                await rig.engines[0].wait_requests(count)
                rig.pass_time(61)
        assert rig.gateway.clusters["pool"].endpoints[0].state(rig.clock.now) == "open"


async def test_a_refusal_after_the_first_comment_is_not_the_endpoints_fault() -> None:
    """400 is the client's, however late it is said."""
    refused: Script = [response(b'{"error":{"message":"bad field"}}', b"400 Bad Request")]
    turns = [Turn() for _ in range(5)]
    async with failover(*[[[turn, *refused] for turn in turns]]) as rig:
        for count, turn in enumerate(turns, 1):
            async with rig.client() as client:
                client.send(post(STREAM))
                await rig.engines[0].wait_requests(count)
                rig.pass_time(10)
                turn.go.set()
                assert b"bad field" in (await client.answer()).body
        assert rig.metric("sluice_requests_total", model="m", outcome="rejected") == 5
        assert rig.gateway.clusters["pool"].endpoints[0].state(rig.clock.now) == "healthy"


async def test_a_fallbacks_latency_begins_with_the_fallback() -> None:
    """Not with the request, which the first model had kept for a minute."""
    async with failover(
        [[Then.HANG]], others=[[[response()]]], models=FALLBACK, cluster={"max_inflight": 9}
    ) as rig:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(rig.post())
            await rig.engines[0].wait_requests(1)
            rig.pass_time(61)
        assert asking.result().status == 200
        other = rig.gateway.clusters["other"]
        assert other.endpoints[0].latency(False, rig.clock.now) < 1
        assert other.gate.drain_rate(rig.clock.now) > 1


async def test_an_engine_cannot_ask_to_be_left_alone_for_a_day() -> None:
    """Past a minute it is taken for a mistake, as openai-python does."""
    busy: Script = [response(b"{}", b"503 Busy", [(b"retry-after", b"86400")])]
    async with failover([busy], [[response()]]) as rig:
        assert (await rig.post()).status == 200
        assert rig.gateway.clusters["pool"].endpoints[0].shunned_until <= rig.clock.now + 60


# Time.


async def test_who_was_promised_a_stream_may_wait_for_the_quicker_of_two() -> None:
    """The second attempt of a race is not held to a patience that the first comment has ended."""
    turn = Turn()
    async with failover(
        [[Then.HANG]],
        [[turn, *stream(token("a"), whole=False), Then.HANG]],
        cluster={"hedging": {"enabled": True}, "retries": {"budget_min_per_s": 10}},
    ) as rig:
        recent = rig.gateway.shared.recent(rig.gateway.clusters["pool"].whole())
        for _ in range(50):
            recent.observe(0.001)
        async with rig.client() as client:
            client.send(post(STREAM, fields={"x-stainless-timeout": "15"}))
            await rig.engines[1].wait_requests(1)
            rig.pass_time(10)
            await client.head()
            assert await client.piece() == PING
            turn.go.set()
            assert await client.piece() == token("a")
            rig.pass_time(6)
            assert rig.inflight == 2


# Numbers.


async def test_an_endpoint_that_is_gone_takes_its_numbers_with_it() -> None:
    """Endpoints that register come and go for ever, each under another name."""
    async with failover(
        [Then.HANG], others=[[[response()]]], cluster={"registration": True}
    ) as rig:
        live, (other,) = rig.gateway.live, rig.others
        name = live.register("pool", other.url, Term())
        endpoint = rig.gateway.clusters["pool"].endpoints[1]
        endpoint.probed(True, rig.clock.now - 3600)
        rig.gateway.clusters["pool"].endpoints[0].drain()
        assert (await rig.post()).status == 200
        attempts = "sluice_upstream_attempts_total"
        assert rig.metric(attempts, cluster="pool", endpoint=name) == 1
        live.remove("pool", name)
        await eventually(lambda: rig.metric(attempts, cluster="pool", endpoint=name) == 0)

"""A request is asked for elsewhere until one endpoint answers, within bounds."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace
from typing import Any

import pytest

from tests.support.engine import (
    DEEP,
    DONE,
    Script,
    Then,
    Turn,
    event,
    finish,
    response,
    stream,
    token,
)
from tests.support.failover import failover
from tests.support.raw import post
from tests.support.rig import CHAT, STREAM, read_event

ANSWER = [response(b'{"answer":1}')]
EFFECT = {"model": "m", "input": "hi", "store": True}
STREAMED = stream(token("hi"), finish(), DONE)
ABORTED = stream(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "abort"}]}))


def error(status: bytes, message: str = "no", **fields: str) -> list[bytes]:
    body = json.dumps({"error": {"message": message, "code": 500}}).encode()
    return [response(body, status, [(k.encode(), v.encode()) for k, v in fields.items()])]


FAILURES: dict[str, Script] = {
    "500": error(b"500 Oops"),
    "502": error(b"502 Bad Gateway"),
    "503": error(b"503 Busy"),
    "504": error(b"504 Late"),
    "429": error(b"429 Slow Down"),
    "redirect": [response(b"", b"302 Found", [(b"location", b"/x")])],
    "reset": [Then.RESET],
    "closed": [Then.CLOSE],
    "garbage": [b"HTP/9 what\r\n\r\n", Then.CLOSE],
    "error in a 200": [response(b'{"error":{"message":"oom"}}')],
    "an error without a bottom": [response(b'{"error":%b}' % DEEP)],
    "cut answer": [response(b'{"answer":', length=99), Then.CLOSE],
}
STREAM_FAILURES: dict[str, Script] = {
    "error first": stream(event({"error": {"message": "oom"}}), DONE),
    "aborted": ABORTED,
    "nothing": stream(),
    "only its end": stream(DONE),
    "not JSON": stream(event(b"{what")),
    "without a bottom": stream(event(b'{"x":%b}' % DEEP)),
    "cut before the first token": [*stream(whole=False), Then.CLOSE],
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_another_endpoint_answers(failure: Script) -> None:
    """The client sees nothing of the first one, but for a field that counts the attempts."""
    async with failover([failure], [ANSWER]) as rig:
        answer = await rig.post()
        assert (answer.status, answer.body) == (200, b'{"answer":1}')
        assert answer.header(b"x-sluice-attempts") == [b"2"]
        assert rig.asked == [1, 1]


@pytest.mark.parametrize("failure", STREAM_FAILURES.values(), ids=STREAM_FAILURES)
async def test_another_endpoint_streams(failure: Script) -> None:
    """Before the first event that says something, nothing has been promised."""
    async with failover([failure], [STREAMED]) as rig:
        answer = await rig.post(STREAM)
        assert answer.status == 200
        assert answer.body == token("hi") + finish() + DONE
        assert rig.asked == [1, 1]


async def test_an_endpoint_that_refuses_connections() -> None:
    """Not a byte was sent there, so that even what must be sent once goes elsewhere."""
    async with failover([ANSWER], [ANSWER]) as rig:
        gone = rig.gateway.clusters["pool"].clients[f"127.0.0.1:{rig.engines[0].port}"]
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            gone.address = replace(gone.address, port=unused.getsockname()[1])
            assert (await rig.post(EFFECT, "/v1/responses")).status == 200
        assert rig.asked == [0, 1]


async def test_one_answer_without_a_failure_is_one_attempt() -> None:
    """And says nothing of attempts."""
    async with failover([ANSWER], [ANSWER]) as rig:
        assert (await rig.post()).header(b"x-sluice-attempts") == []
        assert rig.asked == [1, 0]


async def test_the_only_endpoint_is_asked_again_a_little_later() -> None:
    """500 once: its next answer is as good as another endpoint's."""
    async with failover([error(b"500 Oops"), ANSWER]) as rig:
        assert (await rig.post()).status == 200
        assert rig.asked == [2]


async def test_a_silent_endpoint_is_never_asked_twice() -> None:
    """A second try would be as long a wait again."""
    async with failover([[Then.HANG]]) as rig:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(rig.post())
            received = await rig.engines[0].wait_requests(1)
            rig.pass_time(61)
            await received.abandoned()
        answer = asking.result()
        assert (answer.status, answer.code) == (504, "upstream_timeout")
        assert answer.header(b"x-should-retry") == [b"false"]
        assert rig.asked == [1]


async def test_silence_leads_elsewhere() -> None:
    """The first-token timer of the first endpoint, then the answer of the second."""
    async with failover([[Then.HANG]], [ANSWER]) as rig:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(rig.post())
            await rig.engines[0].wait_requests(1)
            rig.pass_time(61)
        assert asking.result().status == 200
        assert rig.asked == [1, 1]


async def test_attempts_are_bounded() -> None:
    """Three in all, on three endpoints of four; then an error that tells the SDK to stop."""
    async with failover(*[[error(b"500 Oops")]] * 4) as rig:
        answer = await rig.post()
        assert (answer.status, answer.code) == (502, "upstream_error")
        assert answer.header(b"x-should-retry") == [b"false"]
        assert answer.header(b"x-sluice-attempts") == [b"3"]
        assert rig.asked == [1, 1, 1, 0]


async def test_the_budget_bounds_the_retries_of_a_cluster() -> None:
    """Errors are retried from it; an endpoint that is gone is not an overload, and is not."""
    none = {"retries": {"budget_percent": 0, "budget_min_per_s": 0}}
    async with failover([error(b"500 Oops")], [ANSWER], cluster=none) as rig:
        assert (await rig.post()).status == 502
        assert rig.metric("sluice_retries_refused_total", cluster="pool") == 1
    async with failover([[Then.RESET]], [ANSWER], cluster=none) as rig:
        assert (await rig.post()).status == 200


async def test_a_limit_everywhere_is_the_engines_own_answer() -> None:
    """With its own Retry-After."""
    async with failover(*[[error(b"429 Slow", "slow down", **{"retry-after": "30"})]] * 2) as rig:
        answer = await rig.post()
        assert (answer.status, answer.json["error"]["message"]) == (429, "slow down")
        assert answer.header(b"retry-after") == [b"30"]
        assert rig.asked == [1, 1]


async def test_a_short_retry_after_is_waited_for() -> None:
    """Where nobody else can take the request."""
    async with failover([error(b"429 Slow", **{"retry-after-ms": "20"}), ANSWER]) as rig:
        assert (await rig.post()).status == 200
        assert rig.asked == [2]


async def test_an_overloaded_endpoint_comes_after_the_others_and_keeps_its_breaker() -> None:
    """For as long as it asks for."""
    busy = error(b"503 Busy", **{"retry-after": "30"})
    async with failover([busy, ANSWER], [ANSWER]) as rig:
        for _ in range(4):
            assert (await rig.post()).status == 200
        assert rig.asked == [1, 4]
        endpoint = rig.gateway.clusters["pool"].endpoints[0]
        assert endpoint.breaker.state == "closed"
        rig.clock.now += 31
        for _ in range(2):
            await rig.post()
        assert rig.asked[0] == 2


async def test_an_engine_that_says_that_it_is_going_is_out_at_once() -> None:
    """Though its health checks are still well."""
    going = error(b"500 Oops", "cannot schedule new futures after shutdown")
    async with failover([going], [ANSWER]) as rig:
        for _ in range(4):
            assert (await rig.post()).status == 200
        assert rig.asked == [1, 4]


async def test_the_clients_deadline_ends_the_request_and_is_passed_on() -> None:
    """What is left of it goes upstream, and when it is over, the engine sees its client leave."""
    async with failover([[Then.HANG]], [[Then.HANG]]) as rig:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(rig.post(fields={"X-Request-Timeout-Ms": "2000"}))
            received = await rig.engines[0].wait_requests(1)
            assert received.header(b"x-request-timeout-ms") == [b"2000"]
            rig.pass_time(2.0)
            await received.abandoned()
        assert asking.result().status == 504
        assert rig.asked == [1, 0]


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1e9", ""])
async def test_a_deadline_that_is_none_is_refused(value: str) -> None:
    """The client meant something, and would be surprised later."""
    async with failover([ANSWER]) as rig:
        answer = await rig.post(fields={"X-Request-Timeout-Ms": value})
        assert (answer.status, answer.code) == (400, "invalid_request_error")


@pytest.mark.parametrize("field", ["x-stainless-read-timeout", "x-stainless-timeout"])
async def test_an_sdks_patience_ends_with_the_first_byte(field: str) -> None:
    """A stream that has begun may go on for longer than the SDK waits for it to begin."""
    async with failover([[Then.HANG]]) as rig:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(rig.post(fields={field: "5"}))
            received = await rig.engines[0].wait_requests(1)
            assert received.header(field.encode()) == [b"5"]
            rig.pass_time(5.0)
        assert asking.result().status == 504
    slow = [*stream(token("a"), whole=False), Then.HANG]
    async with failover([slow], cluster={"resume": "off"}) as rig, rig.client() as client:
        client.send(post(STREAM, fields={field: "5"}))
        await client.head()
        await client.piece()
        rig.pass_time(6.0)  # Over its patience, under every timer of ours.
        assert rig.inflight == 2


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (EFFECT, [1, 0]),
        ({**EFFECT, "store": False}, [1, 1]),
        ({"model": "m", "input": "x"}, [1, 1]),
    ],
)
async def test_what_has_a_side_effect_is_sent_once(body: dict[str, Any], asked: list[int]) -> None:
    """An engine that keeps an answer may have kept it before it failed."""
    async with failover([error(b"500 Oops")], [ANSWER]) as rig:
        await rig.post(body, "/v1/responses")
        assert rig.asked == asked


# Fallbacks.

FALLBACK = {"m": {"cluster": "pool", "fallbacks": ["o"]}}
NAMED = [response(b'{"model":"o","answer":1}')]


async def test_a_fallback_answers_under_its_own_name() -> None:
    """When the model's own endpoints have all failed."""
    async with failover([error(b"500 Oops")], others=[[NAMED]], models=FALLBACK) as rig:
        answer = await rig.post()
        assert (answer.status, answer.json["model"]) == (200, "o")
        assert rig.others[0].requests[0].json["model"] == "o"
        assert rig.metric("sluice_fallbacks_total", model="m", to="o") == 1


async def test_no_endpoint_at_all_is_a_reason_to_fall_back() -> None:
    """A drained one, for example."""
    async with failover([ANSWER], others=[[NAMED]], models=FALLBACK) as rig:
        rig.gateway.clusters["pool"].endpoints[0].drain()
        assert (await rig.post()).json["model"] == "o"


@pytest.mark.parametrize(("length", "status"), [(9000, 200), (4096, 400), (100, 400)])
async def test_a_prompt_that_is_too_long_goes_to_a_longer_model_only(
    length: int, status: int
) -> None:
    """The engine's own refusal is the answer where none is longer."""
    long = error(b"400 Bad Request", "This model's maximum context length is 4096 tokens.")
    lengths = {"m": 4096, "o": length}
    async with failover(
        [long], [long], others=[[NAMED]], models=FALLBACK, max_model_len=lengths
    ) as rig:
        assert (await rig.post()).status == status
        assert rig.asked == [1, 0]
        assert len(rig.others[0].requests) == (status == 200)


async def test_a_refusal_is_no_reason_to_fall_back() -> None:
    """A 400 is an answer: another model would have to refuse as well."""
    refused = error(b"400 Bad Request", "content_filter")
    async with failover([refused], others=[[NAMED]], models=FALLBACK) as rig:
        assert (await rig.post()).status == 400
        assert not rig.others[0].requests


async def test_the_first_models_failure_is_told_when_the_fallback_fails_too() -> None:
    """Whatever the fallback says."""
    async with failover(
        [error(b"500 Oops", "first")], others=[[error(b"503 Busy", "second")]], models=FALLBACK
    ) as rig:
        answer = await rig.post()
        assert answer.status == 502
        assert "first" in answer.json["error"]["message"]


async def test_a_fallbacks_limit_is_not_the_first_models() -> None:
    """Both refuse for load: what is shown is the first one's."""
    first, second = error(b"429 Slow", "first"), error(b"429 Slow", "second")
    async with failover([first], others=[[second]], models=FALLBACK) as rig:
        answer = await rig.post()
        assert (answer.status, answer.json["error"]["message"]) == (429, "first")


# Ends.


async def test_a_client_that_leaves_during_the_pause_leaves_nothing_behind() -> None:
    """Neither a lease nor a place."""
    slow = error(b"429 Slow", **{"retry-after": "5"})
    async with failover([slow]) as rig, rig.client() as client:
        client.send(post(CHAT))
        await rig.engines[0].wait_requests(1)
        await asyncio.sleep(0.01)
        # The rig asserts that nothing is held.


async def test_a_gateway_that_is_ended_says_so_and_tries_nothing_again() -> None:
    """Another gateway may take the request."""
    async with failover([[Then.HANG]], [ANSWER]) as rig:
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(rig.post())
            await rig.engines[0].wait_requests(1)
            rig.gateway.force()
        answer = asking.result()
        assert (answer.status, answer.code) == (503, "overloaded")
        assert answer.header(b"x-should-retry") == [b"true"]
        assert rig.asked == [1, 0]


async def test_places_are_waited_for_in_turn() -> None:
    """A full cluster lets a request wait; its turn comes when another one ends."""
    held = [Then.HANG]
    async with failover([held, ANSWER], cluster={"max_inflight": 1}) as rig:
        async with rig.client() as first, asyncio.TaskGroup() as group:
            first.send(post(CHAT))
            await rig.engines[0].wait_requests(1)
            waiting = group.create_task(rig.post())
            await asyncio.sleep(0.01)
            assert rig.asked == [1]
            first.leave()
        assert waiting.result().status == 200


async def test_a_full_queue_refuses_with_a_time_to_come_again() -> None:
    """At once."""
    full = {"max_inflight": 1, "queue": {"size": 0}}
    async with failover([[Then.HANG]], cluster=full) as rig, rig.client() as first:
        first.send(post(CHAT))
        await rig.engines[0].wait_requests(1)
        answer = await rig.post()
        assert (answer.status, answer.code) == (503, "overloaded")
        assert answer.header(b"x-should-retry") == [b"true"]
        assert int(answer.header(b"retry-after")[0]) >= 1


async def test_a_late_event_loop_takes_nothing_on() -> None:
    """What is under way goes on."""
    async with failover([ANSWER]) as rig:
        rig.gateway._tick(100.0, 103.0)
        answer = await rig.post()
        assert (answer.status, answer.code) == (503, "overloaded")
        assert rig.asked == [0]


async def test_a_prefill_may_take_longer_than_a_pause() -> None:
    """vLLM sends its head at once; until the first token it is `first_token_s` that counts."""
    first, second = Turn(), Turn()
    head, *tokens = stream(token("a"), token("b"), finish(), DONE)
    script: Script = [head, first, tokens[0], second, *tokens[1:]]
    timeouts = {"first_token_s": 60, "idle_s": 5, "keepalive_s": 0}
    off = {"timeouts": timeouts, "resume": "off"}
    async with failover([script], cluster=off) as rig, rig.client() as client:
        client.send(post(STREAM))
        await first.reached.wait()
        for _ in range(5):
            rig.pass_time(10)
            await asyncio.sleep(0.01)
        first.go.set()
        await client.head()
        assert await read_event(client) == token("a")
        rig.pass_time(4)  # From the first token on a pause is what it is.
        rig.pass_time(6)
        rest = b""
        while piece := await client.piece():
            rest += piece
        assert b"went silent" in rest

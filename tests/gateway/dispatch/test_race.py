"""Where hedging is on, a late first token is raced, and only one answer is shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.engine import DONE, Script, Then, Turn, finish, response, stream, token
from tests.support.failover import Failover, failover
from tests.support.raw import post
from tests.support.rig import CHAT, STREAM

HEDGED: dict[str, Any] = {"hedging": {"enabled": True}, "retries": {"budget_min_per_s": 10}}
ANSWER = stream(token("b"), finish(), DONE)


@asynccontextmanager
async def hedged(*engines: list[Script], **cluster: Any) -> AsyncIterator[Failover]:
    """A gateway that has seen many first tokens, all of them within a millisecond."""
    async with failover(*engines, cluster={**HEDGED, **cluster}) as rig:
        recent = rig.gateway.shared.recent(rig.gateway.clusters["pool"].whole())
        for _ in range(50):
            recent.observe(0.001)
        yield rig


def hedges(rig: Failover, result: str) -> float:
    return rig.metric("sluice_hedges_total", cluster="pool", result=result)


async def test_the_second_wins_and_the_first_is_cancelled_at_once() -> None:
    """Its engine sees its client leave; the breaker does not hold that against it."""
    async with hedged([[Then.HANG]], [ANSWER]) as rig:
        answer = await rig.post(STREAM)
        assert answer.body == token("b") + finish() + DONE
        await rig.engines[0].requests[0].abandoned()
        assert (rig.asked, hedges(rig, "won")) == ([1, 1], 1)
        first = rig.gateway.clusters["pool"].endpoints[0]
        assert first.state(rig.clock.now) == "healthy"


async def test_the_first_may_still_win() -> None:
    """Then the second is the one that is cancelled."""
    turn = Turn()
    async with hedged([[turn, *ANSWER]], [[Then.HANG]]) as rig, rig.client() as client:
        client.send(post(STREAM))
        await rig.engines[1].wait_requests(1)
        turn.go.set()
        assert (await client.answer()).body == token("b") + finish() + DONE
        await rig.engines[1].requests[0].abandoned()
        assert hedges(rig, "lost") == 1


async def test_a_second_that_fails_leaves_the_first_to_go_on() -> None:
    """Its failure is its own endpoint's."""
    turn = Turn()
    oops = [response(b"{}", b"500 Oops")]
    async with hedged([[turn, *ANSWER]], [oops]) as rig, rig.client() as client:
        client.send(post(STREAM))
        await rig.engines[1].wait_requests(1)
        await asyncio.sleep(0.02)
        turn.go.set()
        assert (await client.answer()).body == token("b") + finish() + DONE


async def test_where_both_fail_others_are_asked() -> None:
    """Neither of the two again."""
    oops = [response(b"{}", b"500 Oops")]
    turn = Turn()
    async with hedged([[turn, *oops]], [oops], [ANSWER]) as rig, rig.client() as client:
        client.send(post(STREAM))
        await rig.engines[1].wait_requests(1)
        await asyncio.sleep(0.02)
        turn.go.set()
        assert (await client.answer()).body == token("b") + finish() + DONE
        assert rig.asked == [1, 1, 1]


@pytest.mark.parametrize(
    ("body", "path", "cluster"),
    [
        (CHAT, "/v1/chat/completions", {}),
        ({"model": "m", "input": "x", "stream": True, "store": True}, "/v1/responses", {}),
        (STREAM, "/v1/chat/completions", {"hedging": {"enabled": False}}),
        (STREAM, "/v1/chat/completions", {"max_inflight": 1}),
        (
            STREAM,
            "/v1/chat/completions",
            {"retries": {"budget_min_per_s": 0, "budget_percent": 0}},
        ),
    ],
    ids=["no stream", "a side effect", "switched off", "too busy", "no budget"],
)
async def test_who_is_not_raced(body: dict[str, Any], path: str, cluster: dict[str, Any]) -> None:
    """It has its one attempt, however late."""
    turn = Turn()
    done = [response(b"{}", b"404 Not Found")]
    async with hedged([[turn, *done]], [ANSWER], **cluster) as rig, rig.client() as client:
        client.send(post(body, path))
        await rig.engines[0].wait_requests(1)
        await asyncio.sleep(0.02)
        turn.go.set()
        await client.answer()
        assert rig.asked == [1, 0]


async def test_a_client_that_leaves_takes_both_with_it() -> None:
    """Two engines see their client leave."""
    async with hedged([[Then.HANG]], [[Then.HANG]]) as rig:
        async with rig.client() as client:
            client.send(post(STREAM))
            await rig.engines[1].wait_requests(1)
        for engine in rig.engines:
            await engine.requests[0].abandoned()


async def test_a_raced_stream_that_breaks_is_resumed() -> None:
    """From what the winner has said, also if it broke before that was shown."""
    broken = [*stream(token("b"), whole=False), Then.YIELD, Then.RESET]
    whole = stream(token("b"), token("go on"), finish(), DONE)
    async with hedged([[Then.HANG], whole], [broken], [whole]) as rig:
        answer = await rig.post({**STREAM, "temperature": 0})
        assert answer.body.startswith(token("b"))
        assert answer.body.count(token("b")) == 1
        assert answer.body.endswith(token("go on") + finish() + DONE)
        assert hedges(rig, "won") == 1

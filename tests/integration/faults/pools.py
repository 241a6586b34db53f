"""Rows 10 and 11: do kept-alive connections and departed clients leave anything wrong behind?"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.integration.faults.figure import Figure, Scale, holds, most, none, quantile
from tests.integration.faults.stage import at_rest, gateway, left_behind, stage
from tests.integration.faults.traffic import Heard, ask, chat, failures
from tests.support.engine import STREAM_HEAD, Engine, Then, chunk, token
from tests.support.process import Served
from tests.support.raw import RawClient, post

_OURS_S = 4.0
"""When the gateway itself drops an idle connection."""


async def row_10(folder: Path, scale: Scale) -> list[Figure]:
    """Requests as far apart as the engine's keep-alive time is long, and as the gateway's own."""
    count, rounds = scale.keep_alive_connections, scale.keep_alive_rounds
    figures = []
    async with AsyncExitStack() as stack:
        runs = []
        for keep_s in (5.0, _OURS_S):
            own = folder / f"{keep_s:g}"
            own.mkdir()
            keeps = ("--keep-alive-s", str(keep_s))
            served, _ = await stack.enter_async_context(stage(own, 1, *keeps))
            runs.append(_spaced(served, keep_s, count, rounds))
        results = await asyncio.gather(*runs)
    for keep_s, answers in zip((5.0, _OURS_S), results, strict=True):
        name = (
            f"failures, {keep_s - 0.1:g} to {keep_s + 0.1:g} s apart, engine closes at {keep_s:g} s"
        )
        figures.append(none(name, failures(answers), len(answers)))
    return figures


async def _spaced(served: Served, apart_s: float, count: int, rounds: int) -> list[Heard]:
    """Send a wave of requests again and again; each lands elsewhere within ±0.1 s of the time."""
    answers = await asyncio.gather(*[ask(served.port, chat()) for _ in range(count)])
    ended = [one.ended_at for one in answers]
    for _ in range(rounds):
        moments = [at + apart_s - 0.1 + 0.2 * number / count for number, at in enumerate(ended)]
        wave = await asyncio.gather(*[_ask_at(served, moment) for moment in moments])
        ended = [one.ended_at for one in wave]
        answers += wave
    return answers


async def _ask_at(served: Served, moment: float) -> Heard:
    await asyncio.sleep(moment - time.monotonic())
    return await ask(served.port, chat())


async def row_11(folder: Path, scale: Scale) -> list[Figure]:
    """Two hundred clients leave in the middle of their streams."""
    count = 200
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            Engine([STREAM_HEAD, chunk(token("hi")), Then.HANG])
        )
        served = await stack.enter_async_context(gateway(folder, [engine.url]))
        before = await at_rest(served)
        clients = [RawClient(served.port) for _ in range(count)]
        for client in clients:
            await client.__aenter__()
            client.send(post(chat(stream=True)))
        for client in clients:
            await client.reader.readuntil(b"hi")
        left_at = time.monotonic()
        for client in clients:
            client.leave()
        gone_s = await asyncio.gather(
            *[_gone(request.left, left_at) for request in engine.requests]
        )
        leaked = await left_behind(served, before)
    return [
        holds("upstream requests", str(count), len(gone_s), ok=len(gone_s) == count),
        most("upstream cancelled, p99", 1, quantile(gone_s, 0.99), " s", scale.slack_s),
        none("left over", leaked, 3),
    ]


async def _gone(left: asyncio.Event, since: float) -> float:
    async with asyncio.timeout(20):
        await left.wait()
    return time.monotonic() - since

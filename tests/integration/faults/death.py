"""Rows 1, 2 and 23: what do clients notice of engines that die and come back?"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.integration.faults.figure import Figure, Scale, holds, most, none
from tests.integration.faults.stage import (
    Metrics,
    Sim,
    endpoints,
    gateway,
    sims,
    stage,
    until,
    until_healthy,
)
from tests.integration.faults.traffic import Heard, ask, chat, crowd, drive, failures, untyped
from tests.support.engine import DONE, Engine, finish, stream, token
from tests.support.process import Served

_TYPICAL = ("--time-to-first-token", "100ms", "--inter-token-latency", "20ms")


async def row_01(folder: Path, scale: Scale) -> list[Figure]:
    """Kill -9 one of three at 50 requests/s, half of them streams."""
    async with stage(folder, 3, *_TYPICAL) as (served, engines):
        victim = engines[0]
        load = asyncio.ensure_future(drive(served.port, 50, 7, _half_streams))
        await asyncio.sleep(2.5)
        last_tried = asyncio.ensure_future(_last_growth(served, victim.port, 4.0))
        await asyncio.sleep(0.2)
        killed_at = time.monotonic()
        victim.kill()
        answers = await load
        ejected_s = await last_tried - killed_at
    started = [one for one in answers if one.first_at is not None and one.first_at < killed_at]
    begun = {id(one) for one in started}
    fresh = [one for one in answers if id(one) not in begun]
    under_way = [one for one in started if one.ended_at > killed_at]
    return [
        none("failures among the not started", failures(fresh), len(fresh)),
        none("failures among those under way", failures(under_way), len(under_way)),
        most("ejected after", 2, ejected_s, " s", 1.0),  # Within the 4 s that are looked at.
        *await _not_resumed(folder, scale),
    ]


async def _not_resumed(folder: Path, scale: Scale) -> list[Figure]:
    """Where nothing may be resumed, each stream of the victim's has one typed error, and soon."""
    body = chat("a story", tokens=60, stream=True)
    async with stage(folder, 3, *_TYPICAL, cluster={"resume": "off"}) as (served, engines):
        begun = [asyncio.Event() for _ in range(30)]
        load = [asyncio.ensure_future(ask(served.port, body, begun=one)) for one in begun]
        await asyncio.gather(*[one.wait() for one in begun])
        at_it = await engines[0].load()
        killed_at = time.monotonic()
        engines[0].kill()
        answers = await asyncio.gather(*load)
    cut = [one for one in answers if one.failure]
    late_s = max((one.ended_at - killed_at for one in cut), default=math.nan)
    return [
        holds(
            "resume off: typed errors",
            f"{at_it}, as many as it had",
            len(cut),
            ok=len(cut) == at_it > 0 and not untyped(answers),
        ),
        most("resume off: the last of them after", 1, late_s, " s", scale.slack_s),
    ]


def _half_streams(number: int) -> dict[str, Any]:
    return chat(f"question {number}", tokens=40, stream=number % 2 == 0)


async def _last_growth(served: Served, port: int, duration_s: float) -> float:
    """Return when, within the duration, the last attempt at an endpoint was counted."""
    end = time.monotonic() + duration_s
    seen, grew_at = -1.0, time.monotonic()
    while time.monotonic() < end:
        count = (await Metrics.of(served)).attempts(port)
        if count != seen:
            seen, grew_at = count, time.monotonic()
        await asyncio.sleep(0.1)
    return grew_at


async def row_02(folder: Path, scale: Scale) -> list[Figure]:
    """An endpoint that returns is given its share slowly.

    Round robin, whose shares are even to begin with; slow start is the same for every balancer.
    """
    cluster = {
        "slow_start_s": scale.slow_start_s,
        "balancer": "round_robin",
        "health": {"interval_s": 0.3, "timeout_s": 10},
    }
    async with stage(folder, 3, cluster=cluster) as (served, engines):
        started_at = time.monotonic()
        back = engines[0]
        back.kill()
        await _until_out(served, back)
        # The others must be past their own slow start: shares are relative.
        await asyncio.sleep(max(0.0, started_at + scale.slow_start_s + 1 - time.monotonic()))
        await asyncio.to_thread(back.start)
        await until_healthy(served, 3)
        window_s, windows = scale.slow_start_s / 6, 8
        load = asyncio.ensure_future(drive(served.port, 100, windows * window_s, lambda _: chat()))
        shares = await _shares(served, back, window_s, windows)
        answers = await load
    shown = " ".join(f"{share:.0%}" for share in shares)
    return [
        holds(
            f"part of its fair share, by sixths of {scale.slow_start_s:g} s",
            "10 → 100 %",
            shown,
            ok=shares[0] <= 0.5
            and sum(shares[:3]) < sum(shares[3:6])
            and 0.8 <= sum(shares[6:]) / 2 <= 1.2,
        ),
        none("failures", failures(answers), len(answers)),
    ]


async def _shares(served: Served, back: Sim, window_s: float, count: int) -> list[float]:
    """Return which part of a third of the attempts an endpoint got in each window."""
    shares = []
    before = await Metrics.of(served)
    start = time.monotonic()
    for number in range(count):
        await asyncio.sleep(start + (number + 1) * window_s - time.monotonic())
        after = await Metrics.of(served)
        own = after.attempts(back.port) - before.attempts(back.port)
        shares.append(3 * own / max(1.0, after.attempts() - before.attempts()))
        before = after
    return shares


async def _until_out(served: Served, sim: Sim) -> None:
    async def out() -> bool:
        found = await endpoints(served)
        return not any(one["healthy"] and one["id"].endswith(f":{sim.port}") for one in found)

    await until(out)


async def row_23(folder: Path, scale: Scale) -> list[Figure]:
    """Every endpoint is dead, or only seems so, or its name is no longer known."""
    return [
        *await _all_dead(folder, scale),
        *await _panic(folder),
        *await _nameless(folder, scale),
    ]


async def _panic(folder: Path) -> list[Figure]:
    """Probes fail everywhere, and the engines answer all the same: the probes may be wrong."""
    script = stream(token("hi"), finish(), DONE)
    cluster = {"health": {"interval_s": 0.2}}
    async with AsyncExitStack() as stack:
        group = [await stack.enter_async_context(Engine(script)) for _ in range(2)]
        urls = [one.url for one in group]
        served = await stack.enter_async_context(gateway(folder, urls, cluster=cluster))
        for one in group:
            one.unwell = True

        async def unwell() -> bool:
            return not any(known["healthy"] for known in await endpoints(served))

        await until(unwell)
        answers = await crowd(served.port, 40, 4, chat(stream=True))
    return [none("failures where only probes fail", failures(answers), len(answers))]


async def _nameless(folder: Path, scale: Scale) -> list[Figure]:
    """The name of an endpoint cannot be resolved."""
    env = {"RES_OPTIONS": "timeout:1 attempts:1"}  # The library's own: 10 s for each name.
    gone = "http://gone.invalid:8000"
    async with sims(1) as (sim,):
        async with gateway(folder, [gone, sim.url], env=env, healthy=1) as served:
            beside = await crowd(served.port, 20, 4, chat())
        async with gateway(folder, [gone], env=env, healthy=0) as served:
            alone = await crowd(served.port, 4, 4, chat())
    said = sorted({one.failure for one in alone})
    return [
        none("failures where a name is gone beside a healthy endpoint", failures(beside), 20),
        holds(
            "where there is no other",
            "503 no_healthy_upstream",
            said,
            ok=said == ["503 no_healthy_upstream"],
        ),
        most("which is said within", 1, max(one.took_s for one in alone), " s", scale.noise_s),
    ]


async def _all_dead(folder: Path, scale: Scale) -> list[Figure]:
    """Honest 503s, and probes go on; the engines return: so does the service."""
    async with stage(folder, 2) as (served, engines):
        for engine in engines:
            engine.kill()
        early = await crowd(served.port, 20, 4, chat())
        for engine in engines:
            await _until_out(served, engine)
        late = await crowd(served.port, 20, 4, chat(stream=True))
        async with knocked([one.port for one in engines]) as knocks:
            await asyncio.sleep(8)
        gaps = [later - one for times in knocks for one, later in itertools.pairwise(times)]
        await asyncio.gather(*[asyncio.to_thread(one.start) for one in engines])
        back_at = time.monotonic()
        recovered_s = await _until_answered(served) - back_at
        await until_healthy(served, 2)
        after = await crowd(served.port, 40, 4, chat())
    waits = {one.header("retry-after") for one in late}
    return [
        none("answers without a word", untyped(early + late), 40),
        holds(
            "refusals",
            "503, no_healthy_upstream, Retry-After",
            f"{sorted({one.failure for one in late})}, Retry-After {sorted(map(str, waits))}",
            ok={one.failure for one in late} == {"503 no_healthy_upstream"} and None not in waits,
        ),
        most("time between two probes of a host", 5, max(gaps), " s", scale.noise_s),
        most("recovered after", 5, recovered_s, " s", scale.slack_s),
        none("failures after the return", failures(after), len(after)),
    ]


async def _until_answered(served: Served) -> float:
    async with asyncio.timeout(30):
        while True:
            answer: Heard = await ask(served.port, chat())
            if not answer.failure:
                return answer.ended_at
            await asyncio.sleep(0.05)


@asynccontextmanager
async def knocked(ports: list[int]) -> AsyncIterator[list[list[float]]]:
    """Reset every connection to these ports; yield, for each, the times at which one came."""
    times: list[list[float]] = [[] for _ in ports]
    servers = []
    for port, own in zip(ports, times, strict=True):

        def knock(
            reader: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            own: list[float] = own,
        ) -> None:
            own.append(time.monotonic())
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

        servers.append(await asyncio.start_server(knock, "127.0.0.1", port))
    try:
        yield times
    finally:
        for one in servers:
            one.close()
            await one.wait_closed()

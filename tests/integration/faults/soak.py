"""Row 25: what is left of many requests, half of which their clients abandoned?"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from contextlib import AsyncExitStack
from pathlib import Path

from tests.integration.faults.figure import Figure, Scale, holds, most, none
from tests.integration.faults.stage import at_rest, gateway, held, left_behind, sims
from tests.integration.faults.traffic import Heard, ask, chat, untyped
from tests.support.process import Served
from tests.support.raw import RawClient, post

_FAULTS = "cut-after=3,reset,error-after=2,status=500,abort-after=3,reset-after=1"
_SETTLE_S = 5.0
"""Longer than the 4 s for which idle connections to engines are kept."""
_WARM_SHARE = 0.4
"""Of the time; until then arenas, pools and buckets find their size."""


_Row = tuple[float, int]
"""A moment (monotonic seconds) and RSS (bytes)."""


async def row_25(folder: Path, scale: Scale) -> list[Figure]:
    """Half of the clients leave; of three engines one fails a fifth of its requests."""
    async with AsyncExitStack() as stack:
        good = await stack.enter_async_context(sims(2, "--inter-token-latency", "2ms"))
        failing = ("--failure-injection-rate", "20", "--failure-types", _FAULTS)
        (bad,) = await stack.enter_async_context(sims(1, *failing))
        urls = [one.url for one in [*good, bad]]
        served = await stack.enter_async_context(gateway(folder, urls))
        # A first breath, so that what is made once does not count as left over.
        await _breathe(served, 1.0)
        await asyncio.sleep(_SETTLE_S)
        start, start_bytes = await at_rest(served), held(served.pid).rss_bytes
        answers, rows = await _soak(served, scale.soak_s)
        await asyncio.sleep(_SETTLE_S)
        left, end_bytes = await left_behind(served, start), held(served.pid).rss_bytes
    figures = [
        none("left over at the end", left, len(start)),
        none("ends without a word", untyped(answers), len(answers)),
    ]
    slope = _slope_per_h(rows)
    if scale.soak_s >= 600:
        return [*figures, most("slope of RSS", 1, slope / 2**20, " MiB/h")]
    grown = (end_bytes - start_bytes) / 2**20
    return [
        *figures,
        most(f"RSS after {scale.soak_s:g} s, for want of a slope", 16, grown, " MiB"),
        holds("answers", "> 100", len(answers), ok=len(answers) > 100),
    ]


async def _soak(served: Served, duration_s: float) -> tuple[list[Heard], list[_Row]]:
    rows: list[_Row] = []

    async def watch() -> None:
        while True:
            rows.append((time.monotonic(), held(served.pid).rss_bytes))
            await asyncio.sleep(max(0.5, duration_s / 200))

    watching = asyncio.ensure_future(watch())
    try:
        answers = await _breathe(served, duration_s)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return answers, rows


async def _breathe(served: Served, duration_s: float) -> list[Heard]:
    """Keep sixteen clients busy for so long; return the last answers of those who stayed."""
    end = time.monotonic() + duration_s
    numbers = itertools.count()
    answers: list[Heard] = []

    async def client() -> None:
        while time.monotonic() < end:
            number = next(numbers)
            body = chat(f"question {number % 50}", tokens=20, stream=number % 4 < 3)
            if number % 2:
                await _leave(served.port, body, number)
            else:
                answers.append(await ask(served.port, body))

    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(client())
    return answers[-2000:]


async def _leave(port: int, body: dict[str, object], number: int) -> None:
    """Ask, and leave at once, a little later or in the middle of the answer."""
    async with RawClient(port) as client:
        client.send(post(body))
        if number % 3 == 1:
            await asyncio.sleep(0.01)
        elif number % 3 == 2:
            await client.head()
    await asyncio.sleep(0)


def _slope_per_h(rows: list[_Row]) -> float:
    """Return the growth of RSS after the warm-up in bytes an hour, by least squares."""
    kept = rows[int(_WARM_SHARE * len(rows)) :]
    if len(kept) < 3:
        return math.nan
    mean_s = sum(row[0] for row in kept) / len(kept)
    mean = sum(row[1] for row in kept) / len(kept)
    spread = sum((row[0] - mean_s) ** 2 for row in kept)
    return 3600 * sum((row[0] - mean_s) * (row[1] - mean) for row in kept) / spread

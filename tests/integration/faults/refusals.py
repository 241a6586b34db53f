"""Rows 3, 4 and 5: what do engines that refuse cost the clients, and each other?"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.integration.faults.figure import Figure, Scale, holds, most, none, quantile
from tests.integration.faults.stage import Metrics, gateway, sims
from tests.integration.faults.traffic import Heard, ask, chat, crowd, drive, failures, untyped
from tests.support.engine import Engine, response
from tests.support.process import Served

_ERROR = b'{"error":{"message":"no","type":"InternalServerError","param":null,"code":500}}'
_NEVER = {
    "breaker": {"failures": 1_000_000},
    "outliers": {"failures": 1_000_000, "min_requests": 1_000_000},
}
"""A cluster whose endpoints stay in, so that nothing but the budget restrains its retries."""


async def row_03(folder: Path, scale: Scale) -> list[Figure]:
    """One of three answers 500 in a millisecond: failing fast must not look like being fast."""
    async with AsyncExitStack() as stack:
        healthy = await stack.enter_async_context(sims(2, "--time-to-first-token", "20ms"))
        (broken,) = await stack.enter_async_context(sims(1, "--fault", "status=500"))
        urls = [broken.url, *[one.url for one in healthy]]
        served = await stack.enter_async_context(gateway(folder, urls))
        first = await crowd(served.port, 20, 4, chat())
        before = await Metrics.of(served)
        rest = await crowd(served.port, 480, 8, chat())
        after = await Metrics.of(served)
    errors = failures(first + rest)
    share = (after.attempts(broken.port) - before.attempts(broken.port)) / len(rest)
    return [
        most("client errors", 1, 100 * len(errors) / 500, " %"),
        most("its share after 20 requests", 5, 100 * share, " %"),
        holds(
            "it was tried",
            "> 0",
            f"{after.attempts(broken.port):g}",
            ok=share >= 0 and after.attempts(broken.port) > 0,
        ),
    ]


async def row_04(folder: Path, scale: Scale) -> list[Figure]:
    """All answer 500: with the defaults, and with nothing but the budget to hold retries back."""
    figures = []
    for name, cluster in (("defaults", {}), ("budget alone", _NEVER)):
        figures += await _all_broken(folder, name, cluster, scale)
    return figures


async def _all_broken(
    folder: Path, name: str, cluster: dict[str, Any], scale: Scale
) -> list[Figure]:
    rate, duration_s = 60, 4
    script = [response(_ERROR, b"500 Internal Server Error")]
    async with Engine(script) as one, Engine(script) as two, Engine(script) as three:
        group = [one, two, three]
        urls = [engine.url for engine in group]
        async with gateway(folder, urls, cluster=cluster) as served:
            since = time.monotonic()
            answers = await drive(served.port, rate, duration_s, lambda _: chat())
            took_s = time.monotonic() - since
        attempts = sum(len(engine.requests) for engine in group)
    bound = 1.2 * len(answers) + 3 + 3 * took_s
    tired = [
        one for one in answers if one.status == 502 and one.header("x-should-retry") != "false"
    ]
    return [
        Figure(
            f"attempts ({name})",
            f"≤ 1.2 x {len(answers)} requests + 3 + 3/s x {took_s:.1f} s = {bound:.0f}",
            str(attempts),
            attempts <= bound,
        ),
        most(
            f"p99 ({name})",
            1,
            quantile([one.took_s for one in answers], 0.99),
            " s",
            scale.noise_s,
        ),
        none(f"ends without a word ({name})", untyped(answers), len(answers)),
        none(f"502s that ask for more ({name})", tired, len(answers)),
    ]


async def row_05(folder: Path, scale: Scale) -> list[Figure]:
    """Two of three are overloaded, one with 429 and one with 503: elsewhere there is room."""
    wait_s, duration_s = 2, 5
    fields = [(b"retry-after", b"%d" % wait_s)]
    busy = [response(_ERROR, status, fields) for status in (b"429 Busy", b"503 Busy")]
    async with AsyncExitStack() as stack:
        limited = await stack.enter_async_context(Engine([busy[0]]))
        overloaded = await stack.enter_async_context(Engine([busy[1]]))
        (roomy,) = await stack.enter_async_context(sims(1))
        urls = [limited.url, overloaded.url, roomy.url]
        served = await stack.enter_async_context(gateway(folder, urls))
        since = time.monotonic()
        answers = await _in_line(served, duration_s)
        took_s = time.monotonic() - since
        metrics = await Metrics.of(served)
    states = open_breakers(metrics)
    seen = [len(limited.requests), len(overloaded.requests)]
    # All clients may be on their way there when the first of them is refused.
    most_seen = _CLIENTS * (1 + int(took_s // wait_s))
    return [
        none("client errors", failures(answers), len(answers)),
        none("breakers not closed", states, 3),
        holds(
            f"of {len(answers)} requests at each in {took_s:.1f} s of Retry-After: {wait_s}",
            f"1 to {most_seen}",
            seen,
            ok=all(1 <= one <= most_seen for one in seen),
        ),
    ]


_CLIENTS = 2


async def _in_line(served: Served, duration_s: float) -> list[Heard]:
    """Let each client ask 20 times a second, one after the other; return all answers."""
    end = time.monotonic() + duration_s
    answers: list[Heard] = []

    async def client() -> None:
        while time.monotonic() < end:
            answers.append(await ask(served.port, chat()))
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        for _ in range(_CLIENTS):
            group.create_task(client())
    return answers


def open_breakers(metrics: Metrics) -> list[str]:
    """Return the endpoints whose breaker is not closed, as the metrics tell it."""
    samples = metrics.labelled("sluice_endpoint_breaker_state")
    assert samples, "no sluice_endpoint_breaker_state among the metrics"
    return [
        f"{labels['endpoint']} {labels.get('state', '')}"
        for labels, value in samples
        if value and labels.get("state", "not closed") != "closed"
    ]

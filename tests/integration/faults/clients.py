"""Rows 12, 13 and 20: what can slow clients, and too many of them, do to the others?"""

from __future__ import annotations

import asyncio
import math
import resource
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from tests.integration.faults.figure import Figure, Scale, holds, most, none, quantile
from tests.integration.faults.stage import Metrics, forget_peak, gateway, held, sims, stage, until
from tests.integration.faults.traffic import PATIENCE_S, Heard, ask, chat, failures, untyped
from tests.support.engine import DONE, LAST_CHUNK, STREAM_HEAD, Engine, chunk, finish, token
from tests.support.process import Served
from tests.support.raw import post
from tests.support.toxic import Crawler

_MIB = 1 << 20
_FLOOD = [chunk(token("x" * (16 << 10)))] * 64
"""1 MiB."""
_EACH_MIB = 0.256
"""The table's: 256 MiB for 1,000 readers."""
_EACH_FLOODED_MIB = 0.35
"""When an engine floods: 64 KiB in the client's transport, a read of uvloop's (250 KiB) on top."""
_END = [chunk(finish()), chunk(DONE), LAST_CHUNK]


async def row_12(folder: Path, scale: Scale) -> list[Figure]:
    """Slow readers of long streams; others ask another cluster of the same gateway."""
    count, size = scale.slow_readers, scale.slow_stream_mib
    script = [STREAM_HEAD, *_FLOOD * size, *_END]
    request = post(chat(stream=True), fields={"Connection": "close"})
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(Engine(script))
        (sim,) = await stack.enter_async_context(sims(1))
        urls = [engine.url, sim.url]
        served = await stack.enter_async_context(gateway(folder, urls, top=_two_clusters(urls)))
        alone = await _probes(served, 3)
        forget_peak(served.pid)
        base = held(served.pid).rss_bytes
        slow = [
            await stack.enter_async_context(Crawler(served.port, request, every_s=1.0))
            for _ in range(count)
        ]
        await _until_idle(served)  # Then every buffer on the way is full.
        beside = await _probes(served, 3)
        peak = held(served.pid).peak_bytes
        under_way = sum(not one.closed for one in slow)
        held_back = (await Metrics.of(served)).total("sluice_inflight", cluster="slow")
        patient = await asyncio.gather(*[one.rest() for one in slow[:5]])
    bound = count * (_EACH_MIB if size == 1 else _EACH_FLOODED_MIB)
    cut = [
        f"{len(raw)} bytes"
        for raw in patient
        if not raw.endswith(LAST_CHUNK) or len(raw) < size * _MIB
    ]
    return [
        holds("slow readers under way", str(count), under_way, ok=under_way == count),
        holds(
            "of them with an engine that is made to wait",
            str(count) if size > 8 else "any: the kernel buffers most",
            f"{held_back:g}",
            ok=held_back == count or size <= 8,
        ),
        most(f"growth of RSS at its peak, {count} of them", bound, (peak - base) / _MIB, " MiB"),
        none("failures of others", failures(beside), len(beside)),
        *_ratios(alone, beside, scale),
        none("slow readers cut short", cut, len(patient)),
    ]


def _two_clusters(urls: Sequence[str]) -> dict[str, Any]:
    slow, quick = ({"endpoints": [{"url": url}]} for url in urls)
    # The scripted engine shares this process with all clients, and may itself fall silent for long.
    slow["timeouts"] = {"first_token_s": 300, "idle_s": 300}
    return {
        "clusters": {"slow": slow, "quick": quick},
        "models": {"m": {"cluster": "slow"}, "quick": {"cluster": "quick", "upstream_model": "m"}},
    }


async def _until_idle(served: Served) -> None:
    """Wait until the gateway has next to nothing to do for two seconds in a row."""
    looks = [math.inf] * 2

    async def idle() -> bool:
        before = held(served.pid).cpu_s
        await asyncio.sleep(1)
        looks.append(held(served.pid).cpu_s - before)
        return max(looks[-2:]) < 0.1

    await until(idle, 120)


async def _probes(served: Served, duration_s: float) -> list[Heard]:
    """Ask plainly, one request after the other."""
    end = time.monotonic() + duration_s
    answers = []
    while time.monotonic() < end:
        answers.append(await ask(served.port, {**chat(), "model": "quick"}))
        await asyncio.sleep(0.01)
    return answers


def _ratios(alone: list[Heard], beside: list[Heard], scale: Scale) -> list[Figure]:
    """Times beside a crowd as multiples of those without; what a busy machine adds is allowed.

    A tenth of it for the median: that is not moved by a process that is held up once.
    """
    figures = []
    for name, share, noise_s in (("p50", 0.5, scale.noise_s / 10), ("p99", 0.99, scale.noise_s)):
        before, after = (quantile([one.took_s for one in part], share) for part in (alone, beside))
        figures.append(
            Figure(
                f"{name} of others, times that without them",
                "≤ 2",
                f"{after / before:.2f} ({1000 * after:.1f} ms after {1000 * before:.1f} ms)",
                after <= 2 * before + noise_s,
            )
        )
    return figures


async def row_13(folder: Path, scale: Scale) -> list[Figure]:
    """Slow heads, slow bodies and slow readers, a hundred of each at a time."""
    limit_s = scale.head_timeout_s
    timers = {"head_timeout_s": limit_s, "body_timeout_s": limit_s}
    request = post(chat("slow", tokens=500, stream=True))
    head, _, body = request.partition(b"\r\n\r\n")
    kinds = {
        "slow heads": (head + b"\r\nX-a: ", b"a"),
        "slow bodies": (head + b"\r\n\r\n" + body[:10], b" "),
        "slow readers": (request, b""),
    }
    async with AsyncExitStack() as stack:
        # Others ask an engine of their own: it is the gateway that is to have time for them.
        urls = [one.url for one in await stack.enter_async_context(sims(2))]
        top = _two_clusters(urls)
        top["server"] = timers
        served = await stack.enter_async_context(gateway(folder, urls, top=top))
        alone_ms = 1000 * quantile([one.took_s for one in await _probes(served, 2)], 0.99)
        attackers = {
            name: [
                await stack.enter_async_context(Crawler(served.port, sent, trickle, every_s=1.0))
                for _ in range(scale.loris)
            ]
            for name, (sent, trickle) in kinds.items()
        }
        # One second more for each KiB of body, and the sweep's own second.
        probes = await _probes(served, limit_s + 3)
        slow = [*attackers["slow heads"], *attackers["slow bodies"]]
        with suppress(TimeoutError):
            async with asyncio.timeout(scale.slack_s):
                while not all(one.closed for one in slow):  # noqa: ASYNC110  they tell nobody
                    await asyncio.sleep(0.1)
        open_s = {name: [one.open_s for one in group] for name, group in attackers.items()}
    figures = [
        most(f"{name} closed after", limit_s, max(open_s[name]), " s", 1 + scale.slack_s)
        for name in ("slow heads", "slow bodies")
    ]
    p99_ms = 1000 * quantile([one.took_s for one in probes], 0.99)
    return [
        *figures,
        none("failures of others", failures(probes), len(probes)),
        most(
            f"p99 of others, {alone_ms:.0f} ms without them",
            100,
            p99_ms,
            " ms",
            alone_ms + 1000 * scale.noise_s,
        ),
    ]


async def row_20(folder: Path, scale: Scale) -> list[Figure]:
    """No more than 256 descriptors: a hundred streams are under way when a crowd connects."""
    long = chat("long", tokens=250, stream=True)
    async with AsyncExitStack() as stack:
        served, _ = await stack.enter_async_context(
            stage(folder, 2, "--inter-token-latency", "60ms")
        )
        resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (256, 256))
        begun = [asyncio.Event() for _ in range(100)]
        streams = [asyncio.ensure_future(ask(served.port, long, begun=one)) for one in begun]
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*[one.wait() for one in begun])
        early = [await stack.enter_async_context(Crawler(served.port, b"")) for _ in range(4)]
        async with AsyncExitStack() as crowd:
            flood = [await crowd.enter_async_context(Crawler(served.port, b"")) for _ in range(150)]
            fds = await _most_fds(served)
            before, since = held(served.pid).cpu_s, time.monotonic()
            for one in early:
                await one.send(post(chat(), fields={"Connection": "close"}))
            await asyncio.sleep(3)
            busy = (held(served.pid).cpu_s - before) / (time.monotonic() - since)
            shed = sum(one.closed for one in flood)
        relieved_at = time.monotonic()
        recovered_s = await _recovered(served) - relieved_at
        during = [Heard(False, 0.0, raw=await one.rest()) for one in early]
        answers = await asyncio.gather(*streams)
    return [
        holds("descriptors at the height", "> 250", fds, ok=fds > 250),
        holds("of 150 that connect in vain, shed at once", "> 0", shed, ok=shed > 0),
        most("CPU meanwhile", 50, 100 * busy, " % of a core"),
        none("streams under way that were lost", failures(answers), len(answers)),
        none("ends without a word of clients that were in", untyped(during), len(during)),
        most("recovered after", 2, recovered_s, " s", scale.slack_s),
    ]


async def _most_fds(served: Served) -> int:
    """Wait until the gateway has nearly all the descriptors that it may; return their number."""
    found = 0

    async def all_taken() -> bool:
        nonlocal found
        found = max(found, held(served.pid).fds)
        return found > 250

    with suppress(TimeoutError):
        await until(all_taken, 5)
    return found


async def _recovered(served: Served) -> float:
    """Return when three requests in a row were answered for the first time."""
    first, row = math.nan, 0
    end = time.monotonic() + 30
    while row < 3:
        assert time.monotonic() < end, "no recovery in 30 s"
        answer = await ask(served.port, chat(), patience_s=5)
        if answer.failure:
            row = 0
            await asyncio.sleep(0.05)
        else:
            first = answer.ended_at if row == 0 else first
            row += 1
    return first

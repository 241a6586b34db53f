"""Rows 6, 7 and 22: does each timer fire when it should, and what do the clients have of it?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import openai

from tests.integration.faults.figure import Figure, Scale, holds, most, none
from tests.integration.faults.stage import Sim, gateway, sims
from tests.integration.faults.traffic import Heard, ask, chat, failures, for_sdk
from tests.support.engine import STREAM_HEAD, Engine, Received, Script, Step, Then, chunk
from tests.support.process import Served
from tests.support.toxic import BlackHole

_QUIET = {"interval_s": 600, "timeout_s": 60}
"""Probes that come once: what is measured are the timers of requests."""


async def row_06(folder: Path, scale: Scale) -> list[Figure]:
    """A port that swallows connections; a peer that is gone in the middle of a stream."""
    return [*await _black_hole(folder, scale), *await _half_open(folder, scale)]


async def _black_hole(folder: Path, scale: Scale) -> list[Figure]:
    # Longer than the connect timer: it must be that one which fires.
    timeouts = {"connect_s": scale.connect_s, "first_token_s": scale.connect_s + 20}
    cluster = {"timeouts": timeouts, "health": _QUIET}
    async with BlackHole() as hole, sims(1) as (healthy,):
        async with gateway(folder, [hole.url], cluster=cluster) as served:
            await hole.deafen()
            alone = await ask(served.port, chat(), patience_s=scale.connect_s + 30)
        hole.hear()
        async with gateway(folder, [hole.url, healthy.url], cluster=cluster) as served:
            await hole.deafen()
            pair = await asyncio.gather(*[ask(served.port, chat()) for _ in range(8)])
    longest = max(pair, key=lambda one: one.took_s)
    return [
        _near("connect, alone", scale.connect_s, alone.took_s, scale.slack_s),
        holds("its answer", "504 upstream_timeout", alone.failure, ok=alone.error is not None),
        none("failures with another endpoint", failures(pair), len(pair)),
        holds(
            "the slowest of them went to the hole first",
            f"{scale.connect_s:g} to {scale.connect_s + 1:g} s",
            f"{longest.took_s:.2f} s",
            ok=scale.connect_s <= longest.took_s <= scale.connect_s + 1 + scale.slack_s,
        ),
    ]


async def _half_open(folder: Path, scale: Scale) -> list[Figure]:
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(sims(2, "--inter-token-latency", "20ms"))
        timeouts = {"idle_s": scale.idle_s}
        urls = [one.url for one in group]
        off = {"timeouts": timeouts, "health": _QUIET, "resume": "off"}
        served = await stack.enter_async_context(gateway(folder, urls[:1], cluster=off))
        cut = await _frozen(served, group[:1], scale)
        whole_folder = folder / "resumed"
        whole_folder.mkdir()
        on = {"timeouts": timeouts, "health": _QUIET}
        served = await stack.enter_async_context(gateway(whole_folder, urls, cluster=on))
        resumed = await _frozen(served, group, scale)
        wanted = await ask(served.port, _LONG)
    return [
        _near(
            "silence in a stream, resume off",
            scale.idle_s,
            cut.took_s,
            1 + scale.slack_s,
            early_s=min(scale.slack_s, scale.idle_s / 2),  # Its last token was some time before.
        ),
        holds("its end", "504's code in the stream", cut.failure, ok=cut.error is not None),
        holds(
            "the same with resume",
            "the whole text",
            resumed.failure or f"{len(resumed.text)} bytes",
            ok=not resumed.failure and resumed.text == wanted.text,
        ),
    ]


_LONG = chat("a long story", tokens=200, stream=True)


async def _frozen(served: Served, group: Sequence[Sim], scale: Scale) -> Heard:
    """Freeze the engine that answers in the middle; `sent_at` becomes the moment before it."""
    begun = asyncio.Event()
    asked = asyncio.ensure_future(
        ask(served.port, _LONG, begun=begun, patience_s=2 * scale.idle_s + 30)
    )
    await begun.wait()
    await asyncio.sleep(0.2)
    busy = await _busy(group)
    frozen_at = time.monotonic()
    busy.freeze()
    try:
        heard = await asked
    finally:
        busy.thaw()
    heard.sent_at = frozen_at
    return heard


async def _busy(group: Sequence[Sim]) -> Sim:
    for sim in group:
        if await sim.load():
            return sim
    raise AssertionError("no engine has a request")


async def row_07(folder: Path, scale: Scale) -> list[Figure]:
    """Silence after the head, and after some tokens."""
    async with sims(1) as (healthy,):
        async with gateway(folder, [healthy.url]) as served:
            wanted = await ask(served.port, _SHORT)
        begun = [chunk(b"data: %b\n\n" % _data(event)) for event in _events(wanted)[:6]]
        first = await _silent(folder, healthy, scale, [STREAM_HEAD, Then.HANG])
        nothing = await _silent(folder, healthy, scale, [Then.HANG])
        middle = await _silent(folder, healthy, scale, [STREAM_HEAD, *begun, Then.HANG])
    figures = []
    for name, timer_s, (answers, closed_s) in (
        ("silence before the head", scale.first_token_s, nothing),
        ("head, then silence", scale.first_token_s, first),
        ("tokens, then silence", scale.idle_s, middle),
    ):
        other = [one for one in answers if not one.failure and one.text != wanted.text]
        wrong = [*failures(answers), *["another text" for _ in other]]
        figures += [
            none(f"{name}: answers not whole", wrong, len(answers)),
            _near(
                f"{name}: its socket closed after",
                timer_s,
                max(closed_s),
                1 + scale.slack_s,
                early_s=min(scale.slack_s, timer_s / 2),  # Measured from when the request was seen.
            ),
        ]
    return figures


_SHORT = chat("a short story", tokens=30, stream=True)


def _events(heard: Heard) -> list[bytes]:
    return [line for line in heard.body[0].split(b"\n") if line.startswith(b"data: ")]


def _data(line: bytes) -> bytes:
    return line.removeprefix(b"data: ")


async def _silent(
    folder: Path, healthy: Sim, scale: Scale, script: Sequence[Step]
) -> tuple[list[Heard], list[float]]:
    """Ask six times with a silent engine beside the healthy one.

    Returns the answers, and for how long the silent one's connections stayed open.
    """
    timeouts = {"first_token_s": scale.first_token_s, "idle_s": scale.idle_s}
    # In turn: each engine is asked, however slowly the requests come.
    cluster = {"timeouts": timeouts, "health": _QUIET, "balancer": "round_robin"}
    patience_s = 2 * (scale.first_token_s + scale.idle_s) + 30
    async with _timed(script) as (silent, closed_s):
        async with gateway(folder, [silent.url, healthy.url], cluster=cluster) as served:
            asked = [ask(served.port, _SHORT, patience_s=patience_s) for _ in range(6)]
            answers = await asyncio.gather(*asked)
        assert silent.requests, "the silent engine was never asked"
    return answers, closed_s


@asynccontextmanager
async def _timed(script: Script) -> AsyncIterator[tuple[Engine, list[float]]]:
    """Run an engine; yield it and, as they end, how long its requests were held (seconds)."""
    held_s: list[float] = []

    async def one(received: Received) -> None:
        since = time.monotonic()
        await received.left.wait()
        held_s.append(time.monotonic() - since)

    async def all_of(engine: Engine, group: asyncio.TaskGroup) -> None:
        seen = 0
        while True:
            async with engine.arrived:
                await engine.arrived.wait()
            for received in engine.requests[seen:]:
                group.create_task(one(received))
            seen = len(engine.requests)

    async with Engine(script) as engine, asyncio.TaskGroup() as group:
        watching = group.create_task(all_of(engine, group))
        try:
            yield engine, held_s
        finally:
            watching.cancel()


async def row_22(folder: Path, scale: Scale) -> list[Figure]:
    """The client's own deadline of 2 s, by our header and by the SDK's."""
    async with _timed([STREAM_HEAD, Then.HANG]) as (engine, closed_s):
        async with gateway(folder, [engine.url], cluster={"health": _QUIET}) as served:
            fields = {"x-request-timeout-ms": "2000"}
            plain = await ask(served.port, chat(), fields)
            stream = await ask(served.port, chat(stream=True), fields)
            sdk = await asyncio.to_thread(_sdk_timeout, served.url)
            await asyncio.gather(*[one.abandoned() for one in engine.requests])
            await asyncio.sleep(0)  # The times are noted by others who wait for the same.
        passed = [one.header(b"x-request-timeout-ms") for one in engine.requests]
    answers = sorted({plain.failure, stream.failure})
    left = [int(values[0]) for values in passed if values]
    least_ms = 1500 - round(1000 * min(1.0, scale.noise_s))  # The gateway may have come to it late.
    return [
        most("upstream closed after", 2.2, max(closed_s), " s", scale.slack_s),
        most("answered after", 2.2, max(plain.took_s, stream.took_s), " s", scale.slack_s),
        holds(
            "the answer", "504 upstream_timeout", answers, ok=answers == ["504 upstream_timeout"]
        ),
        holds(
            "remainder that the engine is told",
            f"{least_ms} to 2000 ms, twice",
            left,
            ok=len(left) == 2 and all(least_ms <= one <= 2000 for one in left),
        ),
        holds("openai-python with timeout=2", "raises", sdk, ok=sdk in _SDK_SAYS),
    ]


_SDK_SAYS = {"APITimeoutError", "InternalServerError"}
"""Its own timer or our 504, whichever is first."""


def _sdk_timeout(url: str) -> str:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=2) as client:
        try:
            client.chat.completions.create(**for_sdk(chat()))
        except openai.APIError as error:
            return type(error).__name__
    return "nothing"


def _near(
    name: str, wanted_s: float, measured_s: float, tolerance_s: float, *, early_s: float = 0.05
) -> Figure:
    """A time that must be neither early nor late."""
    ok = wanted_s - early_s <= measured_s <= wanted_s + tolerance_s
    return Figure(name, f"{wanted_s:g} s (± {tolerance_s:g} s)", f"{measured_s:.2f} s", ok)

"""kill -9 of one of three engines under streams: no client notices, and not a letter differs."""

from __future__ import annotations

import asyncio
import os
import signal
from asyncio import Future
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from rich.console import Console

from engines.launch import Launch
from engines.supervisor import Engine, Supervisor
from tests.integration.faults.stage import Metrics, gateway, stage
from tests.integration.faults.traffic import Heard, ask, chat, failures
from tests.support.process import PATIENCE_S, Served
from tests.support.rig import eventually
from tests.support.vllm import moved, session

pytestmark = pytest.mark.integration

PATIENT = {"server": {"max_event_loop_lag_s": 60}}
"""Engines and clients on two cores keep the gateway itself waiting; that is not what is tested."""

ROUNDS = 10
"""How often the real model's engine may be done before it could be held still."""


async def test_200_streams_survive_a_simulated_engine(tmp_path: Path) -> None:
    """At least a quarter of them are at the victim; each ends with the uninterrupted text."""
    timing = ("--time-to-first-token", "50ms", "--inter-token-latency", "90ms")
    tokens = 120
    bodies = [chat(f"question {number % 20}", tokens=tokens, stream=True) for number in range(200)]
    async with stage(tmp_path, 3, *timing, top=PATIENT) as (served, engines):
        wanted = [one.text for one in await all_of(served, bodies[:20])] * 10
        begun = [asyncio.Event() for _ in bodies]
        load = asyncio.ensure_future(all_of(served, bodies, begun))
        await all_begun(begun)
        under_way = await engines[0].load()
        engines[0].kill()
        answers = await load
        metrics = await Metrics.of(served)

    assert under_way >= 50
    assert not failures(answers)
    assert [one.text for one in answers] == wanted
    assert all(reads_as_one(one, tokens) for one in answers)
    # All of the victim's had begun; a few may have ended before it did.
    assert metrics.total("sluice_resumes_total", result="resumed") >= under_way / 2


async def test_streams_survive_a_real_vllm(
    vllm_url: str, vllm_launch: Launch, tmp_path: Path
) -> None:
    """Greedy answers of a real model are the same whether their engine died or not."""
    bodies = [
        {
            **chat(f"Tell me about the number {number % 6}.", tokens=400, stream=True),
            "model": "tiny",
        }
        for number in range(24)
    ]
    top = {"models": {"tiny": {"cluster": "engines"}}, **PATIENT}
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(Supervisor(Console(width=200)))
        launches = [moved(vllm_launch, name) for name in ("victim", "other")]
        victim, other = await asyncio.gather(*[fleet.start(launch) for launch in launches])
        urls = [vllm_url, victim.url, other.url]
        shares = {"balancer": "round_robin"}  # 8 for each, however long an engine takes to begin.
        served = await stack.enter_async_context(gateway(tmp_path, urls, cluster=shares, top=top))
        wanted = [one.text for one in await all_of(served, bodies[:6])] * 4
        for _ in range(ROUNDS):
            begun = [asyncio.Event() for _ in bodies]
            load = asyncio.ensure_future(all_of(served, bodies, begun))
            await in_full_flow(victim, 6, load)
            # Held still first: between a look and a kill, a tiny model may be done.
            signal_all(victim, signal.SIGSTOP)
            if caught := await in_the_midst(served, victim, begun, 4):
                break
            signal_all(victim, signal.SIGCONT)
            assert not failures(await load)
        assert caught
        signal_all(victim, signal.SIGKILL)
        answers = await load
        assert not failures(answers)
        metrics = await Metrics.of(served)

    assert [one.text for one in answers] == wanted
    assert metrics.total("sluice_resumes_total", result="resumed") >= 4


async def all_of(
    served: Served, bodies: Sequence[dict[str, Any]], begun: Sequence[asyncio.Event] = ()
) -> list[Heard]:
    """Ask all at once; `begun` are set as the answers begin."""
    events = begun or [asyncio.Event() for _ in bodies]
    pairs = zip(bodies, events, strict=True)
    return await asyncio.gather(
        *[ask(served.port, body, begun=event, patience_s=120) for body, event in pairs]
    )


async def all_begun(begun: Sequence[asyncio.Event]) -> None:
    """Wait until all answers have; fail if one of them ends without a byte."""
    async with asyncio.timeout(120):
        await asyncio.gather(*[one.wait() for one in begun])


async def vllm_metrics(engine: Engine) -> Metrics:
    """Scrape an engine."""
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        return Metrics((await http.get(f"{engine.url}/metrics")).text)


async def in_full_flow(engine: Engine, streams: int, load: Future[list[Heard]]) -> None:
    """Wait until so many streams run there, some 30 tokens into their answers, or all is over."""
    said = (await vllm_metrics(engine)).total("vllm:generation_tokens_total")
    async with asyncio.timeout(120):
        while not load.done():
            metrics = await vllm_metrics(engine)
            running = metrics.total("vllm:num_requests_running")
            tokens = metrics.total("vllm:generation_tokens_total") - said
            if running >= streams and tokens >= 30 * running:
                return
            await asyncio.sleep(0.05)


async def in_the_midst(
    served: Served, engine: Engine, begun: Sequence[asyncio.Event], streams: int
) -> bool:
    """Whether an engine that is held still owes the rest of so many answers that have begun."""
    endpoint = urlsplit(engine.url).netloc
    owed = int((await Metrics.of(served)).total("sluice_inflight", endpoint=endpoint))
    if owed < streams:
        return False
    # All that is not owed may have begun; whatever has beyond that is of the engine's.
    needed = len(begun) - owed + streams
    try:
        await eventually(lambda: sum(one.is_set() for one in begun) >= needed, 20)
    except TimeoutError:
        return False
    return True


def reads_as_one(heard: Heard, tokens: int) -> bool:
    """Whether a stream has one id, one role and the usage of the whole answer."""
    events = [event for event in heard.events if isinstance(event, dict)]
    roles = [
        choice["delta"]["role"]
        for event in events
        for choice in event["choices"]
        if choice["delta"].get("role")
    ]
    usages = [event["usage"] for event in events if event.get("usage")]
    return (
        len({event["id"] for event in events}) == 1
        and roles == ["assistant"]
        and [usage["completion_tokens"] for usage in usages] == [tokens]
    )


def signal_all(engine: Engine, number: signal.Signals) -> None:
    """Signal the server and its engine core."""
    for pid in session(engine.pid):
        os.kill(pid, number)

"""kill -9 of one of three engines under streams: no client notices, and not a letter differs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from engines.launch import Launch, http_url
from engines.locate import free_port
from engines.supervisor import Engine, Supervisor
from tests.integration.faults.stage import Metrics, gateway, stage
from tests.integration.faults.traffic import Heard, ask, chat, failures
from tests.integration.test_vllm_death import descendants
from tests.support.process import Served

pytestmark = pytest.mark.integration


async def test_200_streams_survive_a_simulated_engine(tmp_path: Path) -> None:
    """At least a quarter of them are at the victim; each ends with the uninterrupted text."""
    timing = ("--time-to-first-token", "50ms", "--inter-token-latency", "25ms")
    bodies = [chat(f"question {number % 20}", tokens=60, stream=True) for number in range(200)]
    async with stage(tmp_path, 3, *timing) as (served, engines):
        wanted = [one.text for one in await all_of(served, bodies[:20])] * 10
        load = asyncio.ensure_future(all_of(served, bodies))
        await asyncio.sleep(0.8)
        under_way = await engines[0].load()
        engines[0].kill()
        answers = await load
        metrics = await Metrics.of(served)

    assert under_way >= 50
    assert not failures(answers)
    assert [one.text for one in answers] == wanted
    assert all(reads_as_one(one, 60) for one in answers)
    # Most of the victim's had begun; those whose first token had not come were simply retried.
    assert metrics.total("sluice_resumes_total", result="resumed") >= under_way / 2


async def test_streams_survive_a_real_vllm(vllm_launch: Launch, tmp_path: Path) -> None:
    """Greedy answers of a real model are the same whether their engine died or not."""
    tokens = 150
    bodies = [
        {**chat(f"Tell me about the number {number % 6}.", tokens=tokens, stream=True), "seed": 1}
        for number in range(24)
    ]
    bodies = [{**body, "model": "tiny"} for body in bodies]
    models = {"models": {"tiny": {"cluster": "engines"}}}
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(Supervisor(Console(width=200)))
        engines = [await fleet.start(at_free_port(vllm_launch, name)) for name in "abc"]
        urls = [engine.url for engine in engines]
        served = await stack.enter_async_context(gateway(tmp_path, urls, top=models))
        wanted = [one.text for one in await all_of(served, bodies[:6])] * 4
        load = asyncio.ensure_future(all_of(served, bodies))
        await until_flowing(served, 10)
        kill(engines[0])
        answers = await load
        metrics = await Metrics.of(served)

    assert not failures(answers)
    assert [one.text for one in answers] == wanted
    assert metrics.total("sluice_resumes_total", result="resumed") >= 1


async def all_of(served: Served, bodies: Sequence[dict[str, Any]]) -> list[Heard]:
    return await asyncio.gather(*[ask(served.port, body, patience_s=60) for body in bodies])


async def until_flowing(served: Served, streams: int) -> None:
    """Wait until so many streams have had their first token."""
    async with asyncio.timeout(60):
        before = await first_tokens(served)
        while await first_tokens(served) < before + streams:  # noqa: ASYNC110  another process
            await asyncio.sleep(0.05)


async def first_tokens(served: Served) -> float:
    name = "sluice_time_to_first_token_seconds_count"
    return (await Metrics.of(served)).total(name)


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


def at_free_port(launch: Launch, name: str) -> Launch:
    port = free_port("127.0.0.1")
    argv = list(launch.argv)
    argv[argv.index("--port") + 1] = str(port)
    return replace(launch, name=name, argv=tuple(argv), url=http_url("127.0.0.1", port))


def kill(engine: Engine) -> None:
    """SIGKILL to the server and to its engine core."""
    for pid in {engine.pid, *descendants(engine.pid)}:
        os.kill(pid, signal.SIGKILL)

"""The last of the catalogue: what does the SDK notice of a provider that comes and goes?"""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

from openai import APIError, AsyncOpenAI

from tests.integration.faults.figure import Figure, Scale, most, none, quantile
from tests.integration.faults.stage import MODEL, gateway
from tests.support.provider import ANSWER, HEALTHY, Fault, Provider, serving

_BUSY = {"message": "Overloaded.", "type": "ServiceUnavailableError", "param": None, "code": 503}
_BROKEN = {"message": "CUDA error", "type": "InternalServerError", "param": None, "code": 500}
_FAULTS = (Fault(503, error=_BUSY), Fault(reset=True), Fault(cut_at=20), Fault(500, error=_BROKEN))
_EACH_S = 3.0
"""How long it is down, and up again."""
_RATE_PER_S = 10


async def flap(folder: Path, scale: Scale) -> list[Figure]:
    """One of two providers is up and down in turn, each time in another way.

    Round robin keeps asking it; p2c would rather stay with the one that has been quick.
    """
    flapping, steady = Provider(MODEL), Provider(MODEL)
    cluster = {"balancer": "round_robin"}
    with serving([flapping, steady]):
        async with gateway(folder, [flapping.url, steady.url], cluster=cluster) as served:
            since = time.monotonic()
            asking = asyncio.ensure_future(_ask_all(served.url, scale.flap_s))
            for number in itertools.count():
                flapping.fault = _FAULTS[number // 2 % len(_FAULTS)] if number % 2 else HEALTHY
                await asyncio.wait({asking}, timeout=_EACH_S)
                if asking.done():
                    break
            said = await asking
            took_s = time.monotonic() - since
        attempts = len(flapping.asked) + len(steady.asked)
        used = len(flapping.asked)
    bad = [error for error, _ in said if error]
    bound = 1.2 * len(said) + 3 + 3 * took_s
    return [
        none(f"answers that are not whole and exact, in {scale.flap_s:g} s", bad, len(said)),
        most("attempts that both see", bound, attempts),
        most("p99", 2, quantile([took_s for _, took_s in said], 0.99), " s", scale.slack_s),
        Figure("the flapping one is used", f"> 10 of {len(said)}", str(used), used > 10),
    ]


async def _ask_all(url: str, duration_s: float) -> list[tuple[str, float]]:
    """Ask at a steady rate; return what is wrong with each answer, "" for nothing, and its time."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with (
        AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
        asyncio.TaskGroup() as group,
    ):
        tasks = []
        for number in range(int(_RATE_PER_S * duration_s)):
            await asyncio.sleep(start + number / _RATE_PER_S - loop.time())
            tasks.append(group.create_task(_ask(client)))
        await asyncio.wait(tasks)
    return [task.result() for task in tasks]


async def _ask(client: AsyncOpenAI) -> tuple[str, float]:
    text, began = "", time.monotonic()
    try:
        answer = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "count"}], stream=True
        )
        async for part in answer:
            text += part.choices[0].delta.content or "" if part.choices else ""
    except APIError as error:
        return type(error).__name__, time.monotonic() - began
    return "" if text == ANSWER else f"{len(text)} characters", time.monotonic() - began

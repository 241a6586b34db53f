"""Row 15: does anybody notice when the configuration changes under load?"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.config.watch import INTERVAL_S
from tests.integration.faults.figure import Figure, Scale, holds, most, none
from tests.integration.faults.stage import Metrics, Sim, config, health, stage, until
from tests.integration.faults.traffic import ask, chat, drive, failures
from tests.support.process import Served

_RATE_PER_S = 40


async def row_15(folder: Path, scale: Scale) -> list[Figure]:
    """Twenty reloads, an invalid file, half a file, an endpoint gone with its streams."""
    file = folder / "sluice.yaml"
    async with stage(folder, 2, "--inter-token-latency", "20ms") as (served, engines):
        # The load lasts as long as everything else does.
        stop = asyncio.Event()
        load = asyncio.ensure_future(_load(served, stop))
        effects = [await _reload(served, file, engines, number) for number in range(20)]
        kept = await _bad_files(served, file, engines, scale)
        removed = await _removed(served, file, engines, scale)
        stop.set()
        answers = await load
        reloads = await Metrics.of(served)
    return [
        most(
            "effect of 17 reloads by SIGHUP, the slowest",
            2,
            max(effects[:17]),
            " s",
            scale.noise_s,
        ),
        most(
            "effect of 3 reloads by file alone, the slowest",
            2,
            max(effects[17:]),
            " s",
            scale.slack_s,
        ),
        *kept,
        *removed,
        none("errors under load", failures(answers), len(answers)),
        holds(
            "the last reload, says the metric",
            "successful",
            value := reloads.total("sluice_config_last_reload_successful"),
            ok=value == 1,
        ),
    ]


async def _load(served: Served, stop: asyncio.Event) -> list[Any]:
    answers: list[Any] = []
    while not stop.is_set():
        answers += await drive(
            served.port, _RATE_PER_S, 1, lambda number: chat(tokens=10, stream=number % 2 == 0)
        )
    return answers


def _config(engines: Sequence[Sim], number: int = 0, **cluster: Any) -> str:
    """Write a configuration that differs with the number."""
    changing: Mapping[str, Any] = {"timeouts": {"idle_s": 20 + number}, **cluster}
    return config([one.url for one in engines], cluster=changing)


def _replace(file: Path, text: str) -> None:
    """Put a whole new file in the place of the old one, as editors and deployments do."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.rename(file)


async def _generation(served: Served) -> int:
    return int((await health(served))["generation"])


async def _reload(served: Served, file: Path, engines: Sequence[Sim], number: int) -> float:
    """Change the file, and signal it the first 17 times; return seconds to its effect."""
    before = await _generation(served)
    _replace(file, _config(engines, number))
    since = time.monotonic()
    if number < 17:
        os.kill(served.pid, signal.SIGHUP)
    await _until_generation(served, before + 1)
    return time.monotonic() - since


async def _until_generation(served: Served, least: int) -> None:
    async def there() -> bool:
        return await _generation(served) >= least

    await until(there, 15)


async def _bad_files(
    served: Served, file: Path, engines: Sequence[Sim], scale: Scale
) -> list[Figure]:
    """An invalid file, then one that is written in two halves."""
    before = await _generation(served)
    _replace(file, _config(engines, 50).replace("idle_s", "idle_sec"))
    os.kill(served.pid, signal.SIGHUP)

    async def refused() -> bool:
        return (await Metrics.of(served)).total("sluice_config_last_reload_successful") == 0

    with suppress(TimeoutError):
        await until(refused, 15)
    failed = await refused()
    invalid = await _generation(served)
    whole = await ask(served.port, chat())
    for number in range(51, 61):
        gap_s, effect_s, models = await _in_halves(served, file, _config(engines, number))
        if gap_s < INTERVAL_S:  # Two looks, so far apart, must not both have seen the first half.
            break
    return [
        holds(
            "an invalid file",
            "old one kept, metric raised",
            f"generation {before} then {invalid}, metric {'raised' if failed else 'not raised'}",
            ok=invalid == before and failed and not whole.failure,
        ),
        most("a file in two halves takes effect", 2, effect_s, " s", max(0.5, scale.noise_s)),
        holds("its models", "['m']", models, ok=models == ["m"]),
    ]


async def _in_halves(served: Served, file: Path, text: str) -> tuple[float, float, list[str]]:
    """Write half a file, then the rest.

    Returns the seconds between them, those from then to the next generation, and its models.
    """
    before = await _generation(served)
    cut = text.index("models:")  # What comes before it is YAML, too.
    since = time.monotonic()
    with file.open("w") as half:
        half.write(text[:cut])
        half.flush()
        await asyncio.sleep(0.3)
        half.write(text[cut:])
    whole_at = time.monotonic()
    await _until_generation(served, before + 1)
    effect_s = time.monotonic() - whole_at
    return whole_at - since, effect_s, (await health(served))["models"]


async def _removed(
    served: Served, file: Path, engines: Sequence[Sim], scale: Scale
) -> list[Figure]:
    """Remove an endpoint while streams run at it."""
    gone = engines[1]
    body = chat("live", tokens=400, stream=True)
    begun = [asyncio.Event() for _ in range(20)]
    live = [asyncio.ensure_future(ask(served.port, body, begun=one)) for one in begun]
    await asyncio.wait_for(asyncio.gather(*[one.wait() for one in begun]), 30)
    at_it = await gone.load()
    before = await _generation(served)
    _replace(file, _config(engines[:1], 60))
    since = time.monotonic()
    os.kill(served.pid, signal.SIGHUP)
    await _until_generation(served, before + 1)
    effect_s = time.monotonic() - since
    await asyncio.sleep(0.5)
    still_at_it = await gone.load()
    answers = await asyncio.gather(*live)
    ended = await gone.finished()
    await asyncio.sleep(1)
    later = await gone.finished()
    return [
        holds("live streams at the removed endpoint", "> 0", at_it, ok=at_it > 0),
        most("its removal takes effect", 2, effect_s, " s", scale.noise_s),
        holds("live streams left alone", f"some of {at_it}", still_at_it, ok=still_at_it > 0),
        none("live streams lost", failures(answers), len(answers)),
        holds("requests that it sees in the next second", "0", later - ended, ok=later == ended),
    ]

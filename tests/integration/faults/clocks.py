"""Row 19: does anything fire when the wall clock jumps by an hour?"""

from __future__ import annotations

import asyncio
import email.utils
import time
from pathlib import Path

from tests.integration.faults.figure import Figure, NotHereError, Scale, holds, none
from tests.integration.faults.stage import Metrics, endpoints, gateway, sims
from tests.integration.faults.traffic import ask, chat, drive, failures

_LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
"""Debian's and Ubuntu's package `faketime`."""
_INSTALLED = _LIBRARY.exists()


async def row_19(folder: Path, scale: Scale) -> list[Figure]:
    """Forward by an hour, then back by two, with streams under way and connections kept alive."""
    if not _INSTALLED:
        raise NotHereError("the package faketime is not installed")
    shift = folder / "shift"
    shift.write_text("+0")
    env = {
        "LD_PRELOAD": str(_LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(shift),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with sims(2, "--inter-token-latency", "50ms") as engines:
        urls = [one.url for one in engines]
        async with gateway(folder, urls, env=env) as served:
            load = asyncio.ensure_future(drive(served.port, 10, 6, lambda _: _STREAM))
            shown = []
            for moment in ("+3600", "-3600"):
                await asyncio.sleep(1.5)
                shift.write_text(moment)
                await asyncio.sleep(1.5)
                shown.append(_offset_s((await ask(served.port, chat())).header("date")))
            answers = await load
            healthy = [one["healthy"] for one in await endpoints(served)]
            attempts = (await Metrics.of(served)).attempts()
    wanted = (3600, -3600)
    moved = all(abs(offset - want) < 30 for offset, want in zip(shown, wanted, strict=True))
    longest_s = max(one.took_s for one in answers)
    return [
        holds("the gateway's own date", "+1 h, then -1 h", f"{shown} s", ok=moved),
        none("streams that were not whole", failures(answers), len(answers)),
        holds(
            "attempts",
            f"{len(answers) + 2}: no retry",
            f"{attempts:g}",
            ok=attempts == len(answers) + 2,
        ),
        holds("endpoints healthy", "[True, True]", healthy, ok=healthy == [True, True]),
        # 40 tokens, 50 ms apart: something that waits for a clock to come back takes an hour.
        holds("the longest stream", "≤ 10 s", f"{longest_s:.2f} s", ok=longest_s <= 10),
    ]


_STREAM = chat("clock", tokens=40, stream=True)


def _offset_s(date: str | None) -> int:
    """Return by how much a Date header differs from this process's clock."""
    assert date is not None, "answers have no Date header"
    return round(email.utils.parsedate_to_datetime(date).timestamp() - time.time())

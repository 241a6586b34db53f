"""A mirror copies all requests of a real gateway and compares the answers; the live pay nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.faults.stage import Metrics, Sim, gateway, sims, until
from tests.integration.faults.traffic import Heard, ask, chat
from tests.support.process import Served

pytestmark = pytest.mark.integration

REQUESTS = 60


def with_mirror(folder: Path, target: Sim, within_s: float) -> dict[str, Any]:
    """Write the policy; return what the configuration has for it."""
    policy = {
        "name": "shadow",
        "match": {"models": ["m"]},
        "mirror": {"to": {"cluster": "shadow"}, "max_concurrency": 64, "timeout_s": within_s},
    }
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    return {
        "policies": [str(folder / "policy.yaml")],
        "server": {"max_event_loop_lag_s": 60},
        "clusters": {
            "engines": {},
            "shadow": {
                "endpoints": [{"url": target.url}],
                "timeouts": {"first_token_s": within_s / 2},
            },
        },
    }


async def answers(served: Served) -> list[Heard]:
    bodies = [
        chat(f"number {number}", tokens=12, stream=bool(number % 2)) for number in range(REQUESTS)
    ]
    return await asyncio.gather(*[ask(served.port, body) for body in bodies])


@pytest.mark.parametrize("target", ["alike", "unlike", "slow", "silent", "dead"])
async def test_the_live_answers_are_the_same(tmp_path: Path, target: str) -> None:
    """Whatever the mirror's target does; and what it did is counted."""
    arguments = {"unlike": ("--seed", "7"), "slow": ("--fault", "delay-first=0.5")}
    arguments["silent"] = ("--fault", "stall-after=1")
    async with sims(1) as (live,), sims(1, *arguments.get(target, ())) as (shadow,):
        top = with_mirror(tmp_path, shadow, 2 if target == "silent" else 60)
        top["clusters"]["engines"] = {"endpoints": [{"url": live.url}]}
        async with gateway(tmp_path, [live.url], top=top, healthy=2) as served:
            if target == "dead":
                shadow.kill()
            heard = await answers(served)
            assert not [one.failure for one in heard if one.failure]
            expected = [one.text for one in heard]

            async def ended() -> bool:
                metrics = await Metrics.of(served)
                return (
                    metrics.total("sluice_mirror_total", policy="shadow") >= REQUESTS
                    and metrics.total("sluice_requests_total", outcome="success") >= REQUESTS
                    and metrics.total("sluice_mirror_inflight") == 0
                )

            await until(ended)
            metrics = await Metrics.of(served)
            compared = metrics.total("sluice_mirror_total", result="compared")
            failed = metrics.total("sluice_mirror_total", result="failed")
            yielded = REQUESTS - compared - failed
            assert metrics.total("sluice_mirror_inflight") == 0
            assert metrics.total("sluice_requests_total", outcome="success") == REQUESTS
            if target in {"alike", "unlike", "slow"}:
                assert compared >= REQUESTS / 2, yielded
            else:
                assert compared == 0 or target == "silent"
            again = [one.text for one in await answers(served)]
    assert again == expected

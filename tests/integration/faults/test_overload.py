"""Row 21, what its figures leave out: who is served, and who leaves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.integration.faults.figure import Figure, holds, most, none, quantile
from tests.integration.faults.overload import (
    CLUSTER,
    ENGINE,
    ENGINES,
    REFUSED_S,
    TOKENS,
    WIDTH,
    offer,
    peak,
    refused,
)
from tests.integration.faults.stage import Metrics, stage, until
from tests.integration.faults.traffic import ask, chat, crowd, failures
from tests.support.process import Served

pytestmark = pytest.mark.integration

ROOMY = {**CLUSTER, "queue": {"size": 4 * WIDTH, "timeout_s": 30}}
"""Room for those who should be served, even if they all come at once, two seconds late."""


def say(line: str) -> None:
    """Print a measured figure; `pytest -s` or `-rP` shows it."""
    print(f"row 21: {line}")  # noqa: T201  the figures are what the test is run for


def show(figures: Sequence[Figure]) -> None:
    """Print the figures; fail for those that were missed."""
    for figure in figures:
        say(str(figure))
    assert not [str(figure) for figure in figures if not figure.ok]


async def test_the_urgent_are_served(tmp_path: Path) -> None:
    """Of three times the peak a tenth is urgent: all of that is answered, the rest makes way."""
    urgent: dict[str, str] = {"x-priority": "high"}
    usual: dict[str, str] = {}
    async with stage(tmp_path, ENGINES, *ENGINE, cluster=ROOMY) as (served, _):
        best = await peak(served)
        answers = await offer(served, 3 * best, 6, [urgent, *[usual] * 9])

    high = [heard for own, heard in answers if own is urgent]
    rest = [heard for own, heard in answers if own is usual]
    show(
        [
            none("urgent requests refused", refused(high), len(high)),
            none("urgent requests lost", [one.failure for one in high if one.failure], len(high)),
            holds("usual requests refused", "> 0", len(refused(rest)), ok=len(refused(rest)) > 0),
        ]
    )


async def test_a_flood_leaves_others_their_share(tmp_path: Path) -> None:
    """One client's key sends nine tenths of the load; another's tenth is all answered."""
    flood = {"authorization": "Bearer flood"}
    quiet = {"authorization": "Bearer quiet"}
    async with stage(tmp_path, ENGINES, *ENGINE, cluster=ROOMY) as (served, _):
        best = await peak(served)
        answers = await offer(served, 3 * best, 6, [quiet, *[flood] * 9])

    few = [heard for own, heard in answers if own is quiet]
    many = [heard for own, heard in answers if own is flood]
    show(
        [
            none("of the quiet tenant refused", refused(few), len(few)),
            none("of the quiet tenant lost", [one.failure for one in few if one.failure], len(few)),
            holds("of the flood refused", "> 0", len(refused(many)), ok=len(refused(many)) > 0),
        ]
    )


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(tmp_path: Path) -> None:
    """With a full queue's wait ahead, a request with less time than that does not join it."""
    count = 16 * WIDTH
    cluster = {**CLUSTER, "queue": {"size": 2 * count, "timeout_s": 60}}
    hasty = {"x-request-timeout-ms": "2000"}
    async with stage(tmp_path, ENGINES, *ENGINE, cluster=cluster) as (served, _):
        best = await peak(served)
        async with asyncio.TaskGroup() as group:
            waiting = [
                group.create_task(ask(served.port, chat(tokens=TOKENS), patience_s=120))
                for _ in range(count)
            ]
            await until(lambda: _queued(served, 3 * count / 4))
            answers = [await ask(served.port, chat(tokens=TOKENS), hasty) for _ in range(5)]

    # Of the median: one of them may be held up.
    took_s = quantile([one.took_s for one in answers], 0.5)
    say(f"{count} requests at {best:.1f}/s, then five with a deadline of 2 s")
    show(
        [
            none("of the hasty let in", [one for one in answers if one.error != "overloaded"], 5),
            most("median refusal", REFUSED_S, took_s, " s", slack=0.95),
            none(
                "of those waiting lost",
                [task.result().failure for task in waiting if task.result().failure],
                len(waiting),
            ),
        ]
    )


async def _queued(served: Served, least: float) -> bool:
    return (await Metrics.of(served)).total("sluice_queue_waiting") >= least


async def test_clients_that_leave_the_queue_leave_nothing(tmp_path: Path) -> None:
    """A hundred clients go while they wait or are served; then every place is free again."""
    room = 40
    cluster = {**CLUSTER, "queue": {"size": room, "timeout_s": 30}}
    async with stage(tmp_path, ENGINES, *ENGINE, cluster=cluster) as (served, group):

        async def idle() -> bool:
            said = await Metrics.of(served)
            held = said.total("sluice_inflight") + said.total("sluice_queue_waiting")
            return held == 0 and [await one.load() for one in group] == [0] * ENGINES

        for _ in range(3):
            leaving = [
                asyncio.ensure_future(ask(served.port, chat(tokens=TOKENS))) for _ in range(100)
            ]
            await asyncio.sleep(0.2)
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
        await until(idle)
        # As many as fit, all before the first can have ended: one lost place, and one is refused.
        answers = await crowd(served.port, WIDTH + room, WIDTH + room, chat(tokens=TOKENS))

    assert failures(answers) == []

"""Row 21 of the fault table: three times what the engines can do is offered to the gateway.

Two engines of eight places each, so peak is known exactly: 16 requests under way. Offered load
comes at a steady rate on new connections whatever becomes of the earlier ones, as from many users.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.admit.gate import MAX_RETRY_AFTER_S
from tests.integration.faults.figure import Figure, holds, most, none, quantile
from tests.integration.faults.stage import stage, until
from tests.integration.faults.traffic import Heard, ask, chat, crowd, failures, untyped
from tests.support.process import Served

pytestmark = pytest.mark.integration

PLACES = 8
ENGINES = 2
WIDTH = ENGINES * PLACES
QUEUE = 16
ENGINE = (
    *("--max-num-seqs", str(PLACES)),
    *("--time-to-first-token", "100ms", "--inter-token-latency", "10ms"),
    *("--time-factor-under-load", "1"),
)
"""An answer of 30 tokens takes 0.4 s: peak is 40 answers a second, of which the rig's own work
(2 cores for clients, gateway and engines) is a small part."""

TOKENS = 30
CLUSTER = {
    "max_inflight": WIDTH,
    "queue": {"size": QUEUE, "timeout_s": 5},
    "health": {"timeout_s": 10},  # A busy test machine is no fault of the engines.
}
PEAK_S = 5.0
OVERLOAD_S = 10.0
SETTLE_S = 2.0
"""Left out at the beginning: until the queue is full nobody is refused."""

REFUSED_S = 0.050
REFUSED_BOUND_S = 0.5
"""What is asserted: clients, engines and gateway share two cores here, with other tests."""

GOODPUT = 0.90
GOODPUT_BOUND = 0.80


async def peak(served: Served) -> float:
    """Return whole answers a second when as many requests are under way as there are places.

    Each client has one request under way at any time, so this is their number by the mean time of
    an answer (Little's law); counting ends would cut off what is under way at the edges.
    """
    took_s: list[float] = []
    end = time.monotonic() + PEAK_S

    async def client(number: int) -> None:
        while time.monotonic() < end:
            heard = await ask(served.port, chat(tokens=TOKENS, stream=number % 2 == 0))
            assert not heard.failure, heard.failure
            took_s.append(heard.took_s)

    async with asyncio.TaskGroup() as group:
        for number in range(WIDTH):
            group.create_task(client(number))
    return WIDTH / (sum(took_s) / len(took_s))


async def offer(
    served: Served, rate_per_s: float, seconds: float, fields: Sequence[dict[str, str]]
) -> list[tuple[dict[str, str], Heard]]:
    """Send at a steady rate, with each of `fields` in turn; return every answer with its fields."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    asked = []
    async with asyncio.TaskGroup() as group:
        for number in range(int(rate_per_s * seconds)):
            await asyncio.sleep(start + number / rate_per_s - loop.time())
            own = fields[number % len(fields)]
            body = chat(tokens=TOKENS, stream=number % 2 == 0)
            asked.append((own, group.create_task(ask(served.port, body, own))))
    return [(own, task.result()) for own, task in asked]


def refused(answers: Sequence[Heard]) -> list[Heard]:
    """Return those that the gateway refused."""
    return [one for one in answers if one.error == "overloaded"]


def say(line: str) -> None:
    """Print a measured figure; `pytest -s` or `-rP` shows it."""
    print(f"row 21: {line}")  # noqa: T201  the figures are what the test is run for


def show(figures: Sequence[Figure]) -> None:
    """Print the figures; fail for those that were missed."""
    for figure in figures:
        say(str(figure))
    assert not [str(figure) for figure in figures if not figure.ok]


async def test_three_times_the_peak(tmp_path: Path) -> None:
    """Early refusals that say when to come back, and nearly the goodput of the peak."""
    async with stage(tmp_path, ENGINES, *ENGINE, cluster=CLUSTER) as (served, _):
        best = await peak(served)
        start = time.monotonic()
        answers = [heard for _, heard in await offer(served, 3 * best, OVERLOAD_S, [{}])]

    early, late = start + SETTLE_S, start + OVERLOAD_S
    whole = [one for one in answers if not one.failure]
    good = sum(early < one.ended_at <= late for one in whole) / (late - early)
    turned = refused(answers)
    waits_s = [one.took_s for one in turned]
    told = [one.header("retry-after") or "" for one in turned]
    odd = [text for text in told if not (text.isdigit() and 1 <= int(text) <= MAX_RETRY_AFTER_S)]
    share = good / best
    p99 = quantile(waits_s, 0.99)
    longest_s = quantile([one.took_s for one in whole], 0.99)
    say(f"{best:.1f}/s at peak, {len(whole)} whole, {len(turned)} refused")
    say(f"p50 of a refusal {quantile(waits_s, 0.5) * 1000:.1f} ms")
    show(
        [
            none("neither whole nor a typed error", untyped(answers), len(answers)),
            holds(
                "refused or whole",
                "all",
                f"{len(turned) + len(whole)} of {len(answers)}",
                ok=len(turned) + len(whole) == len(answers),
            ),
            holds(
                "status of refusals",
                "503",
                sorted({one.status for one in turned}),
                ok={one.status for one in turned} == {503},
            ),
            none("refusals without Retry-After", odd, len(turned)),
            none(
                "refusals without x-should-retry: true",
                [one for one in turned if one.header("x-should-retry") != "true"],
                len(turned),
            ),
            holds(
                f"p99 of a refusal (asserted: {REFUSED_BOUND_S * 1000:g} ms)",
                f"≤ {REFUSED_S * 1000:g} ms",
                f"{p99 * 1000:.1f} ms",
                ok=p99 <= REFUSED_BOUND_S,
            ),
            holds(
                f"goodput (asserted: {GOODPUT_BOUND:.0%})",
                f"≥ {GOODPUT:.0%} of peak",
                f"{share:.0%}",
                ok=share >= GOODPUT_BOUND,
            ),
            # One answer's time for the request itself, one for the queue of as many as there are
            # places, and as much again for a busy machine.
            most("p99 of a whole answer", 4 * WIDTH / best, longest_s, " s"),
        ]
    )


async def test_the_urgent_are_served(tmp_path: Path) -> None:
    """Of three times the peak a tenth is urgent: all of that is answered, the rest makes way."""
    urgent: dict[str, str] = {"x-priority": "high"}
    usual: dict[str, str] = {}
    async with stage(tmp_path, ENGINES, *ENGINE, cluster=CLUSTER) as (served, _):
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
    async with stage(tmp_path, ENGINES, *ENGINE, cluster=CLUSTER) as (served, _):
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
    cluster = {**CLUSTER, "queue": {"size": 10 * WIDTH, "timeout_s": 30}}
    hasty = {"x-request-timeout-ms": "500"}
    async with stage(tmp_path, ENGINES, *ENGINE, cluster=cluster) as (served, _):
        best = await peak(served)
        async with asyncio.TaskGroup() as group:
            waiting = [
                group.create_task(ask(served.port, chat(tokens=TOKENS))) for _ in range(6 * WIDTH)
            ]
            await asyncio.sleep(0.3)
            answers = [await ask(served.port, chat(tokens=TOKENS), hasty) for _ in range(5)]

    took_s = max(one.took_s for one in answers)
    say(f"{6 * WIDTH} requests at {best:.1f}/s, then five with a deadline of 0.5 s")
    show(
        [
            none("of the hasty let in", [one for one in answers if one.error != "overloaded"], 5),
            most("longest refusal", REFUSED_S, took_s, " s", slack=0.25),
            none(
                "of those waiting lost",
                [task.result().failure for task in waiting if task.result().failure],
                len(waiting),
            ),
        ]
    )


async def test_clients_that_leave_the_queue_leave_nothing(tmp_path: Path) -> None:
    """A hundred clients go while they wait or are served; then every place is free again."""
    room = 40
    cluster = {**CLUSTER, "queue": {"size": room, "timeout_s": 30}}
    async with stage(tmp_path, ENGINES, *ENGINE, cluster=cluster) as (served, group):

        async def idle() -> bool:
            return [await one.load() for one in group] == [0] * ENGINES

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

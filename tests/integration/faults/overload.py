"""Row 21: what becomes of three times as much as the engines can do?

Two engines of eight places each, so peak is known exactly: 16 requests under way. Offered load
comes at a steady rate on new connections whatever becomes of the earlier ones, as from many users.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from gateway.admit.gate import MAX_RETRY_AFTER_S
from tests.integration.faults.figure import Figure, Scale, holds, most, none, quantile
from tests.integration.faults.stage import stage
from tests.integration.faults.traffic import Heard, ask, chat, untyped
from tests.support.process import Served

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
PEAK_S = 3.0
OVERLOAD_S = 8.0
SETTLE_S = 2.0
"""Left out at the beginning: until the queue is full nobody is refused."""

REFUSED_S = 0.050
REFUSED_BOUND_S = 3.0
"""What is asserted: clients, engines and gateway share two cores here, with other tests. Whoever
waits in the queue in vain is refused after 5 s."""

GOODPUT = 0.90
GOODPUT_BOUND = 0.60
"""What is asserted: the rest is for a machine that had more time for the peak."""


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


async def row_21(folder: Path, scale: Scale) -> list[Figure]:
    """Early refusals that say when to come back, and nearly the goodput of the peak."""
    async with stage(folder, ENGINES, *ENGINE, cluster=CLUSTER) as (served, _):
        best = await peak(served)
        start = time.monotonic()
        answers = [heard for _, heard in await offer(served, 3 * best, OVERLOAD_S, [{}])]
        best = min(best, await peak(served))  # The machine may have become slower meanwhile.

    early, late = start + SETTLE_S, start + OVERLOAD_S
    whole = [one for one in answers if not one.failure]
    share = sum(early < one.ended_at <= late for one in whole) / (late - early) / best
    turned = refused(answers)
    longest_s = quantile([one.took_s for one in whole], 0.99)
    return [
        none("neither whole nor a typed error", untyped(answers), len(answers)),
        holds(
            f"refused or whole, of {len(answers)} at 3 x {best:.0f}/s",
            "all",
            f"{len(turned)} + {len(whole)}",
            ok=len(turned) + len(whole) == len(answers),
        ),
        *_refusals(turned, scale),
        holds(
            f"goodput (asserted: {GOODPUT_BOUND:.0%})",
            f"≥ {GOODPUT:.0%} of peak",
            f"{share:.0%}",
            ok=share >= GOODPUT_BOUND,
        ),
        # One answer's time for the request itself, one for the queue of as many as there are
        # places, and as much again for a busy machine.
        most("p99 of a whole answer", 4 * WIDTH / best, longest_s, " s", scale.slack_s),
    ]


def _refusals(turned: Sequence[Heard], scale: Scale) -> list[Figure]:
    waits_s = [one.took_s for one in turned]
    told = [one.header("retry-after") or "" for one in turned]
    odd = [text for text in told if not (text.isdigit() and 1 <= int(text) <= MAX_RETRY_AFTER_S)]
    stubborn = [one for one in turned if one.header("x-should-retry") != "true"]
    statuses = sorted({one.status for one in turned})
    p99_s = quantile(waits_s, 0.99)
    return [
        holds("status of refusals", "503", statuses, ok=statuses == [503]),
        none("refusals without Retry-After", odd, len(turned)),
        none("refusals without x-should-retry: true", stubborn, len(turned)),
        most(
            "p50 of a refusal",
            1000 * REFUSED_S,
            1000 * quantile(waits_s, 0.5),
            " ms",
            100 * scale.noise_s,  # A tenth of it: the median is not moved by one that is held up.
        ),
        holds(
            f"p99 of a refusal (asserted: {1000 * REFUSED_BOUND_S:g} ms)",
            f"≤ {1000 * REFUSED_S:g} ms",
            f"{1000 * p99_s:.1f} ms",
            ok=p99_s <= REFUSED_BOUND_S,
        ),
    ]

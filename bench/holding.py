"""When does it pay to hold items back for a fuller batch while another instance runs?

    python -m bench.holding

Runs `vision.batcher` in simulated time, so it takes seconds and always prints the same. Each line
is 20 s of a model with two or four instances, with holding (`max_delay_ms` 2, as on one GPU) and
without. `5 ms` is a call that takes that long whatever the batch, `1 + 0.5 ms` one that takes 0.5
ms more for each row. On a shared device, calls that run at the same time slow each other down as if
they took turns. Clients are 64 that send the next item up to 2 ms after an answer, or a Poisson
process.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

from rich.console import Console
from rich.table import Table

from vision.batcher import Batcher, Item
from vision.config import Batching

SECONDS = 20.0
CLIENTS = 64
PAUSE_S = 0.002
MAX_BATCH = 64
CALLS: dict[str, Callable[[int], float]] = {
    "5 ms": lambda rows: 0.005,
    "1 + 0.5 ms": lambda rows: 0.001 + 0.0005 * rows,
}


@dataclass(frozen=True, slots=True)
class Scene:
    """What is simulated; `rate` is arrivals a second, 0 for a closed loop of clients."""

    instances: int
    call: str
    shared: bool
    rate: float


class Run:
    """A call under way; `left_s` is what it would still take alone on the device."""

    __slots__ = ("items", "left_s", "rows", "since")

    def __init__(self, items: list[Item], rows: int, left_s: float, since: float) -> None:
        self.items = items
        self.rows = rows
        self.left_s = left_s
        self.since = since


class Simulation:
    """One scene; events are what is to happen at a time."""

    def __init__(self, scene: Scene, *, hold: bool) -> None:
        batching = Batching(max_batch=MAX_BATCH, max_delay_ms=2, queue=1 << 20)
        self._scene = scene
        self._cost = CALLS[scene.call]
        self._batcher: Batcher[Item] = Batcher(batching, scene.instances, MAX_BATCH, shared=hold)
        self._rng = random.Random(1)  # noqa: S311  not for secrets
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._runs: list[Run] = []
        self._now = 0.0
        self.latencies: list[float] = []
        self.batches = 0

    def run(self) -> None:
        """Let time pass."""
        for _ in range(1 if self._scene.rate else CLIENTS):
            self._at(self._rng.random() * PAUSE_S, self._arrive)
        while True:
            first = min(self._runs, key=lambda run: run.left_s, default=None)
            at = self._now + first.left_s * self._sharers() if first else inf
            due = self._events[0][0] if self._events else inf
            if min(at, due) > SECONDS:
                break
            self._pass(min(at, due))
            if first and at <= due:
                self._finish(first)
            else:
                heapq.heappop(self._events)[2]()

    def _at(self, at: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at, next(self._order), event))

    def _sharers(self) -> int:
        return len(self._runs) if self._scene.shared else 1

    def _pass(self, until: float) -> None:
        for run in self._runs:
            run.left_s -= (until - self._now) / self._sharers()
        self._now = until

    def _arrive(self) -> None:
        if self._batcher.offer(Item("", 1, self._now), self._now):
            self._ask()
        if self._scene.rate:
            self._at(self._now + self._rng.expovariate(self._scene.rate), self._arrive)

    def _finish(self, run: Run) -> None:
        self._runs.remove(run)
        self._batcher.finished(run.rows, self._now - run.since)
        for item in run.items:
            self.latencies.append(self._now - item.since)
            if not self._scene.rate:
                self._at(self._now + self._rng.random() * PAUSE_S, self._arrive)
        self._ask()

    def _ask(self) -> None:
        more = True
        while more and len(self._runs) < self._scene.instances:
            turn = self._batcher.take(self._now)
            more = turn.more
            if turn.items:
                call = Run(list(turn.items), turn.rows, self._cost(turn.rows), self._now)
                self._runs.append(call)
                self.batches += 1
            elif turn.ask_at < inf:
                self._at(turn.ask_at, self._ask)


def scenes() -> Iterator[Scene]:
    """All that is printed."""
    for instances, shared, call, rate in itertools.product(
        (2, 4), (True, False), CALLS, (0.0, 300.0, 1200.0)
    ):
        yield Scene(instances, call, shared, rate)


def figures(simulation: Simulation) -> tuple[str, str, str]:
    """Items a second, p99 and the mean batch."""
    simulation.run()
    latencies = sorted(simulation.latencies)
    count = len(latencies)
    p99_ms = latencies[int(count * 0.99)] * 1e3
    return f"{count / SECONDS:,.0f}", f"{p99_ms:.1f}", f"{count / simulation.batches:.1f}"


def main() -> None:
    """Simulate and print."""
    table = Table()
    for column in ("instances", "device", "call", "load"):
        table.add_column(column, no_wrap=True)
    for column in ("items/s, held", "not", "p99 ms, held", "not", "batch, held", "not"):
        table.add_column(column, justify="right")
    for scene in scenes():
        held, free = (figures(Simulation(scene, hold=hold)) for hold in (True, False))
        table.add_row(
            str(scene.instances),
            "shared" if scene.shared else "own",
            scene.call,
            f"{scene.rate:.0f}/s" if scene.rate else f"{CLIENTS} clients",
            *itertools.chain.from_iterable(zip(held, free, strict=True)),
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

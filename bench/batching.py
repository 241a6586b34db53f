"""What does batching gain, and what does a lane cost above the bare call of the model?

    python -m bench.batching [--seconds 2] [--rounds 5]

Clients are coroutines of this process, each of which sends its next item when it has the answer to
the one before, to a `vision.lane` with one instance on uvloop: no HTTP, no decoding. Two models:

    5 ms      a stand-in for a GPU kernel: sleeps for 5 ms whatever the batch, and holds no lock
    digits    the shipped model on ONNX Runtime, one thread

Configurations take turns, so that what else the machine does falls on all; each figure is the
median of the rounds, with the lowest and the highest where it has a goal. CPU time is that of the
whole process, clients (about 1 µs an item) included.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from vision.config import Batching, ModelConfig
from vision.lane import Lane
from vision.runtime.base import Loaded
from vision.runtime.onnx import OnnxRuntime
from vision.tensors import Array, Arrays, DataType, TensorSpec

CALL_S = 0.005
DELAY_MS = 2.0
DIGITS = Path(__file__).parent.parent / "vision" / "models" / "digits" / "1" / "model.onnx"
KERNEL_CLIENTS = 64
KERNEL_SIZES = (1, 32, 64)
DIGITS_CLIENTS = (1, 8, 64)
DIGITS_SIZES = (1, 32)
MANY = 32
PAUSE_S = 0.000_2


class Kernel:
    """The stand-in, as an instance: `time.sleep` lets other threads run, as a GPU call does."""

    def allocate(self, dtype: DataType, shape: tuple[int, ...]) -> Array:
        """Plain memory."""
        return np.empty(shape, dtype.numpy)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Take 5 ms."""
        time.sleep(CALL_S)
        return {"y": inputs["x"][:, 0, 0]}

    def close(self) -> None:
        """Nothing to give back."""


class KernelModel:
    """The stand-in, as a loaded version."""

    runtime = "stand-in"
    device = "cuda:0"
    inputs: tuple[TensorSpec, ...] = (TensorSpec("x", DataType.FP32, (1, 8, 8)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("y", DataType.FP32, (8,)),)
    max_batch = 64
    memory_bytes = 0

    def instance(self) -> Kernel:
        """Make one."""
        return Kernel()

    def close(self) -> None:
        """Nothing to give back."""


class Counter:
    """A lane's observer."""

    def __init__(self) -> None:
        self.batches = 0
        self.queued_s: list[float] = []

    def started(self, rows: int, queued_s: Sequence[float]) -> None:
        """Count the batch."""
        del rows
        self.batches += 1
        self.queued_s.extend(queued_s)

    def executed(self, rows: int, execute_s: float) -> None:
        """Not counted."""

    def waiting(self, rows: int) -> None:
        """Not counted."""


@dataclass(frozen=True, slots=True)
class Load:
    """Who asks what for how long."""

    model: Loaded
    clients: int
    max_batch: int
    seconds: float

    @property
    def item(self) -> Arrays:
        """One row."""
        spec = self.model.inputs[0]
        return {spec.name: np.full((1, 1, 8, 8), 0.5, np.float32)}


@dataclass(frozen=True, slots=True)
class Result:
    """Of one load, once or as the medians of several times."""

    per_s: float
    p50_ms: float
    p99_ms: float
    queued_us: float
    """Median."""
    batch: float
    """Mean."""
    cpu_us: float
    """An item."""


@dataclass(frozen=True, slots=True)
class Bare:
    """CPU time of the digits model's own call, without a lane."""

    one_us: float
    many_us: float
    cold_us: float
    """One row, after a pause."""


def quantile(values: Sequence[float], q: float) -> float:
    """Return the q-quantile of sorted values."""
    return values[min(len(values) - 1, int(len(values) * q))]


def cpu_s() -> float:
    """CPU time of all threads, the system's part included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def measure(load: Load) -> Result:
    """Run the clients against a new lane."""
    counter = Counter()
    batching = Batching(max_batch=load.max_batch, max_delay_ms=DELAY_MS)
    lane = Lane(load.model, batching, 1, counter)
    await lane.start()
    item = load.item
    await lane.warm([1, load.max_batch], item, 5)
    latencies: list[float] = []
    begin, cpu = time.perf_counter(), cpu_s()
    end = begin + load.seconds

    async def client() -> None:
        sent = time.perf_counter()
        while sent < end:
            await lane.infer(item)
            answered = time.perf_counter()
            latencies.append(answered - sent)
            sent = answered

    async with asyncio.TaskGroup() as group:
        for _ in range(load.clients):
            group.create_task(client())
    elapsed_s, cpu = time.perf_counter() - begin, cpu_s() - cpu
    await lane.close()
    latencies.sort()
    count = len(latencies)
    return Result(
        per_s=count / elapsed_s,
        p50_ms=quantile(latencies, 0.5) * 1e3,
        p99_ms=quantile(latencies, 0.99) * 1e3,
        queued_us=quantile(sorted(counter.queued_s), 0.5) * 1e6,
        batch=count / counter.batches,
        cpu_us=cpu / count * 1e6,
    )


def bare_us(model: Loaded, rows: int, seconds: float, pause_s: float = 0.0) -> float:
    """CPU time of the model's own call on a batch, in µs, without a lane.

    With a pause before each call it finds caches as cold as a lone request does.
    """
    run = model.instance().run
    spec = model.inputs[0]
    batch = {spec.name: np.full((rows, 1, 8, 8), 0.5, np.float32)}
    taken_ns: list[int] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if pause_s:
            time.sleep(pause_s)
        began = time.thread_time_ns()
        run(batch)
        taken_ns.append(time.thread_time_ns() - began)
    return statistics.median(taken_ns) / 1e3


def two_calls_ms(seconds: float) -> float:
    """p99 of two calls of the stand-in in a row, without a lane: what this machine makes of it."""
    run = Kernel().run
    item = {"x": np.zeros((1, 1, 8, 8), np.float32)}
    taken_s: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        run(item)
        run(item)
        taken_s.append(time.perf_counter() - began)
    return quantile(sorted(taken_s), 0.99) * 1e3


def spread(values: Sequence[float], form: str) -> str:
    """The median, and the lowest and highest."""
    low, high = format(min(values), form), format(max(values), form)
    return f"{format(statistics.median(values), form)} ({low}-{high})"


def table(title: str, *columns: str) -> Table:
    """Return an empty table."""
    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(column, justify="right", no_wrap=True)
    return made


def median(results: Sequence[Result], read: Callable[[Result], float]) -> float:
    """Of one figure."""
    return statistics.median(read(result) for result in results)


def show_kernel(console: Console, results: dict[int, list[Result]], two_ms: float) -> None:
    """The stand-in's table."""
    unbatched = median(results[1], lambda one: one.per_s)
    made = table(
        f"5 ms a call (stand-in), {KERNEL_CLIENTS} clients, max_delay_ms {DELAY_MS:g}; "
        f"two calls in a row without a lane: p99 {two_ms:.1f} ms",
        *("max_batch", "items/s", "x unbatched", "p50 ms", "p99 ms", "mean batch"),
    )
    for size, rounds in results.items():
        made.add_row(
            str(size),
            f"{median(rounds, lambda one: one.per_s):,.0f}",
            spread([one.per_s / unbatched for one in rounds], ".1f"),
            f"{median(rounds, lambda one: one.p50_ms):.1f}",
            spread([one.p99_ms for one in rounds], ".1f"),
            f"{median(rounds, lambda one: one.batch):.1f}",
        )
    console.print(made)


def show_digits(console: Console, results: dict[tuple[int, int], list[Result]], bare: Bare) -> None:
    """The digits model's table."""
    made = table(
        f"digits; CPU µs of the bare call: {bare.one_us:.0f} for 1 row ({bare.cold_us:.0f} after "
        f"a pause of {PAUSE_S * 1e3:g} ms), {bare.many_us:.0f} for {MANY} rows",
        *("clients", "max_batch", "items/s", "p50 ms", "p99 ms", "queued p50 µs", "mean batch"),
        *("CPU µs/item", "above bare"),
    )
    for (clients, size), rounds in results.items():
        batch = median(rounds, lambda one: one.batch)
        # Straight between the two that were measured.
        call = bare.one_us + (bare.many_us - bare.one_us) * (batch - 1) / (MANY - 1)
        made.add_row(
            str(clients),
            str(size),
            spread([one.per_s for one in rounds], ",.0f"),
            f"{median(rounds, lambda one: one.p50_ms):.2f}",
            f"{median(rounds, lambda one: one.p99_ms):.2f}",
            f"{median(rounds, lambda one: one.queued_us):.0f}",
            f"{batch:.1f}",
            spread([one.cpu_us for one in rounds], ".0f"),
            f"{median(rounds, lambda one: one.cpu_us) - call / batch:.0f}",
        )
    console.print(made)


async def main(seconds: float, rounds: int) -> None:
    """Measure and print."""
    kernel = KernelModel()
    digits = OnnxRuntime().load(DIGITS, ModelConfig(batching=Batching(max_batch=64)))
    bare: list[tuple[float, float, float, float]] = []
    of_kernel: dict[int, list[Result]] = {size: [] for size in KERNEL_SIZES}
    of_digits: dict[tuple[int, int], list[Result]] = {
        (clients, size): [] for clients in DIGITS_CLIENTS for size in DIGITS_SIZES
    }
    short = seconds / 4
    for _ in range(rounds):
        bare.append(
            (
                bare_us(digits, 1, short),
                bare_us(digits, MANY, short),
                bare_us(digits, 1, short, PAUSE_S),
                two_calls_ms(seconds),
            )
        )
        for size, results in of_kernel.items():
            results.append(await measure(Load(kernel, KERNEL_CLIENTS, size, seconds)))
        for (clients, size), results in of_digits.items():
            results.append(await measure(Load(digits, clients, size, seconds)))
    one_us, many_us, cold_us, two_ms = (statistics.median(each) for each in zip(*bare, strict=True))
    console = Console(width=140)
    show_kernel(console, of_kernel, two_ms)
    show_digits(console, of_digits, Bare(one_us, many_us, cold_us))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="bench.batching", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    uvloop.run(main(arguments.seconds, arguments.rounds))

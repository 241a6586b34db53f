"""What does the vision service cost for a prediction, beyond decoding and the model itself?

    python -m bench.vision [--seconds 4] [--model digits] [--no-gateway]

Starts the service as its operator does, on CPU 1, and asks it from CPU 0 for a digit of 8 x 8
pixels, over 1 and 32 connections that each send the next request when the answer is there. What
decoding and preprocessing take, and the bare ONNX Runtime call at the batch size that occurred, is
measured on CPU 1 in the same run; what is left of the service's CPU is its own. Then the gateway in
front of it, with all three processes on both cores.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httptools
import httpx
import numpy as np
import uvloop
from PIL import Image
from rich.console import Console
from rich.table import Table

from vision.app import SHIPPED
from vision.config import ModelConfig
from vision.configs import read_config
from vision.decoding import Decoder, Source
from vision.fetch import Fetcher, FetchSettings
from vision.images import ImageLimits
from vision.preprocess import Preprocessor
from vision.runtime import registry

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def picture() -> str:
    """Return a PNG of 8 x 8 grey pixels, in base64: about what a digit of the test set weighs."""
    pixels = np.random.default_rng(7).integers(0, 256, (8, 8), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


@dataclass(slots=True)
class Run:
    """What the clients saw in one run, and what the server's CPU did meanwhile."""

    latencies_s: list[float] = field(default_factory=list)
    errors: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Predictions each second."""
        return len(self.latencies_s) / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU of the server for each prediction, in µs."""
        return self.cpu_s / len(self.latencies_s) * 1e6

    def quantile_ms(self, share: float) -> float:
        """A quantile of the latencies, in ms."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


class Asking(asyncio.Protocol):
    """One connection that sends the same request again and again; a few µs each."""

    def __init__(self, request: bytes, run: Run, until: float) -> None:
        self._request = request
        self._run = run
        self._until = until
        self._began = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass.
        self._send()

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Count the answer and ask again."""
        now = time.perf_counter()
        self._run.latencies_s.append(now - self._began)
        self._run.errors += self._parser.get_status_code() != 200
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        self._run.errors += error is not None
        if not self.ended.done():
            self.ended.set_result(None)

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._request)


async def ask(port: int, body: bytes, connections: int, seconds: float, pids: Sequence[int]) -> Run:
    """Ask a server for so long, over so many connections."""
    head = (
        b"POST /v1/predict HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept: */*\r\nuser-agent: bench/1\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % (port, len(body))
    )
    run = Run()
    loop = asyncio.get_running_loop()
    before, began = cpu_s(pids), time.perf_counter()
    asking = [
        (
            await loop.create_connection(
                lambda: Asking(head + body, run, began + seconds), "127.0.0.1", port
            )
        )[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(one.ended for one in asking))
    run.seconds, run.cpu_s = time.perf_counter() - began, cpu_s(pids) - before
    if run.errors or not run.latencies_s:
        raise SystemExit(f"bench.vision: {run.errors} requests failed")
    return run


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds that processes have used, user and system."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks * _TICK_S


@contextmanager
def pinned(cpus: set[int]) -> Iterator[None]:
    """Keep this process, and what it starts meanwhile, on these CPUs, where there are as many."""
    before = os.sched_getaffinity(0)
    with suppress(OSError):
        os.sched_setaffinity(0, cpus & before or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def process(argv: Sequence[str], cpus: set[int]) -> Iterator[tuple[int, int]]:
    """Run one of our servers; yields its process id and its port."""
    with pinned(cpus):
        child = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-m", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if argv[0] == "gateway" else subprocess.DEVNULL,
            text=True,
        )
    try:
        if argv[0] == "gateway":
            assert child.stderr is not None  # noqa: S101  asked for above
            lines = iter(child.stderr.readline, "")
            line = next(one for one in lines if "listening on " in one)
            port = int(line.rpartition(":")[2])
        else:
            assert child.stdout is not None  # noqa: S101  asked for above
            port = json.loads(child.stdout.readline())["port"]
        yield child.pid, port
    finally:
        child.terminate()
        child.wait()


def rows_a_batch(port: int, model: str) -> tuple[float, float]:
    """Return how many rows have been run in how many batches so far."""
    page = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    rows, batches = (
        float(
            page.partition(f'sluice_vision_batch_rows_{part}{{model="{model}",version="1"}} ')[
                2
            ].partition("\n")[0]
        )
        for part in ("sum", "count")
    )
    return rows, batches


async def decode_us(config: ModelConfig, image: str, count: int = 2000) -> float:
    """CPU of decoding and preprocessing one image, in µs."""
    loaded = registry.load(SHIPPED / "digits/1", config)
    assert config.preprocessing is not None  # noqa: S101  the shipped models have one
    preprocessor = Preprocessor(config.preprocessing, loaded.inputs[0])
    decoder = Decoder(ImageLimits(), Fetcher(FetchSettings(enabled=False)), 1)
    source = Source("inputs.image", image=image)
    best = float("inf")
    for _ in range(3):
        began = time.process_time()
        for _ in range(count):
            await decoder.rows(source, loaded.inputs, preprocessor)
        best = min(best, time.process_time() - began)
    decoder.close()
    return best / count * 1e6


def run_us(folder: Path, config: ModelConfig, rows: int, count: int = 500) -> float:
    """CPU of the bare call for a batch, in µs for each of its rows."""
    loaded = registry.load(folder, config)
    instance = loaded.instance()
    spec = loaded.inputs[0]
    shape = (rows, *(size or 1 for size in spec.shape))
    batch = {spec.name: np.zeros(shape, spec.dtype.numpy)}
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(count):
            instance.run(batch)
        best = min(best, time.process_time() - began)
    return best / count / rows * 1e6


async def alone(model: str, seconds: float, console: Console) -> None:
    """Measure the service by itself and print a table."""
    image = picture()
    body = json.dumps({"model": model, "inputs": {"image": image}}).encode()
    config = read_config(SHIPPED / model, 1)
    argv = ("vision", "serve", "--repository", str(SHIPPED), "--port", "0", "--ready-line")
    table = Table("connections", "predict/s", "p50 ms", "p99 ms", "rows/batch", "CPU µs", "decode")
    table.add_column("bare run")
    table.add_column("own")
    with process(argv, {1}) as (pid, port), pinned({0}):
        for connections in (1, 32):
            await ask(port, body, connections, 1.0, [pid])
            before = rows_a_batch(port, model)
            run = await ask(port, body, connections, seconds, [pid])
            after = rows_a_batch(port, model)
            rows = (after[0] - before[0]) / (after[1] - before[1])
            with pinned({1}):
                decode = await decode_us(config, image)
                bare = run_us(SHIPPED / model / "1", config, max(1, round(rows)))
            table.add_row(
                str(connections),
                f"{run.per_s:,.0f}",
                f"{run.quantile_ms(0.5):.2f}",
                f"{run.quantile_ms(0.99):.2f}",
                f"{rows:.1f}",
                f"{run.cpu_us:.0f}",
                f"{decode:.0f}",
                f"{bare:.0f}",
                f"{run.cpu_us - decode - bare:.0f}",
            )
    console.print(table)


async def behind_gateway(model: str, seconds: float, console: Console) -> None:
    """Measure gateway and service together, on both cores, and print a table."""
    body = json.dumps({"model": model, "inputs": {"image": picture()}}).encode()
    service = ("vision", "serve", "--repository", str(SHIPPED), "--port", "0", "--ready-line")
    table = Table(
        "through the gateway", "predict/s", "p50 ms", "p99 ms", "gateway µs", "service µs"
    )
    both = {0, 1}
    with process(service, both) as (seeing, port):
        gateway = ("gateway", "serve", "--endpoint", f"http://127.0.0.1:{port}", "--port", "0")
        with process((*gateway, "--access-log", "off"), both) as (passing, front), pinned(both):
            await listed(front, model)
            for connections in (1, 32):
                await ask(front, body, connections, 1.0, [seeing])
                before = cpu_s([passing])
                run = await ask(front, body, connections, seconds, [seeing])
                used = cpu_s([passing]) - before
                table.add_row(
                    f"{connections} connections",
                    f"{run.per_s:,.0f}",
                    f"{run.quantile_ms(0.5):.2f}",
                    f"{run.quantile_ms(0.99):.2f}",
                    f"{used / len(run.latencies_s) * 1e6:.0f}",
                    f"{run.cpu_us:.0f}",
                )
    console.print(table)


async def listed(port: int, model: str) -> None:
    """Wait until the gateway serves the model."""
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(30):
        while True:
            told = (await http.get(f"http://127.0.0.1:{port}/v1/models")).json()
            if any(one["id"] == model for one in told["data"]):
                return
            await asyncio.sleep(0.1)


async def measure(chosen: argparse.Namespace) -> None:
    """Measure what was asked for."""
    console = Console()
    await alone(chosen.model, chosen.seconds, console)
    if chosen.gateway:
        await behind_gateway(chosen.model, chosen.seconds, console)


def main(arguments: list[str]) -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(prog="python -m bench.vision", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--model", default="digits")
    parser.add_argument("--gateway", action=argparse.BooleanOptionalAction, default=True)
    uvloop.run(measure(parser.parse_args(arguments)))


if __name__ == "__main__":
    main(sys.argv[1:])

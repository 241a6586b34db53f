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
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import uvloop
from PIL import Image
from rich.console import Console
from rich.table import Table

from bench.closed_loop import ask, cpu_s, pinned, process
from vision.app import SHIPPED
from vision.config import ModelConfig
from vision.configs import read_config
from vision.decoding import Decoder, Source
from vision.fetch import Fetcher, FetchSettings
from vision.images import ImageLimits
from vision.preprocess import Preprocessor
from vision.runtime import registry


def picture() -> str:
    """Return a PNG of 8 x 8 grey pixels, in base64: about what a digit of the test set weighs."""
    pixels = np.random.default_rng(7).integers(0, 256, (8, 8), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


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

"""By how much does a mirror that copies every request slow the live answers down?

    python -m bench.mirrors [--rate 100] [--seconds 8] [--rounds 4]

Two gateways stand before the same simulated engine, one of them with a policy that mirrors all
requests to a second engine. Requests arrive by a Poisson process, a quarter of them as streams;
the two take turns, so that what else the machine does falls on both. Prints the quantiles of the
live answers' latency for a target that is well, slow (each answer begins 2 s late) and dead.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import uvloop
import yaml
from rich.console import Console
from rich.table import Table

TOKENS = 32
QUANTILES = (0.5, 0.95, 0.99)
_ENGINE = ("--served-model-name", "m", "--time-to-first-token", "20", "--inter-token-latency", "2")


@asynccontextmanager
async def _process(*arguments: str, said: bytes) -> AsyncIterator[int]:
    """Run a Python module; yield the port that stands behind `said` in what it says."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert child.stdout is not None  # noqa: S101  it is a pipe
    try:
        async for line in child.stdout:
            found = re.search(said + rb"(\d+)", line)
            if found is not None:
                break
        else:
            raise SystemExit(f"bench.mirrors: {arguments[0]} did not start")
        async with asyncio.TaskGroup() as group:
            drain = group.create_task(child.stdout.read())
            yield int(found[1])
            drain.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(signal.SIGINT)
        await child.wait()


@asynccontextmanager
async def _engine(*arguments: str) -> AsyncIterator[int]:
    sim = ("engines.sim", "--port", "0", "--ready-line", *_ENGINE, *arguments)
    async with _process(*sim, said=rb'"port": ?') as port:
        yield port


@asynccontextmanager
async def _gateway(folder: Path, engine: int, target: int | None) -> AsyncIterator[int]:
    """Run a gateway; with a target it mirrors everything."""
    clusters = {"live": {"endpoints": [{"url": f"http://127.0.0.1:{engine}"}]}}
    config: dict[str, object] = {
        "server": {"host": "127.0.0.1", "port": 0, "admin": None},
        "clusters": clusters,
        "models": {"m": {"cluster": "live"}},
        "logging": {"access": "off"},
    }
    if target is not None:
        clusters["shadow"] = {"endpoints": [{"url": f"http://127.0.0.1:{target}"}]}
        mirror = {"to": {"cluster": "shadow"}, "max_concurrency": 64}
        policy = folder / "policy.yaml"
        policy.write_text(yaml.safe_dump({"name": "shadow", "mirror": mirror}))
        config["policies"] = [str(policy)]
    file = folder / "sluice.yaml"
    file.write_text(yaml.safe_dump(config))
    async with _process(
        "gateway", "serve", "-c", str(file), said=rb"listening on http://127\.0\.0\.1:"
    ) as port:
        await asyncio.sleep(2)  # Until its endpoints are known to be well.
        yield port


async def _ask(port: int, stream: bool) -> float:
    """Make one request on a connection of its own; return its latency in seconds."""
    body = json.dumps(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Tell me about sluices."}],
            "max_tokens": TOKENS,
            "min_tokens": TOKENS,
            "stream": stream,
        }
    ).encode()
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: b\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    begun = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head + body)
    answer = await reader.read(-1)
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"bench.mirrors: {answer[:200]!r}")
    return time.perf_counter() - begun


async def _load(port: int, rate: float, seconds: float, rng: random.Random) -> list[float]:
    """Ask at random times for so many seconds; return the latencies."""
    end, tasks = time.perf_counter() + seconds, []
    async with asyncio.TaskGroup() as group:
        while time.perf_counter() < end:
            tasks.append(group.create_task(_ask(port, rng.random() < 0.25)))
            await asyncio.sleep(rng.expovariate(rate))
    return [task.result() for task in tasks]


async def _compare(
    folder: Path, target: Sequence[str] | None, chosen: argparse.Namespace
) -> tuple[list[float], list[float]]:
    """Return the latencies without a mirror, and with one; `target` None: nobody listens there."""
    rng = random.Random(1)  # noqa: S311  arrivals, no secret
    plain: list[float] = []
    mirrored: list[float] = []
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(_engine())
        where = 9 if target is None else await stack.enter_async_context(_engine(*target))
        ports = []
        for name, to in (("plain", None), ("mirrored", where)):
            (own := folder / name).mkdir()
            ports.append(await stack.enter_async_context(_gateway(own, engine, to)))
        for _ in range(chosen.rounds):
            for port, found in zip(ports, (plain, mirrored), strict=True):
                found.extend(await _load(port, chosen.rate, chosen.seconds, rng))
    return plain, mirrored


def _quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


async def measure(chosen: argparse.Namespace) -> Table:
    """Return the table of all targets."""
    table = Table(
        "target", "live answers", *(f"p{q * 100:g} ms, without → with" for q in QUANTILES)
    )
    targets: tuple[tuple[str, Sequence[str] | None], ...] = (
        ("well", ()),
        ("slow", ("--fault", "delay-first=2")),
        ("dead", None),
    )
    for name, target in targets:
        with tempfile.TemporaryDirectory() as folder:
            plain, mirrored = await _compare(Path(folder), target, chosen)
        cells = []
        for q in QUANTILES:
            before, after = _quantile(plain, q), _quantile(mirrored, q)
            cells.append(f"{before * 1e3:.1f} → {after * 1e3:.1f} ({after / before - 1:+.1%})")
        table.add_row(name, f"{len(plain) + len(mirrored):,}", *cells)
    return table


def main(arguments: list[str]) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.mirrors", description=__doc__)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=4)
    Console().print(uvloop.run(measure(parser.parse_args(arguments))))


if __name__ == "__main__":
    main(sys.argv[1:])

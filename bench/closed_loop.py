"""How quickly does a server answer, asked again as soon as it has answered, and at what CPU?

A load generator and the server's process for the benches of vision: the same request again and
again over some connections, a few µs each.
"""

from __future__ import annotations

import asyncio
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

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


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
        raise SystemExit(f"{run.errors} requests failed")
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

"""Does a gateway keep anything of 200,000 requests, nearly a third of whose clients left early?

    python -m bench.leak [--requests 200000] [--rows 10]

The gateway is a process of its own, with its defaults: metrics, request ids, an access log in a
file. Clients and an engine that answers instantly share this process. Of ten requests one client
leaves before the engine has answered, one in the middle of a stream, one without waiting for
anything; four are streams read to their end and three plain answers. Prints a table and exits with
1 if something was left over.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import uvloop
from rich.console import Console
from rich.table import Table

from bench.instant import InstantEngine

CLIENTS: Final = 64
START_S: Final = 30.0
"""How long the gateway may take to come up."""
SETTLE_S: Final = 8.0
"""Longer than the 4 s for which idle connections to engines are kept."""
MAX_GROWTH_BYTES: Final = 3 * 2**20
"""Growth after the warm-up that counts as flat. One empty tuple (40 bytes) left over by each of the
140,000 requests after it would be 5.3 MiB."""
WARM_UP_REQUESTS: Final = 60_000
"""Until here RSS may grow: the collector's rare rounds, arenas and pools find their size."""

_PLAIN: Final = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x" * 900}]})
_STREAM: Final = json.dumps({"model": "m", "stream": True, "messages": []}, separators=(",", ":"))
_LAST: Final = b"data: [DONE]\n\n\r\n0\r\n\r\n"
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Row:
    """What the gateway held at one moment."""

    requests: int
    rss_bytes: int
    fds: int
    tasks: int
    inflight: int
    upstream: int
    """Connections that the engine sees."""


class Clients:
    """Raw-socket clients that take turns in what they do."""

    def __init__(self, port: int, engine: InstantEngine) -> None:
        self._port = port
        self._engine = engine
        self.finished = 0

    async def run(self, numbers: Iterator[int]) -> None:
        """Make requests as long as there are numbers, on one connection for as long as it lives."""
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number in numbers:
            if connection is None:
                connection = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = connection
            if await self._one(number, reader, writer):
                writer.transport.abort()
                connection = None
            self.finished += 1
        if connection is not None:
            connection[1].close()

    async def _one(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Make one request; say whether its client is to leave."""
        kind = number % 10
        if kind == 0:
            await self._leave_before_the_head(number, writer)
        elif kind == 1:
            writer.write(_request(_STREAM, "x-hold: middle\r\n"))
            await reader.readuntil(b" token")
        elif kind == 2:
            writer.write(_request(_STREAM))
        else:
            writer.write(_request(_STREAM if kind < 7 else _PLAIN))
            await _read_answer(reader)
        return kind < 3

    async def _leave_before_the_head(self, number: int, writer: asyncio.StreamWriter) -> None:
        ident = b"leak-%d" % number
        arrived = self._engine.arrivals[ident] = asyncio.Event()
        writer.write(_request(_PLAIN, f"x-hold: head\r\nx-request-id: {ident.decode()}\r\n"))
        await arrived.wait()
        del self._engine.arrivals[ident]


async def _read_answer(reader: asyncio.StreamReader) -> None:
    """Read one whole answer; a stream that was there at once has a length, too."""
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 200 " not in head[:16]:
        raise SystemExit(f"bench.leak: not an answer: {head!r}")
    if length := re.search(rb"content-length: (\d+)", head):
        await reader.readexactly(int(length[1]))
    else:
        await reader.readuntil(_LAST)


def _request(body: str, fields: str = "") -> bytes:
    return (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json"
        f"\r\n{fields}Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@asynccontextmanager
async def gateway(engine_port: int, folder: Path) -> AsyncIterator[tuple[int, int]]:
    """Run the gateway; yield its process id and its port."""
    log = folder / "gateway.log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve", "--host", "127.0.0.1", "--port", "0"),
            *("--endpoint", f"http://127.0.0.1:{engine_port}"),
            *("--access-log", str(folder / "access.log")),
            stderr=stderr,
        )
    try:
        async with asyncio.timeout(START_S):
            while " models: " not in (said := log.read_text()):  # noqa: ASYNC110  a file has no event
                await asyncio.sleep(0.05)
        port = int(re.findall(r"listening on http://127\.0\.0\.1:(\d+)", said)[0])
        yield process.pid, port
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)  # SIGTERM would leave time to be turned away from.
        await process.wait()


async def look(requests: int, pid: int, port: int, engine: InstantEngine) -> Row:
    """Take a row's numbers from /proc and from the gateway's own metrics."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    proc = Path(f"/proc/{pid}")
    return Row(
        requests,
        int((proc / "statm").read_text().split()[1]) * _PAGE_BYTES,
        len(list((proc / "fd").iterdir())),
        _metric(text, "sluice_event_loop_tasks"),
        _metric(text, "sluice_inflight"),
        engine.connections,
    )


def _metric(text: str, name: str) -> int:
    values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    if not values:
        raise SystemExit(f"bench.leak: no metric {name}")
    return int(sum(map(float, values)))


def growth_bytes(rows: Sequence[Row]) -> float | None:
    """Return by how much RSS grew after the warm-up, or None if a run was too short to tell.

    It is the least-squares line's growth: a single row says little, for RSS comes in steps.
    """
    points = [(row.requests, row.rss_bytes) for row in rows if row.requests >= WARM_UP_REQUESTS]
    if len(points) < 3:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return slope * (points[-1][0] - points[0][0])


def complaints(rows: Sequence[Row], end: Row, holding: int) -> list[str]:
    """Return what was left over; `rows` begins with the idle gateway, `end` is idle again."""
    start = rows[0]
    found = []
    growth = growth_bytes(rows)
    if growth is not None and growth > MAX_GROWTH_BYTES:
        found.append(f"RSS grew by {growth / 2**20:.1f} MiB after the warm-up")
    for name, before, after in (
        ("requests in flight", 0, end.inflight),
        ("requests held by the engine", 0, holding),
        ("file descriptors", start.fds, end.fds),
        ("tasks", start.tasks, end.tasks),
        ("upstream connections", start.upstream, end.upstream),
    ):
        if after > before:
            found.append(f"{name}: {after} at the end, {before} before")
    return found


async def measure(requests: int, row_count: int, console: Console) -> int:
    """Make the requests and print the table; return the exit code."""
    engine = InstantEngine()
    server = await engine.serve()
    engine_port = server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        async with server, gateway(engine_port, Path(folder)) as (pid, port):
            rows = [await look(0, pid, port, engine)]
            started_s = time.monotonic()
            clients = Clients(port, engine)
            numbers = iter(range(requests))
            for _ in range(row_count):
                batch = itertools.islice(numbers, requests // row_count)
                async with asyncio.TaskGroup() as group:
                    for _ in range(CLIENTS):
                        group.create_task(clients.run(batch))
                rows.append(await look(clients.finished, pid, port, engine))
            elapsed_s = time.monotonic() - started_s
            await asyncio.sleep(SETTLE_S)
            end = await look(clients.finished, pid, port, engine)
    show(rows, end, console)
    found = complaints(rows, end, engine.holding)
    for complaint in found:
        console.print(f"LEFT OVER: {complaint}", highlight=False)
    growth = growth_bytes(rows)
    console.print(
        f"{clients.finished:,} requests in {elapsed_s:.0f} s, 30 % of the clients left early; "
        + ("" if growth is None else f"RSS {growth / 2**20:+.2f} MiB after the warm-up; ")
        + ("something was left over" if found else "nothing is left over"),
        highlight=False,
        soft_wrap=True,
    )
    return 1 if found else 0


def show(rows: Sequence[Row], end: Row, console: Console) -> None:
    """Print the rows; the last is the gateway left alone for a while."""
    table = Table("requests", "RSS MiB", "fds", "tasks", "in flight", "upstream sockets")
    for row in (*rows, end):
        name = f"{row.requests:,}" if row is not end else f"+ {SETTLE_S:g} s idle"
        numbers = (row.fds, row.tasks, row.inflight, row.upstream)
        table.add_row(name, f"{row.rss_bytes / 2**20:.2f}", *map(str, numbers))
    console.print(table)


def main(arguments: list[str]) -> int:
    """Measure as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.leak", description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--rows", type=int, default=10)
    chosen = parser.parse_args(arguments)
    return uvloop.run(measure(chosen.requests, chosen.rows, Console()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

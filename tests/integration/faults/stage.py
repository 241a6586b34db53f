"""Where does a fault happen: a real gateway process, simulated engines, and what /proc says?"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.process import PATIENCE_S, ROOT, Served, announced, ready_line, server

MODEL = "m"
"""The one model of every stage; scripted engines list it, too."""

UNSHED = {"max_event_loop_lag_s": 60}
"""For a gateway's `server`: what else keeps the machine busy, and it late, is no overload."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_S = os.sysconf("SC_CLK_TCK")


class Sim:
    """A simulated engine that can be killed, frozen and brought back at the same port."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start and wait until it listens; at the same port as before, if there was one."""
        assert self._process is None
        fast = ("--time-to-first-token", "0", "--inter-token-latency", "0")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "engines.sim", "--ready-line", "--port", str(self.port)),
                *("--served-model-name", MODEL, *fast, *self._arguments),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        url = ready_line(self._process.stdout.readline())
        assert url is not None
        self.port = int(url.rpartition(":")[2])

    def freeze(self) -> None:
        """Stop it without a word to its peers: half-open connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def load(self) -> int:
        """Return how many requests it works on, as it says itself."""
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            return int((await http.get(f"{self.url}/load")).json()["server_load"])

    async def finished(self) -> int:
        """Return how many requests it has ended in any way but by their client's leaving."""
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            said = Metrics((await http.get(f"{self.url}/metrics")).text)
        return int(said.total("vllm:request_success_total"))

    def kill(self) -> None:
        """End it as the kernel's out-of-memory killer does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


@asynccontextmanager
async def sims(count: int, *arguments: str) -> AsyncIterator[list[Sim]]:
    """Run so many equal simulated engines."""
    group = [Sim(*arguments) for _ in range(count)]
    try:
        await asyncio.gather(*[asyncio.to_thread(one.start) for one in group])
        yield group
    finally:
        for one in group:
            one.kill()


@asynccontextmanager
async def gateway(
    folder: Path,
    urls: Sequence[str],
    *,
    cluster: Mapping[str, Any] | None = None,
    top: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    healthy: int | None = None,
) -> AsyncIterator[Served]:
    """Run a gateway whose one cluster has these endpoints; wait until so many, or all, are healthy.

    `cluster` and `top` are merged into the configuration. Leaving sends SIGTERM and asserts that it
    ends with 0 and without a traceback.
    """
    file = folder / "sluice.yaml"
    file.write_text(config(urls, cluster=cluster, top=top))
    argv = [sys.executable, "-m", "gateway", "serve", "-c", str(file), "--port", "0"]
    stack = ExitStack()
    # In threads, since scripted engines live in this loop and are to answer meanwhile.
    served = await asyncio.to_thread(
        stack.enter_context, server(argv, announced, stream="stderr", env=env)
    )
    try:
        await until_healthy(served, len(urls) if healthy is None else healthy)
        yield served
    except BaseException:
        await asyncio.to_thread(stack.__exit__, *sys.exc_info())
        raise
    await asyncio.to_thread(stack.close)
    assert "Traceback" not in "".join(served.lines), "".join(served.lines)


def config(
    urls: Sequence[str],
    *,
    cluster: Mapping[str, Any] | None = None,
    top: Mapping[str, Any] | None = None,
) -> str:
    """Write the configuration of one cluster, `engines`, for the model `m`."""
    own = {"host": "127.0.0.1", "drain_delay_s": 0, "admin": None, **UNSHED}
    given = dict(top or {})
    return yaml.safe_dump(
        {
            "server": {**own, **given.pop("server", {})},
            "clusters": {
                "engines": {"endpoints": [{"url": url} for url in urls], **(cluster or {})}
            },
            "models": {MODEL: {"cluster": "engines"}},
            "logging": {"access": "off"},
            **given,
        }
    )


async def until_healthy(served: Served, count: int) -> None:
    """Wait until so many endpoints are healthy; fail at the usual patience."""

    async def healthy() -> bool:
        return sum(bool(endpoint["healthy"]) for endpoint in await endpoints(served)) >= count

    await until(healthy)


async def until(
    true: Callable[[], Awaitable[bool]], within_s: float = PATIENCE_S, every_s: float = 0.02
) -> None:
    """Look again and again until `true()`; `TimeoutError` when the time is up."""
    async with asyncio.timeout(within_s):
        while not await true():  # noqa: ASYNC110  what is waited for is in another process
            await asyncio.sleep(every_s)


async def endpoints(served: Served) -> list[dict[str, Any]]:
    """Return what `/health` says of every endpoint."""
    found: list[dict[str, Any]] = (await health(served))["endpoints"]["list"]
    return found


async def health(served: Served) -> dict[str, Any]:
    """Return the gateway's `/health`."""
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        said: dict[str, Any] = json.loads((await http.get(f"{served.url}/health")).content)
        return said


class Metrics:
    """One scrape of the gateway's metrics."""

    def __init__(self, text: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    @classmethod
    async def of(cls, served: Served) -> Self:
        """Scrape."""
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            return cls((await http.get(f"{served.url}/metrics")).text)

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels; 0 if there are none."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labelled(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Return every sample of a metric with its labels."""
        return [(one.labels, one.value) for one in self._samples if one.name == name]

    def attempts(self, port: int | None = None) -> float:
        """Return how many attempts were made at the endpoint of a port, or at all of them."""
        return sum(
            value
            for labels, value in self.labelled("sluice_upstream_attempts_total")
            if port is None or labels["endpoint"].endswith(f":{port}")
        )


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds at one moment."""

    rss_bytes: int
    peak_bytes: int
    fds: int
    cpu_s: float


def held(pid: int) -> Held:
    """Read it from /proc."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    times = (proc / "stat").read_text().rpartition(")")[2].split()[11:13]
    return Held(
        int((proc / "statm").read_text().split()[1]) * _PAGE_BYTES,
        int(status["VmHWM"].split()[0]) * 1024,
        len(list((proc / "fd").iterdir())),
        sum(map(int, times)) / _TICKS_S,
    )


async def at_rest(served: Served) -> dict[str, float]:
    """Return what a gateway without work holds: the least of some looks, for probes come and go."""
    least: dict[str, float] = {}
    for _ in range(20):
        metrics = await Metrics.of(served)
        now = {
            "requests in flight": metrics.total("sluice_inflight"),
            "tasks": metrics.total("sluice_event_loop_tasks"),
            "file descriptors": float(held(served.pid).fds),
        }
        least = {name: min(value, least.get(name, value)) for name, value in now.items()}
        await asyncio.sleep(0.1)
    return least


async def left_behind(served: Served, before: Mapping[str, float]) -> list[str]:
    """Say what is held that was not held before, when all that goes by itself has had its time."""
    end = time.monotonic() + PATIENCE_S
    while (found := left_over(before, await at_rest(served))) and time.monotonic() < end:
        pass
    return found


def left_over(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Say what is held at rest that was not held before."""
    return [
        f"{name}: {after[name]:g} after {before[name]:g}"
        for name in before
        if after[name] > before[name]
    ]


def forget_peak(pid: int) -> None:
    """Let the peak of the resident set begin anew from what it is now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@asynccontextmanager
async def stage(
    folder: Path,
    count: int,
    *arguments: str,
    cluster: Mapping[str, Any] | None = None,
    top: Mapping[str, Any] | None = None,
) -> AsyncIterator[tuple[Served, list[Sim]]]:
    """Run a gateway in front of so many equal simulated engines."""
    async with AsyncExitStack() as stack:
        group = await stack.enter_async_context(sims(count, *arguments))
        urls = [one.url for one in group]
        yield (
            await stack.enter_async_context(gateway(folder, urls, cluster=cluster, top=top)),
            group,
        )

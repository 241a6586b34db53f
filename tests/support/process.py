"""Real server processes: the gateway as its operator starts it, and simulated engines behind it."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

PATIENCE_S = 60.0
"""How long a server may take for what it normally does at once."""

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    pid: int
    lines: list[str] = field(repr=False)
    """What it has said so far."""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def sluice(
    *arguments: str | Path, model: str | None = None, verify: str | bool = True
) -> Iterator[Served]:
    """Run `sluice serve` on a free port; with `model`, wait until it is served.

    Leaving the block sends SIGINT and asserts that the gateway ends with 0 and without a
    traceback. `verify` is httpx's, for a gateway that speaks TLS.
    """
    argv = [sys.executable, "-m", "gateway", "serve", *map(str, arguments), "--port", "0"]
    with server(argv, announced, stream="stderr") as served:
        if model is not None:
            wait_for_model(served.url, model, verify=verify)
        yield served
    assert "Traceback" not in "".join(served.lines), "".join(served.lines)


@contextmanager
def sim(*arguments: str) -> Iterator[Served]:
    """Run a simulated engine that answers without delay, on a free port."""
    fast = ("--time-to-first-token", "0", "--inter-token-latency", "0")
    argv = [sys.executable, "-m", "engines.sim", "--port", "0", "--ready-line", *fast, *arguments]
    with server(argv, ready_line, stream="stdout") as served:
        yield served


@contextmanager
def server(
    argv: list[str],
    url_in: Callable[[str], str | None],
    *,
    stream: str,
    env: Mapping[str, str] | None = None,
) -> Iterator[Served]:
    """Run a server that tells its address in a line; SIGINT it at the end and assert its 0."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": None, stream: subprocess.PIPE}
    with subprocess.Popen(
        argv, cwd=ROOT, env={**os.environ, **(env or {})}, text=True, **pipes
    ) as child:
        said: IO[str] | None = getattr(child, stream)
        assert said is not None
        urls: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        lines: list[str] = []

        def listen() -> None:
            for line in said:
                lines.append(line)
                if (url := url_in(line)) is not None:
                    urls.put(url)
            urls.put(None)

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            url = urls.get(timeout=PATIENCE_S)
            assert url is not None, f"{argv} ended: {''.join(lines)}"
            yield Served(url, child.pid, lines)
            # Not SIGTERM: after that the gateway's listener stays open for some seconds.
            child.send_signal(signal.SIGINT)
            assert child.wait(PATIENCE_S) == 0, "".join(lines)
        finally:
            child.kill()
            listener.join()


def announced(line: str) -> str | None:
    """Return the address in the gateway's log line."""
    _, found, url = line.partition("listening on ")
    return url.strip() if found else None


def ready_line(line: str) -> str | None:
    """Return the address in a simulated engine's ready line."""
    said = json.loads(line)
    return f"http://{said['host']}:{said['port']}"


def wait_for_model(url: str, model: str, *, verify: str | bool = True) -> None:
    """Wait until the gateway lists the model and would take requests."""
    with httpx.Client(trust_env=False, verify=verify) as http:

        def serves() -> bool:
            listed = http.get(f"{url}/v1/models").json()["data"]
            return (
                any(entry["id"] == model for entry in listed)
                and http.get(f"{url}/readyz").status_code == 200
            )

        until(serves, f"{model} is served")


def until(true: Callable[[], bool], what: str, deadline_s: float = PATIENCE_S) -> None:
    """Look again and again until `true()`, and fail at the deadline."""
    end = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < end, f"{deadline_s:g} s passed before {what}"
        time.sleep(0.02)

"""Row 14: what do clients have of a gateway that is told to stop under load?"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.integration.faults.figure import Figure, Scale, holds, most, none
from tests.integration.faults.stage import until
from tests.support.process import Served, sim, sluice

STREAMS = 20
TOKENS = 40
CHAT = {
    "model": "sim",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": TOKENS,
    "ignore_eos": True,
}
CONFIG = """\
server:
  host: 127.0.0.1
  admin: null
  max_event_loop_lag_s: 60
  drain_delay_s: {delay}
  drain_s: {drain}
clusters:
  engines: {{endpoints: [{{url: "{url}"}}]}}
models:
  sim: {{cluster: engines}}
logging: {{access: off}}
"""
_DELAY_S = 5.0
"""Time enough for what is asked before the listener closes, and less than the streams take."""
_DRAIN_S = 1.0


@dataclass
class Stream:
    """One client's stream as it came."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    events: list[str] = field(default_factory=list)
    ended: bool = False
    """Whether the response ended as HTTP has it."""

    async def read(self, gateway: Served, http: httpx.AsyncClient) -> None:
        """Ask, and read to whatever end it comes to."""
        url = f"{gateway.url}/v1/chat/completions"
        with suppress(httpx.HTTPError):
            async with http.stream("POST", url, json={**CHAT, "stream": True}) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        self.events.append(line.removeprefix("data: "))
                        self.begun.set()
            self.ended = True

    @property
    def end(self) -> str:
        """`whole`, the code of the one error that it ended with, or what is wrong with its end."""
        if not self.ended or not self.events:
            return "cut"
        errors = ["error" in one for one in map(_loaded, self.events)]
        if not any(errors):
            whole = self.events[-1] == "[DONE]" and len(self.events) > TOKENS
            return "whole" if whole else "without its end mark"
        if errors.index(True) != len(errors) - 1:
            return "an error, and more after it"
        return str(json.loads(self.events[-1])["error"]["code"])


def _loaded(event: str) -> object:
    return {} if event == "[DONE]" else json.loads(event)


@asynccontextmanager
async def under_load(
    folder: Path, delay: float, drain: float, stream_s: float = 4.0
) -> AsyncIterator[tuple[Served, list[Stream]]]:
    """A gateway with streams under way; leaving waits for them and for it to end."""
    async with AsyncExitStack() as stack:
        processes = stack.enter_context(ExitStack())
        latency = f"{stream_s / TOKENS * 1000:g}ms"
        engine = processes.enter_context(sim("--inter-token-latency", latency))
        file = folder / "sluice.yaml"
        file.write_text(CONFIG.format(url=engine.url, delay=delay, drain=drain))
        gateway = processes.enter_context(sluice("-c", file, model="sim"))
        http = await stack.enter_async_context(client())
        streams = [Stream() for _ in range(STREAMS)]
        async with asyncio.timeout(30 + stream_s), asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(stream.read(gateway, http))
            for stream in streams:
                await stream.begun.wait()
            yield gateway, streams
        # A further signal, which `sluice` sends, would be the one that kills.
        await asyncio.to_thread(os.waitid, os.P_PID, gateway.pid, os.WEXITED | os.WNOWAIT)


def client() -> httpx.AsyncClient:
    """Return a client that is as patient as the streams are long."""
    return httpx.AsyncClient(trust_env=False, timeout=30.0)


async def status(gateway: Served, path: str) -> int:
    """Return the status of one GET on a connection of its own: the listener is the question."""
    async with client() as http:
        return (await http.get(gateway.url + path)).status_code


async def _until_unready(gateway: Served) -> None:
    async def unready() -> bool:
        return await status(gateway, "/readyz") == 503

    await until(unready)


async def _refuses(gateway: Served) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    except ConnectionError:
        return True
    writer.close()
    return False


async def row_14(folder: Path, scale: Scale) -> list[Figure]:
    """One SIGTERM; a second one; and streams that outlast the deadline."""
    return [
        *await _in_peace(folder, scale),
        *await _forced(folder, scale),
        *await _too_late(folder, scale),
    ]


async def _in_peace(folder: Path, scale: Scale) -> list[Figure]:
    load = under_load(folder, _DELAY_S, scale.stream_s + 10, scale.stream_s)
    async with load as (gateway, streams):
        async with client() as kept:
            await kept.get(f"{gateway.url}/livez")
            told = time.monotonic()
            os.kill(gateway.pid, signal.SIGTERM)
            await _until_unready(gateway)
            ready_s = time.monotonic() - told
            late = await kept.post(
                f"{gateway.url}/v1/chat/completions", json={**CHAT, "max_tokens": 2}
            )
        anew = await status(gateway, "/v1/models")
        await until(lambda: _refuses(gateway))
        closed_s = time.monotonic() - told
        under_way = sum(not stream.ended for stream in streams)
    lost = [stream.end for stream in streams if stream.end != "whole"]
    served = (late.status_code, late.headers.get("connection"), anew)
    return [
        most("readiness is 503 after", 0.5, ready_s, " s", scale.noise_s),
        holds(
            "then, on a kept connection and on a new one",
            "200, with `connection: close`; 200",
            served,
            ok=served == (200, "close", 200),
        ),
        holds(
            "the listener closes after",
            f"{_DELAY_S:g} to {_DELAY_S + 1:g} s",
            f"{closed_s:.2f} s",
            ok=_DELAY_S <= closed_s <= _DELAY_S + 1 + scale.noise_s,
        ),
        holds("streams under way then", str(STREAMS), under_way, ok=under_way == STREAMS),
        none(f"streams of {scale.stream_s:g} s dropped", lost, STREAMS),
    ]


async def _forced(folder: Path, scale: Scale) -> list[Figure]:
    async with under_load(folder, delay=5, drain=20, stream_s=10) as (gateway, streams):
        os.kill(gateway.pid, signal.SIGTERM)
        await _until_unready(gateway)
        forced = time.monotonic()
        os.kill(gateway.pid, signal.SIGTERM)
    took_s = time.monotonic() - forced
    return [
        most("a second SIGTERM ends it within", 1, took_s, " s", scale.slack_s),
        _one_error("its streams", streams),
    ]


async def _too_late(folder: Path, scale: Scale) -> list[Figure]:
    async with under_load(folder, delay=0, drain=_DRAIN_S, stream_s=10) as (gateway, streams):
        told = time.monotonic()
        os.kill(gateway.pid, signal.SIGTERM)
    took_s = time.monotonic() - told
    return [
        holds(
            f"a deadline of {_DRAIN_S:g} s ends it after",
            f"{_DRAIN_S:g} to {_DRAIN_S + 1:g} s",
            f"{took_s:.2f} s",
            ok=_DRAIN_S <= took_s <= _DRAIN_S + 1 + scale.slack_s,
        ),
        _one_error("its streams", streams),
    ]


def _one_error(name: str, streams: Sequence[Stream]) -> Figure:
    """Each stream ended in the one typed error, and without [DONE]."""
    ends = sorted({stream.end for stream in streams})
    return holds(name, "one error each: overloaded", ends, ok=ends == ["overloaded"])

"""Row 14: SIGTERM under load. Nothing is dropped, or each stream gets its one honest error."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import websockets

from tests.support.process import Served, sim, sluice

pytestmark = pytest.mark.integration

STREAMS = 20
TOKENS = 40
STREAM_S = 4.0
CHAT = {
    "model": "sim",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": TOKENS,
    "ignore_eos": True,
}
STREAM = {**CHAT, "stream": True}
CONFIG = """\
server: {{host: 127.0.0.1, admin: null, drain_delay_s: {delay}, drain_s: {drain}}}
clusters:
  engines: {{endpoints: [{{url: "{url}"}}]}}
models:
  sim: {{cluster: engines}}
logging: {{access: off}}
"""


@dataclass
class Stream:
    """One client's stream as it came."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    events: list[str] = field(default_factory=list)
    whole: bool = False
    """Whether the response ended as HTTP has it."""

    async def read(self, gateway: Served, http: httpx.AsyncClient) -> None:
        url = f"{gateway.url}/v1/chat/completions"
        async with http.stream("POST", url, json=STREAM) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    self.events.append(line.removeprefix("data: "))
                    self.begun.set()
        self.whole = True

    @property
    def done(self) -> bool:
        return self.whole and self.events[-1] == "[DONE]"

    @property
    def error(self) -> str:
        """The code of the error that it ended with, after which nothing came."""
        assert self.whole
        assert "[DONE]" not in self.events
        errors = [event for event in self.events if "error" in json.loads(event)]
        assert errors == self.events[-1:]
        return str(json.loads(errors[0])["error"]["code"])


@asynccontextmanager
async def under_load(
    folder: Path, delay: float, drain: float
) -> AsyncIterator[tuple[Served, list[Stream]]]:
    """A gateway with streams of 4 s under way; leaving waits for them to end."""
    async with AsyncExitStack() as stack:
        processes = stack.enter_context(ExitStack())
        latency = f"{STREAM_S / TOKENS * 1000:g}ms"
        engine = processes.enter_context(sim("--inter-token-latency", latency))
        file = folder / "sluice.yaml"
        file.write_text(CONFIG.format(url=engine.url, delay=delay, drain=drain))
        gateway = processes.enter_context(sluice("-c", file, model="sim"))
        http = await stack.enter_async_context(client())
        streams = [Stream() for _ in range(STREAMS)]
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(stream.read(gateway, http))
            for stream in streams:
                await stream.begun.wait()
            yield gateway, streams
        # A further signal, which `sluice` sends, would be the one that kills.
        await asyncio.to_thread(os.waitid, os.P_PID, gateway.pid, os.WEXITED | os.WNOWAIT)


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=20.0)


async def status(gateway: Served, path: str) -> int:
    async with client() as http:  # A new connection each time: the listener's is the question.
        return (await http.get(gateway.url + path)).status_code


async def refuses(gateway: Served) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    except ConnectionError:
        return True
    writer.close()
    return False


async def heard(socket: websockets.ClientConnection) -> AsyncIterator[str | bytes]:
    """Yield messages until the other side closes, in whatever way."""
    with suppress(websockets.ConnectionClosed):
        while True:
            yield await socket.recv()


async def test_sigterm_under_load_drops_nothing(tmp_path: Path) -> None:
    """Readiness says 503 at once, new connections are served for the delay, then refused."""
    async with under_load(tmp_path, delay=1, drain=10) as (gateway, streams):
        async with client() as kept:
            before = await kept.get(f"{gateway.url}/livez")
            assert "connection" not in before.headers
            os.kill(gateway.pid, signal.SIGTERM)
            told = time.monotonic()
            while await status(gateway, "/readyz") == 200:
                assert time.monotonic() - told < 0.5
            late = await kept.post(
                f"{gateway.url}/v1/chat/completions", json={**CHAT, "max_tokens": 2}
            )
        assert (late.status_code, late.headers["connection"]) == (200, "close")
        assert await status(gateway, "/v1/models") == 200
        assert time.monotonic() - told < 1
        while not await refuses(gateway):
            assert time.monotonic() - told < 2
            await asyncio.sleep(0.02)
        assert time.monotonic() - told >= 1
        assert not any(stream.whole for stream in streams)

    assert sum(stream.done for stream in streams) == STREAMS
    assert all(len(stream.events) >= TOKENS for stream in streams)


async def test_a_second_signal_ends_each_stream_with_one_error(tmp_path: Path) -> None:
    """No [DONE], no cut connection; and not a second later than a second."""
    async with under_load(tmp_path, delay=5, drain=10) as (gateway, streams):
        os.kill(gateway.pid, signal.SIGTERM)
        assert await status(gateway, "/readyz") == 503
        os.kill(gateway.pid, signal.SIGTERM)
        forced = time.monotonic()

    assert time.monotonic() - forced < 2
    assert {stream.error for stream in streams} == {"overloaded"}


async def test_the_deadline_ends_each_stream_with_one_error(tmp_path: Path) -> None:
    """drain_s after the listener has closed."""
    async with under_load(tmp_path, delay=0, drain=1) as (gateway, streams):
        os.kill(gateway.pid, signal.SIGTERM)
        told = time.monotonic()

    assert 1 <= time.monotonic() - told < 3
    assert {stream.error for stream in streams} == {"overloaded"}


async def test_a_websocket_finishes_its_answer_and_is_closed(tmp_path: Path) -> None:
    """1012 says: come again; an idle one hears it as soon as the listener closes."""
    async with under_load(tmp_path, delay=0, drain=10) as (gateway, _):
        url = gateway.url.replace("http", "ws") + "/v1/chat/ws"
        async with websockets.connect(url) as busy, websockets.connect(url) as idle:
            await busy.send(json.dumps({**CHAT, "max_tokens": 20}))
            await busy.recv()
            os.kill(gateway.pid, signal.SIGTERM)
            with pytest.raises(websockets.ConnectionClosed):
                await idle.recv()
            said = [message async for message in heard(busy)]
        assert (idle.close_code, busy.close_code) == (1012, 1012)
        assert json.loads(said[-1]) == {"type": "done"}

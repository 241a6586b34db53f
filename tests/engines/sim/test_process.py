"""Does `python -m engines.sim` start, announce itself, drain and stop as vLLM does?"""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest

from engines.sim import faults
from engines.sim.__main__ import duration_s, parse_settings
from engines.sim.faults import Break, Faults

_ENDLESS = {
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 30000,
    "ignore_eos": True,
}
_ERROR = b'data: {"error": {"message": "EngineCore encountered an issue.'


@dataclass(frozen=True)
class Process:
    """A running engine process."""

    child: asyncio.subprocess.Process
    port: int

    async def ask(
        self, body: object, *, until: bytes = b"\r\n\r\n"
    ) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        """POST a chat request and read up to a mark."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        data = json.dumps(body).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)
        )
        return (await reader.readuntil(until) if until else b""), reader, writer

    async def get(self, path: str) -> bytes:
        """GET on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        received = await reader.read()
        writer.close()
        return received


@asynccontextmanager
async def _running(*arguments: str) -> AsyncIterator[Process]:
    command = ("-m", "engines.sim", "--port", "0", "--ready-line", *arguments)
    child = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(30):
            ready = json.loads(await child.stdout.readline())
        assert ready["pid"] == child.pid
        yield Process(child, ready["port"])
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start engine processes; they end with the test."""
    async with AsyncExitStack() as stack, asyncio.timeout(60):

        async def run(*arguments: str) -> Process:
            return await stack.enter_async_context(_running(*arguments))

        yield run


async def test_sigterm_ends_streams_with_the_in_band_error(start: Start) -> None:
    """By default: error event, end mark, proper end; a 500 for the rest; exit status 0."""
    engine = await start()
    _, streamed, one = await engine.ask(_ENDLESS | {"stream": True}, until=b"Simulated")
    _, whole, two = await engine.ask(_ENDLESS, until=b"")
    while b'running{engine="0",model_name="sim"} 2.0' not in await engine.get("/metrics"):
        pass
    engine.child.send_signal(signal.SIGTERM)
    tail, answer = await streamed.read(), await whole.read()
    one.close()
    two.close()
    assert _ERROR in tail
    assert tail.endswith(b"\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert await engine.child.wait() == 0


async def test_a_drain_lets_short_requests_finish(start: Start) -> None:
    """With a shutdown time-out: /health stays 200, new requests get 500, the stream completes."""
    engine = await start("--shutdown-timeout", "30", "--inter-token-latency", "150ms")
    short = {**_ENDLESS, "max_tokens": 20, "stream": True}
    _, streamed, one = await engine.ask(short, until=b"Simulated")
    engine.child.send_signal(signal.SIGTERM)
    while True:
        refused, _, two = await engine.ask({**_ENDLESS, "max_tokens": 1})
        two.close()
        if not refused.startswith(b"HTTP/1.1 200"):
            break
    assert refused.startswith(b"HTTP/1.1 500 ")
    assert (await engine.get("/health")).startswith(b"HTTP/1.1 200 OK")
    tail = await streamed.read()
    one.close()
    assert b'"finish_reason":"length"' in tail
    assert _ERROR not in tail
    assert await engine.child.wait() == 0


async def test_a_drain_ends_at_its_time_out(start: Start) -> None:
    """What takes longer is ended like without a drain."""
    engine = await start("--shutdown-timeout", "0.05")
    _, streamed, writer = await engine.ask(_ENDLESS | {"stream": True}, until=b"Simulated")
    engine.child.send_signal(signal.SIGINT)
    assert _ERROR in await streamed.read()
    writer.close()
    assert await engine.child.wait() == 0


async def test_a_taken_port_is_a_plain_error(start: Start) -> None:
    """One line on stderr, status 1, no traceback."""
    engine = await start()
    second = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engines.sim", "--port", str(engine.port)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await second.communicate()
    assert second.returncode == 1
    assert stderr.startswith(b"cannot listen on 127.0.0.1:")
    assert stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("text", "expected"), [("20", 0.02), ("20ms", 0.02), ("1.5s", 1.5), ("0", 0.0), (".5s", 0.5)]
)
def test_durations_are_milliseconds_unless_they_say_otherwise(text: str, expected: float) -> None:
    """As with llm-d-inference-sim."""
    assert duration_s(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "fast", "-1", "1h", "1e3"])
def test_other_durations_are_refused(text: str) -> None:
    """With a hint of what works."""
    with pytest.raises(argparse.ArgumentTypeError, match="not a duration"):
        duration_s(text)


def test_the_arguments_become_settings() -> None:
    """Names, timing, limits and faults arrive where they belong."""
    server = "--api-key k --startup-duration 2s --model m --served-model-name a b"
    engine = "--max-num-seqs 3 --max-num-queued-reqs 4 --max-model-len 100 --seed 9"
    timed = "--time-to-first-token 0 --inter-token-latency 7"
    failing = (
        "--failure-injection-rate 12.5 --failure-types rate_limit,reset-after=2 "
        "--fault delay-first=1 --allow-fault-headers"
    )
    settings, _ = parse_settings(f"{server} {engine} {timed} {failing}".split())
    served, timing, limits = settings.served, settings.timing, settings.limits
    assert (served.names, served.root, served.max_model_len, served.seed) == (
        ("a", "b"),
        "m",
        100,
        9,
    )
    assert (timing.first_token_s, timing.inter_token_s, timing.prefill_token_s) == (0.0, 0.007, 0.0)
    assert (limits.max_num_seqs, limits.max_queued, limits.blocks) == (3, 4, 28)
    assert settings.faults.always == faults.parse("delay-first=1")
    assert settings.faults.types == (Faults(status=429), Faults(broken=Break.RESET, after_tokens=2))
    assert (settings.faults.rate_percent, settings.faults.allow_headers) == (12.5, True)
    assert (settings.startup_s, settings.api_key) == (2.0, "k")
    assert "k'" not in repr(settings)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fault", "explode"],
        ["--failure-types", "explode"],
        ["--max-num-seqs", "0"],
        ["--failure-injection-rate", "101"],
        ["--time-to-first-token", "soon"],
    ],
)
def test_wrong_arguments_are_user_errors(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and the message names the option."""
    with pytest.raises(SystemExit) as caught:
        parse_settings(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


async def test_the_port_is_closed_while_the_model_would_load(start: Start) -> None:
    """The ready line comes after the start-up time, and a signal meanwhile ends the process."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await start("--startup-duration", "300ms")
    assert loop.time() - began_s >= 0.3
    loading = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engines.sim", "--port", "0", "--startup-duration", "3600s"),
        *("--log-level", "info"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert loading.stderr is not None
    assert b"loading" in await loading.stderr.readline()
    loading.terminate()
    assert await loading.wait() == 0

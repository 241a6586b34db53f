"""What do the tests of the simulated engine share?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from engines.sim import faults
from engines.sim.api import chat, completions, messages, responses
from engines.sim.api.model import Served, Shape, Tally
from engines.sim.generation import Piece
from engines.sim.scheduler import Timing
from engines.sim.server import RunningServer, listening
from engines.sim.settings import FaultSettings, Settings

INSTANT = Timing(first_token_s=0.0, inter_token_s=0.0)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on the loop that the engine really runs on: its handles and transports differ."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass(frozen=True)
class PureEngine:
    """Answers requests without sockets, time or scheduler: reader, generation and shape only."""

    served: Served
    families: dict[str, Any] = field(
        default_factory=lambda: {
            "chat": (chat.read, chat.ChatShape),
            "completions": (completions.read, completions.CompletionShape),
            "messages": (messages.read, messages.MessageShape),
            "responses": (responses.read, responses.ResponseShape),
        }
    )

    def _run(self, family: str, body: dict[str, Any]) -> tuple[Shape, list[list[Piece]], Tally]:
        read, make_shape = self.families[family]
        request = read(body, self.served)
        shape: Shape = make_shape(request, "abc", 1700000000)
        tally = Tally(sum(len(prompt.tokens) for prompt in request.prompts), 0, 0, 0)
        choices = []
        for choice in range(request.choices):
            generation = request.generation(choice)
            pieces = [generation.step()]
            while pieces[-1].finish is None:
                pieces.append(generation.step())
            choices.append(pieces)
        return shape, choices, tally

    def whole(self, family: str, body: dict[str, Any]) -> Any:
        """The JSON body of an answer that is not streamed."""
        shape, choices, tally = self._run(family, body)
        tally.completion_tokens = sum(map(len, choices))
        return json.loads(shape.whole(choices, tally))

    def raw_events(self, family: str, body: dict[str, Any]) -> list[bytes]:
        """The events of a streamed answer."""
        shape, choices, tally = self._run(family, body | {"stream": True})
        events = shape.opening(tally)
        for choice, pieces in enumerate(choices):
            for piece in pieces:
                tally.completion_tokens += 1
                events.append(shape.event(choice, piece, tally))
        return events + shape.closing(tally)

    def events(self, family: str, body: dict[str, Any]) -> list[Any]:
        """The data of a streamed answer's events, without the end mark."""
        lines = b"".join(self.raw_events(family, body)).splitlines()
        data = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]
        return [json.loads(item) for item in data if item != b"[DONE]"]


@pytest.fixture
def served() -> Served:
    """An engine that serves one model under two names."""
    return Served(("tiny", "tiny-alias"), "models/tiny", max_model_len=512)


@pytest.fixture
def pure(served: Served) -> PureEngine:
    """The API without a server."""
    return PureEngine(served)


@dataclass(frozen=True)
class RawReply:
    """What came over a socket until the other side closed or the message was complete."""

    status: int
    headers: dict[str, str]
    body: bytes
    """As on the wire: chunked framing is kept."""
    reset: bool = False

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


StartServer = Callable[..., Awaitable[RunningServer]]


@pytest.fixture
async def start_server() -> AsyncIterator[StartServer]:
    """Start simulated engines in this loop; they stop with the test."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> RunningServer:
            given = {
                "served": Served(("sim",), "sim", max_model_len=4096),
                "port": 0,
                "timing": INSTANT,
                "faults": FaultSettings(faults.NONE, allow_headers=True),
            } | settings
            return await stack.enter_async_context(listening(Settings(**given)))

        yield start


async def _until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - the condition is about state that nothing announces
        await asyncio.sleep(0.001)


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait for a condition; the caller bounds the time."""
    return _until


class Client:
    """A plain HTTP client on a socket, for what proper clients hide."""

    def __init__(self, server: RunningServer, writers: list[asyncio.StreamWriter]) -> None:
        self._server = server
        self._writers = writers

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection; it is closed with the test at the latest."""
        reader, writer = await asyncio.open_connection(self._server.host, self._server.port)
        self._writers.append(writer)
        return reader, writer

    async def post(self, path: str, body: Any, **headers: str) -> RawReply:
        """Send JSON on a connection of its own and read until it closes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send("POST", path, data, {"content-type": "application/json"} | headers)

    async def get(self, path: str, **headers: str) -> RawReply:
        """Send a GET on a connection of its own and read until it closes."""
        return await self.send("GET", path, b"", headers)

    async def send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> RawReply:
        """Send one request and read until the connection closes."""
        reader, writer = await self.connect()
        writer.write(request_bytes(method, path, body, {"connection": "close"} | headers))
        try:
            return await read_reply(reader)
        finally:
            writer.close()


def request_bytes(method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """One HTTP/1.1 request; header names may use underscores."""
    lines = [f"{method} {path} HTTP/1.1", "host: test", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def read_reply(reader: asyncio.StreamReader) -> RawReply:
    """Read until the other side closes or resets."""
    data, reset = b"", False
    try:
        while piece := await reader.read(65536):
            data += piece
    except ConnectionResetError:
        reset = True
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split(" ")[1]) if lines[0].startswith("HTTP/1.1 ") else 0
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    return RawReply(status, headers, body, reset)


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[[RunningServer], Client]]:
    """Make a plain client for a server."""
    writers: list[asyncio.StreamWriter] = []
    yield lambda server: Client(server, writers)
    for writer in writers:
        writer.close()

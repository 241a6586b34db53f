"""A gateway for the control routes to show and ask: scripted, and it remembers who left when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from fastapi import FastAPI
from starlette.types import Message

from gateway.control.app import build
from gateway.control.view import Answer, CutError, EndpointView, Headers, ModelView

EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
JSON = (b"content-type", b"application/json")

DATA_ROUTES = {"/v1/chat/completions": "POST", "/v1/completions": "POST", "/tokenize": "POST"}

PATIENCE_S = 30.0
"""How long a test waits for what must happen at once, before it fails instead of hanging."""


@dataclass
class ManualClock:
    """Stands still until a test moves it."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


@dataclass
class FakeView:
    """What a test says the gateway is."""

    known: Sequence[ModelView] = ()
    pool: Sequence[EndpointView] = ()
    draining: bool = False
    version: str = "1.2.3"
    generation: int = 7

    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the listener is closed."""

    async def closing(self) -> None:
        await self.left.wait()

    def models(self) -> Sequence[ModelView]:
        return self.known

    def endpoints(self) -> Sequence[EndpointView]:
        return self.pool

    def uptime_s(self) -> float:
        return 12.5

    def metrics_text(self) -> tuple[bytes, str]:
        return b"sluice_inflight 0.0\n", "text/plain; version=1.0.0; charset=utf-8"


def model(name: str, **metadata: object) -> ModelView:
    return ModelView(name, 1_700_000_000, "vllm", metadata)


def endpoint(name: str, *models: str, healthy: bool = True) -> EndpointView:
    return EndpointView(name, "pool", f"http://{name}:8000", healthy, 3, models)


class Then(StrEnum):
    """What an answer does after its last piece."""

    END = "end"
    HANG = "hang"
    CUT = "cut"


@dataclass
class Script:
    """How the data path will answer one request."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    headers: Headers = field(default_factory=lambda: [EVENTS])
    then: Then = Then.END
    hang_before_head: bool = False
    defect: Exception | None = None


@dataclass
class Asked:
    """One request that the data path was sent, and what became of it."""

    path: str
    headers: Headers
    body: bytes
    client: str = ""
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the answer hangs."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the asking side has left the context."""
    whole: bool = False
    """Whether the body was read to its end before that."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


class FakeAsk:
    """Answers the n-th request with the n-th script."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.asked: list[Asked] = []
        self.arrived = asyncio.Event()
        """Set with every request; a test that waits for the next one clears it."""

    @asynccontextmanager
    async def __call__(
        self, path: str, headers: Headers, body: bytes, client: str
    ) -> AsyncIterator[Answer]:
        script = self._scripts[len(self.asked)]
        asked = Asked(path, headers, body, client)
        self.asked.append(asked)
        self.arrived.set()
        try:
            if script.defect is not None:
                raise script.defect
            if script.hang_before_head:
                await _hang(asked)
            yield Answer(script.status, script.headers, _play(script, asked))
        finally:
            asked.left.set()


async def _play(script: Script, asked: Asked) -> AsyncIterator[bytes]:
    for piece in script.pieces:
        await asyncio.sleep(0)  # As on a socket, others run between two reads.
        yield piece
    if script.then is Then.HANG:
        await _hang(asked)
    if script.then is Then.CUT:
        raise CutError
    asked.whole = True


async def _hang(asked: Asked) -> None:
    asked.waiting.set()
    await asyncio.Event().wait()


def sse(*payloads: Mapping[str, object] | str) -> bytes:
    """Write events as vLLM does; a string is written as it is."""
    texts = [item if isinstance(item, str) else json.dumps(item) for item in payloads]
    return b"".join(b"data: %b\n\n" % text.encode() for text in texts)


def app(ask: FakeAsk | None = None, view: FakeView | None = None, **settings: Any) -> FastAPI:
    """Build the app over fakes."""
    settings.setdefault("clock", ManualClock())
    return build(view or FakeView(), ask or FakeAsk(), data_routes=DATA_ROUTES, **settings)


class Talk:
    """One ASGI connection, driven message by message on the test's own loop.

    httpx's transport cannot leave early and Starlette's test client runs another loop in a thread;
    here a test sees each message and can leave between any two.
    """

    def __init__(self, app: FastAPI, kind: str, path: str, headers: Headers) -> None:
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._outbox: asyncio.Queue[Message] = asyncio.Queue()
        self._app = app
        self._broken = False
        self._scope: dict[str, Any] = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "http" if kind == "http" else "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"gateway"), *headers],
            "client": ("127.0.0.1", 5),
            "server": ("127.0.0.1", 8000),
            "extensions": {"websocket.http.response": {}},
        }
        if kind == "http":
            self._scope["method"] = "POST"
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Talk:
        self._task = asyncio.create_task(self._app(self._scope, self._inbox.get, self._take))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait for the app to be done with the connection; fail if it is not."""
        assert self._task is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._task
        finally:
            self._task.cancel()

    def say(self, **message: Any) -> None:
        self._inbox.put_nowait(message)

    async def hear(self) -> Message:
        async with asyncio.timeout(PATIENCE_S):
            return await self._outbox.get()

    def break_sends(self) -> None:
        """From now on each send fails, as on a host that knows its client has left."""
        self._broken = True

    async def _take(self, message: Message) -> None:
        if self._broken:
            raise OSError("the client has left")
        await self._outbox.put(message)

    @property
    def unread(self) -> int:
        """Messages to the app that it has not asked for."""
        return self._inbox.qsize()

    @property
    def silent(self) -> bool:
        """Whether everything that was sent has been heard."""
        return self._outbox.empty()


class Post(Talk):
    """One POST whose client may leave."""

    def __init__(
        self,
        app: FastAPI,
        path: str,
        body: bytes,
        headers: Headers | None = None,
        *,
        query: bytes = b"",
        more_body: bool = False,
    ) -> None:
        super().__init__(app, "http", path, headers or [JSON])
        self._scope["query_string"] = query
        self.say(type="http.request", body=body, more_body=more_body)

    def leave(self) -> None:
        self.say(type="http.disconnect")


class Socket(Talk):
    """One WebSocket client."""

    def __init__(self, app: FastAPI, headers: Headers | None = None) -> None:
        super().__init__(app, "websocket", "/v1/chat/ws", headers or [])
        self.say(type="websocket.connect")

    async def open(self) -> Message:
        message = await self.hear()
        assert message["type"] == "websocket.accept"
        return message

    def send(self, value: object) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self.say(type="websocket.receive", text=text)

    async def receive(self) -> Any:
        message = await self.hear()
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    def leave(self) -> None:
        self.say(type="websocket.disconnect", code=1001)


async def within(event: asyncio.Event) -> None:
    """Wait for `event`; fail if it does not come."""
    async with asyncio.timeout(PATIENCE_S):
        await event.wait()

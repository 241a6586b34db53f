"""The vision service's API over models that do as they are told, and a client without sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vision.api.departures import Departures
from vision.api.http import Http
from vision.api.predict import Limits
from vision.api.view import Life, View
from vision.config import Preprocessing, Raw
from vision.decoding import Decoder
from vision.errors import DeadlineExceeded, ModelNotFound, ModelNotReady
from vision.fetch import Fetcher, FetchSettings
from vision.images import ImageLimits
from vision.postprocess import compile_postprocessing
from vision.preprocess import Preprocessor
from vision.repository import Entry
from vision.service import Service
from vision.telemetry import Standing, Telemetry
from vision.tensors import Array, Arrays, DataType, TensorSpec
from vision.versions import Rest, State

PIXELS = TensorSpec("pixels", DataType.FP32, (1, 2, 2))
SUMS = TensorSpec("sums", DataType.FP32, (2,))
TWICE = TensorSpec("twice", DataType.FP32, (1, 2, 2))


@dataclass
class FakeLane:
    """Answers each row with its sum and its mean, and with twice itself."""

    error: BaseException | None = None
    answer: dict[str, Array] | None = None
    """Instead of the sums."""
    gate: asyncio.Event | None = None
    """What the answer waits for."""
    asked: list[tuple[Arrays, float | None]] = field(default_factory=list)
    cancelled: int = 0
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: asyncio.Event = field(default_factory=asyncio.Event)

    async def infer(self, inputs: Arrays, deadline: float | None = None) -> dict[str, Array]:
        self.asked.append((inputs, deadline))
        self.entered.set()
        if self.gate is not None:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                self.dropped.set()
                raise
        if self.error is not None:
            raise self.error
        if self.answer is not None:
            return self.answer
        pixels = inputs["pixels"].reshape(len(inputs["pixels"]), -1)
        sums = np.stack([pixels.sum(1), pixels.mean(1)], axis=1).astype(np.float32)
        return {"sums": sums, "twice": inputs["pixels"] * 2}


@dataclass
class FakeLoaded:
    max_batch: int = 4


class FakeModel:
    """As much of a `vision.model.Model` as the service looks at."""

    def __init__(self, name: str, version: int, *, heavy: bool = False) -> None:
        self.name = name
        self.version = version
        self.runtime = "onnx"
        self.inputs = (PIXELS,)
        self.outputs = (SUMS, TWICE)
        self.loaded = FakeLoaded()
        self.lane = FakeLane()
        self.preprocessor = Preprocessor(Preprocessing(color="gray"), PIXELS)
        self.postprocessor = Told(heavy=heavy)


class Told:
    """A reader that tells the sums, and remembers what it was asked."""

    def __init__(self, *, heavy: bool) -> None:
        self.heavy = heavy
        self.asked: list[int | None] = []
        self._raw = compile_postprocessing(Raw(), (SUMS, TWICE), None)

    def read(self, outputs: Arrays, geometry: Any, top_k: int | None) -> list[dict[str, Any]]:
        self.asked.append(top_k)
        return self._raw.read(outputs, geometry, top_k)


class FakeModels:
    """A repository of models that are always there."""

    def __init__(self, *models: FakeModel) -> None:
        self.models = {(one.name, one.version): one for one in models}
        self.entries = [
            Entry(one.name, one.version, State.READY, "", "onnx", "cpu", 10, 0.5) for one in models
        ]
        self.up = True
        self.leases = 0
        self.deadlines: list[float | None] = []
        self.calls: list[tuple[str, str]] = []
        self.error: Exception | None = None

    def rest(self, name: str, rest: Rest) -> None:
        self.entries.append(Entry(name, 1, State.UNAVAILABLE, rest))

    @asynccontextmanager
    async def lease(
        self, name: str, version: int | None = None, deadline: float | None = None
    ) -> AsyncIterator[FakeModel]:
        self.deadlines.append(deadline)
        if name == "waking":
            raise DeadlineExceeded("not awake in time")
        if name == "asleep":
            raise ModelNotReady("asleep", retry_after_s=1)
        found = [m for (n, v), m in self.models.items() if n == name and version in (None, v)]
        if not found:
            raise ModelNotFound("not there", param="model")
        self.leases += 1
        try:
            yield found[-1]
        finally:
            self.leases -= 1

    def index(self) -> list[Entry]:
        return self.entries

    def ready(self) -> bool:
        return self.up

    async def load(self, name: str) -> None:
        self._called("load", name)

    async def unload(self, name: str) -> None:
        self._called("unload", name)

    def _called(self, verb: str, name: str) -> None:
        self.calls.append((verb, name))
        if self.error is not None:
            raise self.error


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        code: str = self.json()["error"]["code"]
        return code


@dataclass
class Stage:
    """The API, with everything that a test wants to turn."""

    models: FakeModels
    telemetry: Telemetry
    service: Service
    view: View
    life: Life
    departures: Departures
    app: Http

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | Sequence[bytes] | Mapping[str, Any] | list[Any] = b"",
        headers: Mapping[str, str] | None = None,
        query: str = "",
        left: asyncio.Event | None = None,
    ) -> Reply | None:
        """Send a request in the given parts; None if nothing was answered. `left`: then it goes."""
        if isinstance(body, Mapping):
            body = json.dumps(body).encode()
        parts = [body] if isinstance(body, bytes) else list(body)
        waiting = list(parts)
        messages: list[Any] = []
        never = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if waiting:
                part = waiting.pop(0)
                if part is GONE:
                    return {"type": "http.disconnect"}
                return {"type": "http.request", "body": part, "more_body": bool(waiting)}
            await (left or never).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            messages.append(message)

        raw = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": raw,
            "http_version": "1.1",
            "scheme": "http",
            "server": ("test", 80),
        }
        await self.app(scope, receive, send)
        if not messages:
            return None
        start, *rest = messages
        found = {k.decode(): v.decode() for k, v in start["headers"]}
        return Reply(start["status"], found, b"".join(one.get("body", b"") for one in rest))

    async def post(self, path: str, body: Any, **headers: str) -> Reply:
        """Send JSON and expect an answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = await self.ask("POST", path, body, {"content-type": "application/json"} | named)
        assert reply is not None
        return reply

    async def get(self, path: str) -> Reply:
        reply = await self.ask("GET", path)
        assert reply is not None
        return reply


GONE = b"\0gone"
"""A part that stands for the client's leaving."""


@asynccontextmanager
async def stage(
    *models: FakeModel,
    limits: Limits | None = None,
    tick_s: float = 0.0,
    monotonic: Callable[[], float] | None = None,
) -> AsyncIterator[Stage]:
    """Set the API up over the models, `m` in version 1 without any."""
    found = FakeModels(*(models or (FakeModel("m", 1),)))
    telemetry = Telemetry(
        lambda: [
            Standing(e.name, str(e.version), True, e.memory_bytes, e.load_s) for e in found.entries
        ]
    )
    decoder = Decoder(ImageLimits(), Fetcher(FetchSettings(enabled=False)), 1)
    limits = limits or Limits()
    service = Service(found, decoder, telemetry)
    life = Life(monotonic) if monotonic else Life()
    view = View(found, life, "1.2.3")
    departures = Departures(tick_s)
    app = Http(service, view, telemetry, limits, departures)
    watching = asyncio.ensure_future(departures.run())
    try:
        yield Stage(found, telemetry, service, view, life, departures, app)
    finally:
        watching.cancel()
        service.close()
        decoder.close()

"""A scripted engine on a raw socket: it sends what a test says and records what it got."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

PATIENCE_S = 30.0
"""How long a test waits for what must happen at once, before it fails instead of hanging."""

Fields = list[tuple[bytes, bytes]]


class Then(StrEnum):
    """What an engine does beside sending bytes."""

    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"
    """Say no more, and note when the peer leaves."""
    YIELD = "yield"
    """Let everybody else run, so that what follows is another read for the peer."""
    DEAF = "deaf"
    """First step only: answer when the head has come, without reading the body."""


class Turn:
    """A step that waits until the test says so, or until the peer leaves."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.go = asyncio.Event()


Step = bytes | Then | Turn
Script = Sequence[Step]


@dataclass
class Received:
    """One request as the engine read it."""

    connection: int
    """Which of the engine's connections it came on, from 0."""
    head: bytes
    body: bytes = b""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the gateway closed the connection under this request."""

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def fields(self) -> Fields:
        lines = self.head.rstrip(b"\r\n").split(b"\r\n")[1:]
        pairs = [line.split(b": ", 1) for line in lines]
        return [(name.lower(), value) for name, value in pairs]

    def header(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    async def abandoned(self, within_s: float = PATIENCE_S) -> None:
        """Wait for the gateway to close the connection; fail if it does not."""
        async with asyncio.timeout(within_s):
            await self.left.wait()


def response(
    body: bytes = b'{"ok":true}',
    status: bytes = b"200 OK",
    fields: Fields | None = None,
    *,
    length: int | None = None,
) -> bytes:
    """Write a response with a declared length, the body's own unless `length` says another."""
    lines = [(b"content-type", b"application/json"), *(fields or [])]
    lines.append((b"content-length", b"%d" % (len(body) if length is None else length)))
    return b"HTTP/1.1 %b\r\n%b\r\n%b" % (status, block(lines), body)


def block(fields: Fields) -> bytes:
    return b"".join([b"%b: %b\r\n" % pair for pair in fields])


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\ntransfer-encoding: chunked\r\n\r\n"
)


def event(value: object) -> bytes:
    """Write one event as vLLM does; bytes are its data as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return b"data: %b\n\n" % data


def token(text: str, model: str = "m") -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return event(
        {"id": "c", "object": "chat.completion.chunk", "model": model, "choices": [choice]}
    )


def finish(reason: str = "stop", model: str = "m") -> bytes:
    choice = {"index": 0, "delta": {}, "finish_reason": reason}
    return event(
        {"id": "c", "object": "chat.completion.chunk", "model": model, "choices": [choice]}
    )


def usage(prompt: int = 3, completion: int = 2, model: str = "m") -> bytes:
    counts = {"prompt_tokens": prompt, "total_tokens": prompt + completion}
    counts["completion_tokens"] = completion
    return event({"id": "c", "model": model, "choices": [], "usage": counts})


DONE = event(b"[DONE]")
DEEP = b"[" * 100_000 + b"]" * 100_000
"""Valid JSON that no decoder of ours reads: it is nested too deep."""


def stream(*events: bytes, whole: bool = True) -> list[bytes]:
    """Write a streamed answer, one chunk for each event."""
    steps = [STREAM_HEAD, *[chunk(one) for one in events]]
    return [*steps, LAST_CHUNK] if whole else steps


class Engine:
    """Listens on 127.0.0.1; answers the n-th POST with the n-th script, GETs as a healthy vLLM."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.requests: list[Received] = []
        self.arrived = asyncio.Condition()
        self.connections = 0
        self.open = 0
        """Connections now open that carried a POST."""
        self.raw = bytearray()
        """Every byte that came on a connection, but for probes."""
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.unwell = False
        """Whether `/health` is answered with 503."""

    async def __aenter__(self) -> Self:
        self._group = await asyncio.TaskGroup().__aenter__()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 26)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        async with asyncio.timeout(PATIENCE_S):
            await self._group.__aexit__(None, None, None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def wait_requests(self, count: int) -> Received:
        """Wait until `count` requests have come; return the last of them."""
        async with asyncio.timeout(PATIENCE_S), self.arrived:
            await self.arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests[count - 1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._group.create_task(self._connection(reader, writer))

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        number: int | None = None
        try:
            while (head := await self._head(reader)) is not None:
                if head.startswith(b"GET "):
                    await _answer_probe(head, writer, unwell=self.unwell)
                    break
                if number is None:
                    number = self.connections
                    self.connections += 1
                    self.open += 1
                if not await self._exchange(Received(number, head), reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= number is not None
            self._writers.discard(writer)
            writer.close()

    async def _head(self, reader: asyncio.StreamReader) -> bytes | None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            self.raw += error.partial
            return None
        if not head.startswith(b"GET "):
            self.raw += head
        return head

    async def _exchange(
        self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
        deaf = bool(script) and script[0] is Then.DEAF
        if not deaf:
            request.body = await _read_body(request, reader)
            self.raw += request.body
        self.requests.append(request)
        async with self.arrived:
            self.arrived.notify_all()
        for step in script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif not await self._act(step, request, reader, writer):
                return False
        return not deaf

    async def _act(
        self,
        step: Then | Turn,
        request: Received,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Do one step; say whether the connection goes on."""
        if isinstance(step, Turn):
            step.reached.set()
            return await _until(step.go, request, reader)
        if step is Then.HANG:
            await _until(asyncio.Event(), request, reader)
            return False
        if step is Then.YIELD:
            for _ in range(3):
                await asyncio.sleep(0)
            return True
        if step is Then.RESET:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        return step is Then.DEAF


async def _until(go: asyncio.Event, request: Received, reader: asyncio.StreamReader) -> bool:
    """Wait for the test's word; say False if the gateway left first."""

    async def watch() -> None:
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionError:
            pass

    gone = asyncio.ensure_future(watch())
    told = asyncio.ensure_future(go.wait())
    try:
        await asyncio.wait({gone, told}, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            request.left.set()
        return told.done()
    finally:
        for task in (gone, told):
            task.cancel()
        await asyncio.gather(gone, told, return_exceptions=True)


async def _read_body(request: Received, reader: asyncio.StreamReader) -> bytes:
    if request.header(b"transfer-encoding"):
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return body
    lengths = request.header(b"content-length")
    return await reader.readexactly(int(lengths[0]) if lengths else 0)


async def _answer_probe(head: bytes, writer: asyncio.StreamWriter, *, unwell: bool) -> None:
    models = {"object": "list", "data": [{"id": "m", "object": "model", "max_model_len": 64}]}
    body = json.dumps(models).encode() if b"/v1/models" in head else b""
    status = b"503 Unwell" if unwell and b" /health " in head else b"200 OK"
    writer.write(response(body, status, [(b"connection", b"close")]))
    await writer.drain()

"""A provider of one model that knows one answer and fails in the way it is told to.

It streams as vLLM does: a chunk with the role, one for each token, one with the finish reason, one
with the usage if asked for. It can go on with an assistant's message that it is given the
beginning of. It lives in a thread of its own, so that tests may use the official SDK as most of
its users do: without a loop.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from typing import Any

from tests.support.engine import DONE, LAST_CHUNK, STREAM_HEAD, chunk, event, response

PATIENCE_S = 30.0
"""How long the thread may take to do what it does at once."""

TOKENS = tuple(f"{' ' if number else ''}w{number:02}" for number in range(60))
"""What the model says. Tokens begin with their space, as those of real models do."""

ANSWER = "".join(TOKENS)
PROMPT_TOKENS = 7

PAUSE_S = 0.6
"""Between the first token and the others where the answer breaks. The gateway is to have shown it
by then: what breaks before is not resumed but asked for again, and nobody could tell."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request; the default is nothing.

    `_at` counts the tokens of the whole answer, those of a prefix too.
    """

    status: int = 0
    """Answer with this status, `fields` and `error`."""
    fields: tuple[tuple[bytes, bytes], ...] = ()
    error: dict[str, Any] = field(default_factory=dict)
    reset: bool = False
    silent: bool = False
    """Not a byte."""
    first_after_s: float = 0.0
    """Seconds between the head and the first event; with a status, before the head."""
    cut_at: int | None = None
    cut_every: int | None = None
    """Cut after so many tokens of its own, those of a prefix not counted."""
    stall_at: int | None = None
    malformed_at: int | None = None
    """This event of a token is not JSON. The stream goes on."""
    filtered_at: int | None = None
    """Finish with `content_filter`."""
    unmarked: bool = False
    """End without `[DONE]`."""
    ends_after_s: float = 0.0
    """Seconds between `[DONE]` and the end of the response."""
    no_prefix: bool = False
    """Refuse to go on with an assistant's message."""
    says: str = ""
    """Another answer."""

    @property
    def breaks(self) -> bool:
        """Whether an answer breaks after it has begun."""
        places = (self.cut_at, self.cut_every, self.stall_at, self.malformed_at)
        return any(at is not None for at in places)


HEALTHY = Fault()


@dataclass(frozen=True)
class Asked:
    """One request for an answer."""

    head: bytes
    body: dict[str, Any]

    @property
    def prefix(self) -> str:
        """What it is to go on with; empty if it is to begin."""
        if not self.body.get("continue_final_message"):
            return ""
        assert self.body["add_generation_prompt"] is False
        last = self.body["messages"][-1]
        assert last["role"] == "assistant"
        return str(last["content"])


class Provider:
    """One listener on 127.0.0.1. `fault` may be changed at any time, or be chosen by number."""

    def __init__(self, model: str, max_model_len: int = 4096) -> None:
        self.model = model
        self.max_model_len = max_model_len
        self.fault: Fault | Callable[[int], Fault] = HEALTHY
        """What goes wrong; or a function of how many requests there were before."""
        self.asked: list[Asked] = []
        self.busy = 0
        """Requests whose answers have not ended."""
        self.doubted = 0
        """Requests on a used connection that it reset: a gateway must think that it was closed
        before, and sends them again as part of the same attempt."""
        self.writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until one side closes it."""
        self.writers.add(writer)
        try:
            used = False
            while await self._one(reader, writer, used=used):
                used = True
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def _one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, used: bool
    ) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET "):
            writer.write(self._probed(head))
            await writer.drain()
            return True
        length = next(
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        )
        body = await reader.readexactly(length)
        if not head.startswith(b"POST /v1/chat/completions "):
            writer.write(response(b"{}", b"404 Not Found"))
            await writer.drain()
            return True
        asked = Asked(head, json.loads(body))
        self.asked.append(asked)
        fault = self.fault if isinstance(self.fault, Fault) else self.fault(len(self.asked) - 1)
        self.doubted += fault.reset and used
        self.busy += 1
        try:
            return await self._answer(asked, fault, reader, writer)
        finally:
            self.busy -= 1

    def _probed(self, head: bytes) -> bytes:
        if b" /health " in head:
            return response(b"")
        if b" /v1/models " not in head:
            return response(b"{}", b"404 Not Found")
        entry = {"id": self.model, "object": "model", "max_model_len": self.max_model_len}
        return response(json.dumps({"object": "list", "data": [entry]}).encode())

    async def _answer(
        self,
        asked: Asked,
        fault: Fault,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer one request; say whether the connection goes on."""
        if fault.reset:
            _reset(writer)
            return False
        if fault.silent:
            return not await _has_left(reader)
        if fault.no_prefix and asked.prefix:
            fault = Fault(400, error=NO_PREFIX)
        if fault.status:
            if fault.first_after_s and await _has_left(reader, fault.first_after_s):
                return False
            body = json.dumps({"error": fault.error}).encode()
            writer.write(response(body, b"%d Fault" % fault.status, list(fault.fields)))
            await writer.drain()
            return True
        return await self._speak(asked, fault, reader, writer)

    async def _speak(
        self,
        asked: Asked,
        fault: Fault,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Stream an answer; say whether the connection goes on."""
        writer.write(STREAM_HEAD)
        if fault.first_after_s and await _has_left(reader, fault.first_after_s):
            return False
        async for piece in self._stream(asked, fault):
            writer.write(chunk(piece))
            await writer.drain()
        if fault.stall_at is not None:
            return not await _has_left(reader)
        if fault.cut_at is not None or fault.cut_every is not None:
            return False
        if fault.ends_after_s and await _has_left(reader, fault.ends_after_s):
            return False
        writer.write(LAST_CHUNK)
        await writer.drain()
        return True

    async def _stream(self, asked: Asked, fault: Fault) -> AsyncIterator[bytes]:
        """Yield the events of an answer, up to where it breaks."""
        begun, left = _left(asked.prefix, fault.says or ANSWER)
        says = left[: asked.body.get("max_tokens")]
        reason = "stop" if says == left else "length"
        head = {
            "id": f"chatcmpl-{self.port}-{len(self.asked)}",
            "object": "chat.completion.chunk",
            "created": 1_700_000_000 + len(self.asked),
            "model": asked.body["model"],
        }
        yield event(head | {"choices": [_choice({"role": "assistant", "content": ""})]})
        for number, text in enumerate([*says, ""], begun):
            if number in {fault.cut_at, fault.stall_at} or number - begun == fault.cut_every:
                return
            if number in {fault.filtered_at, begun + len(says)}:
                break
            if number == begun + 1 and fault.breaks:
                await asyncio.sleep(PAUSE_S)
            whole = event(head | {"choices": [_choice({"content": text})]})
            yield b'data: {"id":"chatcmpl\n\n' if number == fault.malformed_at else whole
        if fault.filtered_at is not None:
            reason = "content_filter"
        yield event(head | {"choices": [_choice({}, reason)]})
        if (asked.body.get("stream_options") or {}).get("include_usage"):
            counts = {"prompt_tokens": PROMPT_TOKENS + begun, "completion_tokens": len(says)}
            counts["total_tokens"] = sum(counts.values())
            yield event(head | {"choices": [], "usage": counts})
        if not fault.unmarked:
            yield DONE


NO_PREFIX = {
    "message": "This model does not support assistant message prefill. The conversation must end "
    "with a user message.",
    "type": "invalid_request_error",
    "param": None,
    "code": 400,
}
"""What Anthropic's newer models say of a prefix."""


async def _has_left(reader: asyncio.StreamReader, within_s: float | None = None) -> bool:
    """Wait for the gateway to close the connection; say whether it has."""
    try:
        await asyncio.wait_for(reader.read(), within_s)
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def _choice(delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _left(prefix: str, answer: str) -> tuple[int, list[str]]:
    """Return how many tokens of an answer its beginning has, and the tokens after it."""
    assert answer.startswith(prefix), f"asked to go on with {prefix!r}"
    left = re.findall(" ?[^ ]+", answer[len(prefix) :])
    return len(answer.split(" ")) - len(left), left


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def serving(providers: list[Provider]) -> Iterator[None]:
    """Run the providers in a thread."""
    ready, ended = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        servers = [await asyncio.start_server(one.serve, "127.0.0.1", 0) for one in providers]
        for one, server in zip(providers, servers, strict=True):
            one.port = server.sockets[0].getsockname()[1]
        ready.set()
        await ended.wait()
        for server in servers:
            server.close()
        for writer in [writer for one in providers for writer in one.writers]:
            writer.transport.abort()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert ready.wait(PATIENCE_S)
        yield
    finally:
        loops[0].call_soon_threadsafe(ended.set)
        thread.join(PATIENCE_S)
        assert not thread.is_alive()

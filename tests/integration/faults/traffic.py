"""What does a client make of its answer, byte for byte, and when?"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.integration.faults.stage import MODEL
from tests.support.raw import post

PATIENCE_S = 30.0
"""How long an answer may take before it counts as hanging; longer than every timer of CI's."""

CLOSE = {"Connection": "close"}


def chat(prompt: str = "hi", *, tokens: int = 8, stream: bool = False) -> dict[str, Any]:
    """Write a greedy chat request whose answer has exactly so many tokens."""
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
    body |= {"max_tokens": tokens, "min_tokens": tokens, "temperature": 0}
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def for_sdk(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body as the arguments of openai-python, which knows no `min_tokens`."""
    known = {name: value for name, value in body.items() if name != "min_tokens"}
    return {**known, "extra_body": {"min_tokens": body["min_tokens"]}}


@dataclass(slots=True)
class Heard:
    """One answer as it came in, with its times (monotonic seconds)."""

    stream: bool
    sent_at: float
    first_at: float | None = None
    """When the first byte of the body was there."""
    ended_at: float = 0.0
    raw: bytes = field(default=b"", repr=False)

    @property
    def took_s(self) -> float:
        return self.ended_at - self.sent_at

    @property
    def status(self) -> int:
        """The status, 0 for none at all."""
        return int(self.raw[9:12]) if self.raw.startswith(b"HTTP/1.1 ") else 0

    def header(self, name: str) -> str | None:
        """Return a field of the head."""
        for line in self.raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name.encode():
                return value.strip().decode()
        return None

    @property
    def body(self) -> tuple[bytes, bool]:
        """The body without its coding, and whether the message was whole."""
        rest = self.raw.partition(b"\r\n\r\n")[2]
        if self.header("transfer-encoding") is None:
            length = self.header("content-length")
            return rest, length is not None and len(rest) == int(length)
        pieces: list[bytes] = []
        while True:
            size_line, found, rest = rest.partition(b"\r\n")
            size = int(size_line, 16) if found else 0
            if not found or len(rest) < size + 2:
                return b"".join(pieces), False
            if size == 0:
                return b"".join(pieces), True
            pieces.append(rest[:size])
            rest = rest[size + 2 :]

    @property
    def events(self) -> list[Any]:
        """The data of each event; `[DONE]` as the string that it is."""
        datas = [
            line.removeprefix(b"data: ")
            for line in self.body[0].split(b"\n")
            if line.startswith(b"data: ")
        ]
        return [data.decode() if data == b"[DONE]" else json.loads(data) for data in datas]

    @property
    def text(self) -> str:
        """The answer's text, streamed or not."""
        key = "delta" if self.stream else "message"
        parts = self.events if self.stream else [json.loads(self.body[0])]
        parts = [part for part in parts if isinstance(part, dict)]
        choices = [part["choices"][0] for part in parts if part.get("choices")]
        return "".join(choice[key].get("content") or "" for choice in choices)

    @property
    def error(self) -> str | None:
        """The code of the typed error that the answer is or ends with, if there is one."""
        body, whole = self.body
        if not whole:
            return None
        try:
            last = self.events[-1] if self.stream and self.status == 200 else json.loads(body)
            error = last["error"]
        except (ValueError, LookupError, TypeError):
            return None
        return str(error["code"]) if set(error) == {"message", "type", "param", "code"} else None

    @property
    def failure(self) -> str:
        """Why this is no whole answer; "" if it is one."""
        if self.error is not None:
            return f"{self.status} {self.error}"
        if self.status != 200 or not self.body[1]:
            return f"status {self.status}, cut after {len(self.raw)} bytes"
        if self.stream and (not self.events or self.events[-1] != "[DONE]"):
            return "a stream without its end mark"
        return "" if self.text else "no text"


async def ask(
    port: int,
    body: dict[str, Any],
    fields: dict[str, str] | None = None,
    *,
    begun: asyncio.Event | None = None,
    patience_s: float = PATIENCE_S,
) -> Heard:
    """Send one request on a connection of its own and hear it to the end.

    `begun` is set when the first byte of the body has come. An answer that outlasts the patience is
    cut there, so that it counts as a failure.
    """
    heard = Heard(bool(body.get("stream")), time.monotonic())
    pieces: list[bytes] = []
    writer = None
    try:
        async with asyncio.timeout(patience_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(post(body, fields={**CLOSE, **(fields or {})}))
            while data := await reader.read(1 << 16):
                pieces.append(data)
                if heard.first_at is None and b"".join(pieces).partition(b"\r\n\r\n")[2]:
                    heard.first_at = time.monotonic()
                    if begun is not None:
                        begun.set()
    except (TimeoutError, OSError):
        pass
    finally:
        heard.ended_at = time.monotonic()
        heard.raw = b"".join(pieces)
        if writer is not None:
            writer.transport.abort()
    return heard


async def drive(
    port: int, rate_per_s: float, duration_s: float, body: Callable[[int], dict[str, Any]]
) -> list[Heard]:
    """Send `body(n)` at a steady rate, whatever becomes of the earlier ones; return all answers."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in range(int(rate_per_s * duration_s)):
            await asyncio.sleep(start + number / rate_per_s - loop.time())
            tasks.append(group.create_task(ask(port, body(number))))
    return [task.result() for task in tasks]


async def crowd(port: int, count: int, width: int, body: dict[str, Any]) -> list[Heard]:
    """Send so many equal requests, `width` at a time; return all answers."""
    left = iter(range(count))
    answers: list[Heard] = []

    async def client() -> None:
        for _ in left:
            answers.append(await ask(port, body))  # noqa: PERF401  the list is shared

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(client())
    return answers


def failures(answers: list[Heard]) -> list[str]:
    """Return why answers were not whole, one reason for each."""
    return [one.failure for one in answers if one.failure]


def untyped(answers: list[Heard]) -> list[str]:
    """Return the answers that are neither whole nor end in a typed error: silent losses."""
    return [one.failure for one in answers if one.failure and one.error is None]

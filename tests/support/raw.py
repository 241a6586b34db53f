"""A client on a raw socket: it sends bytes as they are and reads answers strictly, one by one."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Self

PATIENCE_S = 30.0
"""How long a test waits for what must happen at once, before it fails instead of hanging."""


class CutError(Exception):
    """The connection ended in the middle of an answer; `got` is the body up to there."""

    def __init__(self, got: bytes) -> None:
        super().__init__(f"cut after {got!r}")
        self.got = got


@dataclass
class Answer:
    """One response; `body` without its chunked coding."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""

    def header(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of an error of OpenAI's shape, checked to have all four of its keys."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["code"])


def post(
    body: bytes | dict[str, Any],
    path: str = "/v1/chat/completions",
    fields: dict[str, str] | None = None,
    *,
    host: str = "gateway",
) -> bytes:
    """Write one POST with a declared length."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(data))}
    lines.update(fields or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data


class RawClient:
    """One connection to 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Drop the connection at once."""
        self.writer.transport.abort()

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self, data: bytes) -> Answer:
        self.send(data)
        return await self.answer()

    async def answer(self) -> Answer:
        """Read one whole response. Raises `CutError` if the connection ends before it does."""
        answer = await self.head()
        try:
            async for piece in self.pieces(answer):
                answer.body += piece
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            partial = error.partial if isinstance(error, asyncio.IncompleteReadError) else b""
            raise CutError(answer.body + partial) from None
        return answer

    async def head(self) -> Answer:
        """Read status and header fields. Raises `CutError` if there are none."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            raise CutError(b"") from None
        line, *lines = head[:-4].split(b"\r\n")
        pairs = [one.split(b": ", 1) for one in lines]
        return Answer(int(line.split(b" ")[1]), [(name.lower(), value) for name, value in pairs])

    async def pieces(self, answer: Answer) -> Any:
        """Yield the pieces of the body as its coding has them."""
        if answer.header(b"transfer-encoding"):
            while size := int(await self._line(), 16):
                yield (await self._exactly(size + 2))[:-2]
            await self._line()
            return
        lengths = answer.header(b"content-length")
        if lengths:
            yield await self._exactly(int(lengths[0]))
        elif answer.status >= 200:
            yield await self.rest()

    async def piece(self) -> bytes:
        """Read one chunk of a chunked body; b"" is the last."""
        size = int(await self._line(), 16)
        return (await self._exactly(size + 2))[:-2]

    async def rest(self) -> bytes:
        """Read to the end of the connection, which must come."""
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.read(-1)

    async def ended(self) -> bool:
        """Wait for the end of the connection; say whether nothing more came before it."""
        try:
            return await self.rest() == b""
        except ConnectionError:
            return True

    async def _line(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readuntil(b"\r\n")

    async def _exactly(self, size: int) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self.reader.readexactly(size)

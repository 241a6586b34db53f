"""A server that a URL may lead to: it counts who came, and answers bytes that the test wrote."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.raw import PATIENCE_S

LOOPBACK = "127.0.0.1"
CLOSED = b""
"""Closes instead of an answer."""


@dataclass
class Server:
    """`answers` are given by turns, the last one again and again; each ends its connection."""

    answers: list[bytes]
    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    hold: asyncio.Event | None = None
    """If there is one, the end of an answer waits for it."""
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def reached(self, requests: int) -> None:
        """Wait until so many requests have come."""
        async with self.came, asyncio.timeout(PATIENCE_S):
            await self.came.wait_for(lambda: len(self.requests) >= requests)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            async with self.came:
                self.came.notify_all()
            turn = min(len(self.requests), len(self.answers)) - 1
            writer.write(self.answers[turn])
            await writer.drain()
            if self.hold is not None:
                await self.hold.wait()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # The client left: what the test wants to see is on its side.
        finally:
            writer.close()


@asynccontextmanager
async def target(
    answers: Sequence[bytes] | bytes,
    *,
    host: str = LOOPBACK,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Server]:
    """Listen as long as the context lasts."""
    server = Server([answers] if isinstance(answers, bytes) else list(answers))
    listening = await asyncio.start_server(server.serve, host, port, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        if server.hold is not None:
            server.hold.set()
        listening.close()
        await listening.wait_closed()


def http(
    body: bytes = b"", status: str = "200 OK", *, length: int | None = None, **fields: str
) -> bytes:
    """Return an answer; `content_type="image/png"` becomes a header, and the length is true."""
    lines = [f"HTTP/1.1 {status}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    lines.append(f"content-length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    """Return an answer that leads elsewhere."""
    return http(status=status, location=location)

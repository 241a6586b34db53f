"""Peers on raw sockets that misbehave below HTTP: a port that swallows, clients that crawl."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import Self

from tests.support.engine import response

_HEALTHY = response(
    b'{"object":"list","data":[{"id":"m","object":"model","max_model_len":4096}]}',
    fields=[(b"connection", b"close")],
)


_RECEIVE_BYTES = 64 << 10


class BlackHole:
    """A port of 127.0.0.1 that is a healthy engine for GETs until it is told to be deaf.

    Deaf, it accepts nothing and its backlog is full, so that the kernel drops every SYN: to whoever
    connects it looks like a firewall that swallows.
    """

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._fillers: list[socket.socket] = []
        self._peers: dict[socket.socket, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(0)
        self._socket.setblocking(False)
        self.hear()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()
        self._empty()
        self._socket.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def hear(self) -> None:
        """Be a healthy engine (again)."""
        self._empty()
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    async def deafen(self) -> None:
        """Accept nothing from now on, and let nobody connect."""
        await self._stop()
        for _ in range(64):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(self._socket.getsockname())
            self._fillers.append(filler)
            if not select.select([], [filler], [], 0.2)[1]:
                return
        raise AssertionError("the backlog takes any number of connections")

    def _empty(self) -> None:
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    async def _stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        for task in self._peers.values():
            task.cancel()
        await asyncio.gather(*self._peers.values(), return_exceptions=True)
        for peer in self._peers:
            peer.close()
        self._peers.clear()

    def _accept(self) -> None:
        # A task that accepts would lose a socket where it is cancelled at that very moment.
        with contextlib.suppress(BlockingIOError):
            peer, _ = self._socket.accept()
            peer.setblocking(False)
            self._peers[peer] = asyncio.ensure_future(_be_healthy(peer))


async def _be_healthy(peer: socket.socket) -> None:
    """Answer one GET."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        if await loop.sock_recv(peer, 1 << 16):
            await loop.sock_sendall(peer, _HEALTHY)
        peer.close()


class Crawler:
    """A client on a raw socket that sends slowly, or reads slowly if it has nothing to send."""

    def __init__(
        self, port: int, first: bytes, trickle: bytes = b"", *, every_s: float = 0.25
    ) -> None:
        """`first` goes out at once, `trickle` at each turn; without it each turn reads 2 KiB."""
        self._port = port
        self._first = first
        self._trickle = trickle
        self._every_s = every_s
        self._socket = socket.socket()
        # Small, so that TCP makes the server wait; no smaller, since a window below the segment of
        # loopback (64 KiB) opens only with the sender's persist timer.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        self._socket.setblocking(False)
        self._read: list[bytes] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._since = 0.0
        self._closed_at: float | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._socket, ("127.0.0.1", self._port))
        self._since = loop.time()
        await self.send(self._first)
        ways = [self._listen(), self._send_slowly()] if self._trickle else [self._read_slowly()]
        self._tasks = [asyncio.ensure_future(way) for way in ways]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()
        self._socket.close()

    @property
    def closed(self) -> bool:
        """Whether the server has ended the connection."""
        return self._closed_at is not None

    @property
    def open_s(self) -> float:
        """For how long the connection was open; so far, if it still is."""
        end = self._closed_at
        return (asyncio.get_running_loop().time() if end is None else end) - self._since

    async def send(self, data: bytes) -> None:
        """Send more at once."""
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def rest(self) -> bytes:
        """Be slow no longer: read to the end of the connection; return all that was ever read."""
        await self._stop()
        async with asyncio.timeout(60):
            if not self.closed:
                await self._listen()
        return b"".join(self._read)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(self._socket, 1 << 16):
                self._read.append(data)
        self._closed_at = loop.time()

    async def _send_slowly(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await asyncio.sleep(self._every_s)
                await self.send(self._trickle)

    async def _read_slowly(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                data = self._socket.recv(2048)
            except BlockingIOError:
                continue
            except ConnectionError:
                data = b""
            if not data:
                self._closed_at = asyncio.get_running_loop().time()
                return
            self._read.append(data)

"""How does a request reach an engine, and its response come back?

A keep-alive HTTP/1.1 client: one `Client` per endpoint, with a last-in-first-out free list of
`Connection`s, so that few stay warm and the rest age out. There is no task per connection and no
timer per request: deadlines are fields that `Client.sweep` compares a few times a second.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.wire.connection import Connection
from gateway.wire.familiar import FamiliarHead
from gateway.wire.guard import Headers, ResponseHead, read_response_head
from gateway.wire.scarcity import is_scarcity
from gateway.wire.types import UpstreamError

IDLE_EXPIRY_S = 4.0
"""vLLM (uvicorn) closes idle connections after 5 s; a request must not meet that moment."""

_CHANGING = frozenset({b"date"})
"""Fields whose value differs from response to response and does not travel on."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an endpoint listens, and how long its answers may take (seconds)."""

    host: str
    port: int
    base_path: str = ""
    credentials: bytes = field(default=b"", repr=False)
    """Header lines that authenticate the gateway to the endpoint."""
    tls: ssl.SSLContext | None = None
    connect_s: float = 2.0
    first_byte_s: float = 60.0
    idle_s: float = 30.0
    total_s: float = 600.0
    max_idle: int = 1024

    @property
    def authority(self) -> str:
        """Host and port as a Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Client:
    """The connections to one endpoint."""

    def __init__(self, address: Address, monotonic: Callable[[], float]) -> None:
        self.address = address
        self._monotonic = monotonic
        self._free: list[Connection] = []
        self._all: set[Connection] = set()
        self._dials: set[asyncio.Timeout] = set()
        self._heads: dict[str, bytes] = {}
        self.familiar: FamiliarHead[ResponseHead] = FamiliarHead()

    def __repr__(self) -> str:
        return f"<Client {self.address.authority}, {len(self._free)}/{len(self._all)} idle>"

    @property
    def open_connections(self) -> int:
        """Sockets open now, idle ones included."""
        return len(self._all)

    def head(self, path: str) -> bytes:
        """Return the request line and the fields that every request to `path` begins with."""
        head = self._heads.get(path)
        if head is None:
            address = self.address
            line = f"POST {address.base_path}{path} HTTP/1.1\r\nhost: {address.authority}\r\n"
            head = self._heads[path] = line.encode() + address.credentials
        return head

    def learn(self, data: bytes, status: int, headers: Headers) -> None:
        """Remember the head of a whole, well-formed response; `data` is all of it."""
        names = {name for name, _ in headers}
        if status == 200 and not names & {b"transfer-encoding", b"connection"}:
            self.familiar.learn(data, read_response_head(status, headers), _CHANGING)

    def take(self, now: float) -> Connection | None:
        """Return the most recently used idle connection, if one is young enough."""
        while self._free:
            connection = self._free.pop()
            if now - connection.idle_since < IDLE_EXPIRY_S and connection.usable:
                return connection
            connection.close()
        return None

    async def dial(self, limit_s: float = math.inf) -> Connection:
        """Open a connection. Raises `UpstreamError` when that fails or takes too long."""
        address = self.address
        loop = asyncio.get_running_loop()
        patience = asyncio.timeout(min(address.connect_s, limit_s))
        self._dials.add(patience)
        try:
            async with patience:
                _, connection = await loop.create_connection(
                    lambda: Connection(self), address.host, address.port, ssl=address.tls
                )
        except TimeoutError:
            raise UpstreamError("Connecting to the engine took too long.", timeout=True) from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            if is_scarcity(error):
                message = f"The gateway cannot open another connection: {reason}."
                raise UpstreamError(message, ours=True) from None
            raise UpstreamError(f"The engine cannot be reached: {reason}.") from None
        finally:
            self._dials.discard(patience)
        self._all.add(connection)
        return connection

    def release(self, connection: Connection, *, keep: bool) -> None:
        """Take a connection back after a whole response."""
        if keep and connection.usable and len(self._free) < self.address.max_idle:
            connection.idle_since = self._monotonic()
            self._free.append(connection)
        else:
            connection.close()

    def forget(self, connection: Connection) -> None:
        """Drop a connection that the engine closed."""
        self._all.discard(connection)
        if connection in self._free:
            self._free.remove(connection)

    def sweep(self, now: float) -> None:
        """Close idle connections past their time and fail exchanges past theirs."""
        while self._free and now - self._free[0].idle_since >= IDLE_EXPIRY_S:
            self._free.pop(0).close()
        for connection in list(self._all):
            error = connection.expired(now)
            if error is not None:
                connection.fail(error)

    def fail(self, error: UpstreamError) -> None:
        """End every exchange under way with `error`, and every dialling as if it took too long."""
        for connection in list(self._all):
            connection.fail(error)
        for patience in self._dials:
            if not patience.expired():
                patience.reschedule(0.0)  # In the loop's time: at once.

    def close(self) -> None:
        """Drop every connection."""
        for connection in list(self._all):
            connection.close()

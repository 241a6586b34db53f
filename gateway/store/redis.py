"""How do the gateways of several hosts share state?

One Redis server (7 or later, also Valkey), with a script for each call, so that each is atomic.
What the server's persistence loses in a crash, `outbox` and `restore` bring back. No retries in
the client: `resilient` has them. A call costs one round trip; `totals` two.

A call that is given up leaves its connection closed, never half-read. The server may still carry
it out later: that is why `push` names its place in the row and `put` its version.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.store import scripts
from gateway.store.base import (
    KEEP_PROGRESS_S,
    MAX_EVENTS,
    TIMEOUT_S,
    Batch,
    Changes,
    Document,
    Fence,
    FencedError,
    Json,
    StoreError,
    decode,
    encode,
)

_CONNECTIONS = 8
"""More calls at a time than this fail; a process has two or three under way."""

_FENCED = -1


class RedisStore:
    """The store of several hosts. It connects with the first call, and again after a failure."""

    def __init__(
        self,
        url: str,
        *,
        namespace: str = "sluice",
        timeout_s: float = TIMEOUT_S,
        max_events: int = MAX_EVENTS,
    ) -> None:
        """`url` is redis-py's: `redis://`, `rediss://` or `unix://`. Raises `ValueError`."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        self.label = f"redis at {host}{parts.path}"
        self._timeout_s = timeout_s
        self._max_events = max_events
        self._namespace = namespace
        self._redis = Redis.from_url(
            url,
            decode_responses=True,
            # Ours is the only one: redis-py's goes through `asyncio.wait_for`, which swallows a
            # cancellation that comes together with an answer (CPython 37658, until 3.12).
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            max_connections=_CONNECTIONS,
        )
        register = self._redis.register_script
        self._push = register(scripts.PUSH)
        self._totals = register(scripts.TOTALS)
        self._forget = register(scripts.FORGET)
        self._report = register(scripts.REPORT)
        self._reports = register(scripts.REPORTS)
        self._between = register(scripts.BETWEEN)
        self._get = register(scripts.GET)
        self._put = register(scripts.PUT)
        self._restore = register(scripts.RESTORE)
        self._changes = register(scripts.CHANGES)
        self._append = register(scripts.APPEND)
        self._tail = register(scripts.TAIL)
        self._acquire = register(scripts.ACQUIRE)
        self._release = register(scripts.RELEASE)

    async def push(self, process: str, batch: Batch) -> int:
        """See `Store.push`."""
        keys = self._keys("progress", "names")
        arguments: list[str | int | float] = [process, batch.after, batch.seq, _us(KEEP_PROGRESS_S)]
        for name, fields in batch.sums.items():
            keys.append(self._sum(name))
            arguments += (name, len(fields))
            for field, number in fields.items():
                arguments += (field, repr(float(number)))
        async with self._bounded():
            return int(await self._push(keys, arguments))

    async def totals(self, prefix: str) -> dict[str, dict[str, float]]:
        """See `Store.totals`."""
        async with self._bounded():
            names = await self._names(prefix)
            found = await self._totals([self._sum(name) for name in names], [])
        return {
            name: {field: float(number) for field, number in _pairs(flat)}
            for name, flat in zip(names, found, strict=True)
            if flat
        }

    async def forget(self, prefix: str) -> int:
        """See `Store.forget`."""
        async with self._bounded():
            names = await self._names(prefix)
            await self._forget([*self._keys("names"), *map(self._sum, names)], names)
        return len(names)

    async def report(self, process: str, snapshot: Json, ttl_s: float) -> None:
        """See `Store.report`."""
        async with self._bounded():
            await self._report(self._keys("reports"), [process, encode(snapshot), _us(ttl_s)])

    async def reports(self) -> dict[str, Json]:
        """See `Store.reports`."""
        async with self._bounded():
            said = await self._reports(self._keys("reports"))
        return {process: decode(text) for process, text in _pairs(said)}

    async def get(self, key: str) -> Document:
        """See `Store.get`."""
        async with self._bounded():
            said = await self._get(self._keys("documents"), [key])
        return Document(key, None, 0) if said is None else _document(key, said)

    async def put(
        self, key: str, value: Json, expected: int, fence: Fence | None = None
    ) -> int | None:
        """See `Store.put`."""
        keys = self._keys("documents", "changed", "revision", "leases")
        async with self._bounded():
            code = await self._put(keys, [key, encode(value), expected, *_proof(fence)])
        if fence is not None and code == _FENCED:
            raise FencedError(fence.lease)
        return int(code) or None

    async def restore(self, documents: Iterable[Document]) -> int:
        """See `Store.restore`."""
        arguments: list[str | int] = []
        for one in documents:
            arguments += (one.key, encode(one.value), one.version)
        async with self._bounded():
            return int(
                await self._restore(self._keys("documents", "changed", "revision"), arguments)
            )

    async def changes(self, since: int) -> Changes:
        """See `Store.changes`."""
        async with self._bounded():
            revision, *rest = await self._changes(
                self._keys("documents", "changed", "revision"), [since]
            )
        return Changes(int(revision), tuple(_document(key, said) for key, said in _pairs(rest)))

    async def append(
        self, stream: str, event: Json, event_id: str, fence: Fence | None = None
    ) -> None:
        """See `Store.append`."""
        keys = [*self._stream(stream), *self._keys("revision", "leases")]
        async with self._bounded():
            code = await self._append(
                keys, [event_id, encode(event), self._max_events, *_proof(fence)]
            )
        if fence is not None and code == _FENCED:
            raise FencedError(fence.lease)

    async def tail(self, stream: str, count: int) -> list[Json]:
        """See `Store.tail`."""
        if count <= 0:
            return []
        async with self._bounded():
            return [decode(text) for text in await self._tail(self._stream(stream), [count])]

    async def acquire(self, lease: str, owner: str, ttl_s: float) -> int | None:
        """See `Store.acquire`."""
        async with self._bounded():
            token = await self._acquire(
                self._keys("leases", "revision"), [lease, owner, _us(ttl_s)]
            )
        return int(token) or None

    async def release(self, fence: Fence) -> None:
        """See `Store.release`."""
        async with self._bounded():
            await self._release(self._keys("leases"), [fence.lease, fence.token])

    async def close(self) -> None:
        """See `Store.close`."""
        with contextlib.suppress(StoreError):
            async with self._bounded():
                await self._redis.aclose()

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        """Hold the calls inside to the time-out; what goes wrong with them is a `StoreError`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as error:
            raise StoreError(f"{self.label}: no answer in {self._timeout_s:g} s") from error
        except (RedisError, OSError) as error:
            raise StoreError(f"{self.label}: {error}") from error

    async def _names(self, prefix: str) -> list[str]:
        low, high = ("-", "+") if not prefix else (f"[{prefix}", f"({prefix}\U0010ffff")
        return list(await self._between(self._keys("names"), [low, high]))

    def _keys(self, *names: str) -> list[str]:
        return [f"{self._namespace}:{name}" for name in names]

    def _sum(self, name: str) -> str:
        return f"{self._namespace}:sum:{name}"

    def _stream(self, name: str) -> list[str]:
        return [f"{self._namespace}:order:{name}", f"{self._namespace}:events:{name}"]


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _proof(fence: Fence | None) -> tuple[str, int]:
    return ("", 0) if fence is None else (fence.lease, fence.token)


def _pairs(flat: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _document(key: str, said: str) -> Document:
    version, _, text = said.partition(":")
    return Document(key, decode(text), int(version))

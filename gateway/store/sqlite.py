"""How do the processes of one host share state without a server?

One SQLite file in WAL mode: readers do not hold up the writer, and a process that is killed in a
transaction leaves nothing of it. The standard library's `sqlite3` in one thread of our own instead
of aiosqlite: a call is a whole transaction and hops to the thread once, where aiosqlite hops for
each statement and would let other calls in between. A call costs about 0.1 ms.

`synchronous=NORMAL`: a crash of a process loses nothing; a crash of the machine may lose the last
transactions, never the order. `outbox` heals that, as it does for a file that was removed.
Times are the machine's monotonic clock, which all its processes share.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from gateway.clock import Clock
from gateway.store import statements
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
    is_live,
    next_revision,
)

T = TypeVar("T")

_BUSY_SHARE = 0.8
"""The share of a call's time that it may wait for another process' transaction; the rest is for
its own."""


class SqliteStore:
    """The store of one host. It opens its file with the first call, and again after a failure."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        timeout_s: float = TIMEOUT_S,
        max_events: int = MAX_EVENTS,
    ) -> None:
        self.label = f"sqlite at {path}"
        self._path = path
        self._clock = clock
        self._timeout_s = timeout_s
        self._max_events = max_events
        self._thread = ThreadPoolExecutor(1, "sluice-store")
        self._closed = False
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None

    async def push(self, process: str, batch: Batch) -> int:
        """See `Store.push`."""
        sums = batch.sums.items()
        rows = [(name, field, number) for name, fields in sums for field, number in fields.items()]

        def work(db: sqlite3.Connection) -> int:
            now = self._clock.monotonic()
            row = db.execute(statements.PROGRESS, (process,)).fetchone()
            last: int = 0 if row is None else row[0]
            if last != batch.after:
                return last
            if row is None:
                # Times ahead of now are from before a restart of the machine.
                db.execute(statements.PRUNE_PROGRESS, (now - KEEP_PROGRESS_S, now))
            db.executemany(statements.ADD, rows)
            db.execute(statements.SET_PROGRESS, (process, batch.seq, now))
            return batch.seq

        return await self._call(work)

    async def totals(self, prefix: str) -> dict[str, dict[str, float]]:
        """See `Store.totals`."""
        found: dict[str, dict[str, float]] = {}
        for name, field, number in await self._call(
            lambda db: db.execute(statements.TOTALS, statements.span(prefix)).fetchall()
        ):
            found.setdefault(name, {})[field] = number
        return found

    async def forget(self, prefix: str) -> int:
        """See `Store.forget`."""

        def work(db: sqlite3.Connection) -> int:
            count: int = db.execute(statements.COUNT_NAMES, statements.span(prefix)).fetchone()[0]
            db.execute(statements.FORGET, statements.span(prefix))
            return count

        return await self._call(work)

    async def report(self, process: str, snapshot: Json, ttl_s: float) -> None:
        """See `Store.report`."""
        text = encode(snapshot)

        def work(db: sqlite3.Connection) -> None:
            now = self._clock.monotonic()
            db.execute(statements.SET_REPORT, (process, text, now + ttl_s, ttl_s))
            db.execute(statements.PRUNE_REPORTS, (now, now))

        await self._call(work)

    async def reports(self) -> dict[str, Json]:
        """See `Store.reports`."""
        rows = await self._call(lambda db: db.execute(statements.REPORTS).fetchall())
        now = self._clock.monotonic()
        return {
            process: decode(text)
            for process, text, expires_s, ttl_s in rows
            if is_live(expires_s, ttl_s, now)
        }

    async def get(self, key: str) -> Document:
        """See `Store.get`."""
        row = await self._call(lambda db: db.execute(statements.GET, (key,)).fetchone())
        return Document(key, None, 0) if row is None else Document(key, decode(row[0]), row[1])

    async def put(
        self, key: str, value: Json, expected: int, fence: Fence | None = None
    ) -> int | None:
        """See `Store.put`."""
        text = encode(value)

        def work(db: sqlite3.Connection) -> int | None:
            self._check(db, fence)
            row = db.execute(statements.GET, (key,)).fetchone()
            if expected != (0 if row is None else row[1]):
                return None
            revision = self._tick(db)
            db.execute(statements.PUT, (key, text, revision, revision))
            return revision

        return await self._call(work)

    async def restore(self, documents: Iterable[Document]) -> int:
        """See `Store.restore`."""
        rows = [(one.key, encode(one.value), one.version) for one in documents]

        def work(db: sqlite3.Connection) -> int:
            count = 0
            for key, text, version in rows:
                row = db.execute(statements.GET, (key,)).fetchone()
                if row is not None and row[1] >= version:
                    continue
                revision = self._tick(db, version)
                db.execute(statements.PUT, (key, text, version, revision))
                count += 1
            return count

        return await self._call(work)

    async def changes(self, since: int) -> Changes:
        """See `Store.changes`."""

        def work(db: sqlite3.Connection) -> tuple[int, list[tuple[str, str, int]]]:
            return statements.revision(db), db.execute(statements.CHANGES, (since,)).fetchall()

        revision, rows = await self._call(work)
        return Changes(
            revision, tuple(Document(key, decode(text), version) for key, text, version in rows)
        )

    async def append(
        self, stream: str, event: Json, event_id: str, fence: Fence | None = None
    ) -> None:
        """See `Store.append`."""
        text = encode(event)

        def work(db: sqlite3.Connection) -> None:
            self._check(db, fence)
            db.execute(statements.APPEND, (stream, event_id, text, self._tick(db)))
            db.execute(statements.TRIM, (stream, stream, self._max_events))

        await self._call(work)

    async def tail(self, stream: str, count: int) -> list[Json]:
        """See `Store.tail`."""
        rows = await self._call(
            lambda db: db.execute(statements.TAIL, (stream, max(0, count))).fetchall()
        )
        return [decode(text) for (text,) in reversed(rows)]

    async def acquire(self, lease: str, owner: str, ttl_s: float) -> int | None:
        """See `Store.acquire`."""

        def work(db: sqlite3.Connection) -> int | None:
            now = self._clock.monotonic()
            row = db.execute(statements.LEASE, (lease,)).fetchone()
            if row is not None and is_live(row[2], row[3], now):
                if row[0] != owner:
                    return None
                token: int = row[1]
            else:
                token = self._tick(db)
            db.execute(statements.GRANT, (lease, owner, token, now + ttl_s, ttl_s))
            return token

        return await self._call(work)

    async def release(self, fence: Fence) -> None:
        """See `Store.release`."""
        await self._call(lambda db: db.execute(statements.RELEASE, (fence.lease, fence.token)))

    async def close(self) -> None:
        """See `Store.close`."""
        with contextlib.suppress(StoreError):
            await self._in_thread(self._drop)
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._in_thread(partial(self._transact, work))

    async def _in_thread(self, job: Callable[[], T]) -> T:
        """Run it there. Raises `StoreError` when it fails or takes too long."""
        if self._closed:
            raise StoreError(f"{self.label}: closed")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                return await loop.run_in_executor(self._thread, job)
        except TimeoutError as error:
            raise StoreError(f"{self.label}: no answer in {self._timeout_s:g} s") from error
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self.label}: {error}") from error

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            db = self._opened()
            # For writing, readers too: a lock that is taken first cannot fail half-way.
            db.execute("BEGIN IMMEDIATE")
            result = work(db)
            db.execute("COMMIT")
        except BaseException:
            self._drop()  # Which takes back what the transaction did.
            raise
        return result

    def _opened(self) -> sqlite3.Connection:
        """Return the connection to the file that stands there now."""
        if self._connection is not None and _identity(self._path) == self._file:
            return self._connection
        self._drop()
        # Only whoever runs the gateway may read it.
        try:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no folder {self._path.parent}") from None
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._file = _identity(self._path)
        statements.prepare(self._connection, self._timeout_s * _BUSY_SHARE)
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _tick(self, db: sqlite3.Connection, at_least: int = 0) -> int:
        revision = next_revision(max(statements.revision(db), at_least), self._clock.wall())
        db.execute(statements.SET_REVISION, (revision,))
        return revision

    def _check(self, db: sqlite3.Connection, fence: Fence | None) -> None:
        """Raise `FencedError` unless the writer leads, or does not claim to."""
        if fence is None:
            return
        row = db.execute(statements.LEASE, (fence.lease,)).fetchone()
        now = self._clock.monotonic()
        if row is None or row[1] != fence.token or not is_live(row[2], row[3], now):
            raise FencedError(fence.lease)


def _identity(path: Path) -> tuple[int, int] | None:
    """Say which file stands there: one that was removed can still be written to, by its opener."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino

"""What is the shared state of a gateway that is one process?

It lives and ends with the process. Nothing here waits, so each call is atomic by itself. Values
go through JSON as in the other stores: a caller that changes what it wrote changes nothing here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.clock import Clock
from gateway.store.base import (
    KEEP_PROGRESS_S,
    MAX_EVENTS,
    Batch,
    Changes,
    Document,
    Fence,
    FencedError,
    Json,
    decode,
    encode,
    is_live,
    next_revision,
)


@dataclass(slots=True)
class _Progress:
    seq: int
    at_s: float


@dataclass(slots=True)
class _Written:
    text: str
    version: int
    revision: int


@dataclass(slots=True)
class _Granted:
    owner: str
    token: int
    expires_s: float
    ttl_s: float


@dataclass(slots=True)
class _Reported:
    text: str
    expires_s: float
    ttl_s: float


@dataclass(slots=True)
class _Stream:
    events: deque[tuple[str, str]]
    ids: set[str] = field(default_factory=set)


class MemoryStore:
    """The store of one process."""

    label = "memory"

    def __init__(self, clock: Clock, *, max_events: int = MAX_EVENTS) -> None:
        self._clock = clock
        self._max_events = max_events
        self._revision = 0
        self._sums: dict[str, dict[str, float]] = {}
        self._progress: dict[str, _Progress] = {}
        self._reports: dict[str, _Reported] = {}
        self._documents: dict[str, _Written] = {}
        self._streams: dict[str, _Stream] = {}
        self._leases: dict[str, _Granted] = {}

    async def push(self, process: str, batch: Batch) -> int:
        """See `Store.push`."""
        now = self._clock.monotonic()
        known = self._progress.get(process)
        last = 0 if known is None else known.seq
        if last != batch.after:
            return last
        if known is None:
            self._prune(now)
        for name, fields in batch.sums.items():
            held = self._sums.setdefault(name, {})
            for key, number in fields.items():
                held[key] = held.get(key, 0.0) + number
        self._progress[process] = _Progress(batch.seq, now)
        return batch.seq

    async def totals(self, prefix: str) -> dict[str, dict[str, float]]:
        """See `Store.totals`."""
        return {
            name: dict(fields) for name, fields in self._sums.items() if name.startswith(prefix)
        }

    async def forget(self, prefix: str) -> int:
        """See `Store.forget`."""
        gone = [name for name in self._sums if name.startswith(prefix)]
        for name in gone:
            del self._sums[name]
        return len(gone)

    async def report(self, process: str, snapshot: Json, ttl_s: float) -> None:
        """See `Store.report`."""
        now = self._clock.monotonic()
        self._reports[process] = _Reported(encode(snapshot), now + ttl_s, ttl_s)
        self._reports = self._live_reports(now)

    async def reports(self) -> dict[str, Json]:
        """See `Store.reports`."""
        live = self._live_reports(self._clock.monotonic())
        return {process: decode(reported.text) for process, reported in live.items()}

    async def get(self, key: str) -> Document:
        """See `Store.get`."""
        written = self._documents.get(key)
        return Document(key, None, 0) if written is None else _document(key, written)

    async def put(
        self, key: str, value: Json, expected: int, fence: Fence | None = None
    ) -> int | None:
        """See `Store.put`."""
        text = encode(value)
        self._check(fence)
        written = self._documents.get(key)
        if expected != (0 if written is None else written.version):
            return None
        revision = self._tick()
        self._documents[key] = _Written(text, revision, revision)
        return revision

    async def restore(self, documents: Iterable[Document]) -> int:
        """See `Store.restore`."""
        count = 0
        for document in documents:
            written = self._documents.get(document.key)
            if written is not None and written.version >= document.version:
                continue
            self._revision = max(self._revision, document.version)
            self._documents[document.key] = _Written(
                encode(document.value), document.version, self._tick()
            )
            count += 1
        return count

    async def changes(self, since: int) -> Changes:
        """See `Store.changes`."""
        changed = sorted(
            (written.revision, key)
            for key, written in self._documents.items()
            if written.revision > since
        )
        found = tuple(_document(key, self._documents[key]) for _, key in changed)
        return Changes(self._revision, found)

    async def append(
        self, stream: str, event: Json, event_id: str, fence: Fence | None = None
    ) -> None:
        """See `Store.append`."""
        text = encode(event)
        self._check(fence)
        log = self._streams.setdefault(stream, _Stream(deque()))
        if event_id in log.ids:
            return
        log.events.append((event_id, text))
        log.ids.add(event_id)
        if len(log.events) > self._max_events:
            log.ids.discard(log.events.popleft()[0])

    async def tail(self, stream: str, count: int) -> list[Json]:
        """See `Store.tail`."""
        log = self._streams.get(stream)
        events = [] if log is None else list(log.events)
        return [decode(text) for _, text in events[max(0, len(events) - count) :]]

    async def acquire(self, lease: str, owner: str, ttl_s: float) -> int | None:
        """See `Store.acquire`."""
        now = self._clock.monotonic()
        granted = self._leases.get(lease)
        if granted is not None and is_live(granted.expires_s, granted.ttl_s, now):
            if granted.owner != owner:
                return None
            token = granted.token
        else:
            token = self._tick()
        self._leases[lease] = _Granted(owner, token, now + ttl_s, ttl_s)
        return token

    async def release(self, fence: Fence) -> None:
        """See `Store.release`."""
        granted = self._leases.get(fence.lease)
        if granted is not None and granted.token == fence.token:
            del self._leases[fence.lease]

    async def close(self) -> None:
        """See `Store.close`."""

    def _tick(self) -> int:
        self._revision = next_revision(self._revision, self._clock.wall())
        return self._revision

    def _check(self, fence: Fence | None) -> None:
        """Raise `FencedError` unless the writer leads, or does not claim to."""
        if fence is None:
            return
        granted = self._leases.get(fence.lease)
        now = self._clock.monotonic()
        if (
            granted is None
            or granted.token != fence.token
            or not is_live(granted.expires_s, granted.ttl_s, now)
        ):
            raise FencedError(fence.lease)

    def _live_reports(self, now: float) -> dict[str, _Reported]:
        return {
            process: reported
            for process, reported in self._reports.items()
            if is_live(reported.expires_s, reported.ttl_s, now)
        }

    def _prune(self, now: float) -> None:
        """Drop the progress of processes that have long been gone."""
        self._progress = {
            process: progress
            for process, progress in self._progress.items()
            if now - progress.at_s < KEEP_PROGRESS_S
        }


def _document(key: str, written: _Written) -> Document:
    return Document(key, decode(written.text), written.version)

"""What may a process ask of the state that it shares with others?

One time order goes through all of it. A *revision* is a count that the store moves on with each
change, to the wall clock's microseconds or by one, whichever is more (a hybrid logical clock,
Kulkarni et al. 2014). Versions of documents and tokens of leases are revisions. So they rise even
over a store that has lost its state: what is handed out after the loss is newer than whatever was
handed out before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Json: TypeAlias = Any
"""What `json` can write. Others wrote what is read: the reader validates it."""

Sums: TypeAlias = Mapping[str, Mapping[str, float]]
"""Name → field → number, merged by adding up. A counter has one field, a histogram one for each
bucket. Numbers are doubles: counts are exact up to 2**53."""

TIMEOUT_S = 1.0
"""The longest that a call takes. Nothing on a request's way waits for it, and a lease of 3 s
outlives one call that fails."""

MAX_EVENTS = 10_000
"""Events that a stream keeps; at 1 KB each, 10 MB."""

KEEP_PROGRESS_S = 30 * 86_400.0
"""How long the store remembers what a silent process has pushed. One that is cut off for longer
and then comes back would be counted twice."""


class StoreError(Exception):
    """The store did not answer, or not in time; whether the call took effect is not known."""


class FencedError(Exception):
    """The lease that the write stands on is not held any more; nothing was written."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one process adds to the sums: it takes its part of them from `after` to `seq`.

    A process counts its pushes from 1; 0 is before the first. Two batches of a process with the
    same `after` and `seq` are equal: that is what makes repeating them harmless.
    """

    after: int
    seq: int
    sums: Sums


@dataclass(frozen=True, slots=True)
class Document:
    """A value under a key. A key that was never written has version 0 and the value None."""

    key: str
    value: Json
    version: int


@dataclass(frozen=True, slots=True)
class Changes:
    """Documents that changed, the oldest change first, and where to ask from next time."""

    revision: int
    documents: tuple[Document, ...]


@dataclass(frozen=True, slots=True)
class Fence:
    """The proof that a writer leads: its lease's name and the token that came with it."""

    lease: str
    token: int


class Store(Protocol):
    """State that processes share. Each call is atomic, ends within the store's time-out and
    raises `StoreError` when it did not get its answer."""

    @property
    def label(self) -> str:
        """What to call the store in a log line; no secrets."""

    async def push(self, process: str, batch: Batch) -> int:
        """Add a batch if the process' part stands at `batch.after`; return where it stands then.

        `batch.seq` says that the batch is in, now or since an earlier try. Less than
        `batch.after` says that the store has lost what it had; nothing was added.
        """

    async def totals(self, prefix: str) -> dict[str, dict[str, float]]:
        """Return the sums whose names begin so, over all processes that ever pushed."""

    async def forget(self, prefix: str) -> int:
        """Remove the sums whose names begin so; return how many names there were."""

    async def report(self, process: str, snapshot: Json, ttl_s: float) -> None:
        """Keep what a process says of itself, for `ttl_s` seconds; 0 withdraws it."""

    async def reports(self) -> dict[str, Json]:
        """Return each live process' last report."""

    async def get(self, key: str) -> Document:
        """Return the document; version 0 if there is none."""

    async def put(
        self, key: str, value: Json, expected: int, fence: Fence | None = None
    ) -> int | None:
        """Write the document if its version is `expected`; return the new one, None if it is not.

        The value None removes it, and its version goes on. Raises `FencedError` when `fence` is
        given and that lease is not held with that token. After `StoreError` the write may have
        happened: read before the next.
        """

    async def restore(self, documents: Iterable[Document]) -> int:
        """Write each document that is newer than the store's own, under the version it had.

        Returns how many were. It is for what a store has lost, and harmless to repeat.
        """

    async def changes(self, since: int) -> Changes:
        """Return the documents that changed after revision `since`; 0 for all. Cheap to poll."""

    async def append(
        self, stream: str, event: Json, event_id: str, fence: Fence | None = None
    ) -> None:
        """Add an event to a log; one whose id is in it already is not added again.

        The oldest go when there are more than the store keeps. `fence` as with `put`.
        """

    async def tail(self, stream: str, count: int) -> list[Json]:
        """Return the last events of a log, at most `count`, the oldest first."""

    async def acquire(self, lease: str, owner: str, ttl_s: float) -> int | None:
        """Take a lease for `ttl_s` seconds, or hold it longer; return its token, None if another
        owner has it.

        The token stays the same while the owner holds the lease without a gap, and is higher
        than all before it when it was taken anew.
        """

    async def release(self, fence: Fence) -> None:
        """Give the lease back, if it is still held with this token."""

    async def close(self) -> None:
        """Let go of connections and threads. Never raises for a store that is down."""


def encode(value: Json) -> str:
    """Return the value as JSON. Raises `TypeError` or `ValueError` for what JSON cannot say."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def decode(text: str) -> Json:
    """Return the value of text that `encode` wrote."""
    return json.loads(text)


def next_revision(last: int, wall_s: float) -> int:
    """Return the revision of a change at this time, after one with the revision `last`."""
    return max(last + 1, int(wall_s * 1e6))


def is_live(expires_s: float, ttl_s: float, now: float) -> bool:
    """Say whether what was granted for `ttl_s` until `expires_s` still holds.

    More time left than was ever granted means that the clock went back, by a restart of the
    machine or a hand: then it counts as run out, for it might never do so otherwise.
    """
    return 0.0 < expires_s - now <= ttl_s

"""How does a process live with a store that may be down?

    up --StoreError--> down, since when and why --a whole round without an error--> up

One task goes round: it polls the documents (every 0.5 s), and every second pushes the sums, writes
the events that wait and reports. While the store is down the process goes on with the documents as
it saw them last, sums add up in the `Outbox`, and the round is tried again with full jitter. When
the store comes back with less than it had, each process brings back what it knows: its sums, and
every document in the newest version that it saw, and the last events that it logged.

Nothing here is on a request's way: `add`, `report`, `append` and `document` never wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from random import Random

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from gateway.clock import Clock
from gateway.store.base import Document, Json, Store, StoreError, Sums
from gateway.store.outbox import Outbox

_LOG = logging.getLogger("sluice.store")

POLL_S = 0.5
"""Between two looks at the documents: with the write and the call, far below 2 s."""

PUSH_ROUNDS = 2
"""Sums and reports go out in every second round: each second."""

REPORT_TTL_S = 5.0
"""A process that has not reported for this long is not shown any more. Four rounds may fail."""

MAX_WAIT_S = 2.0
"""The widest window between two tries; https://aws.amazon.com/blogs/architecture/
exponential-backoff-and-jitter/ for the full jitter. The store is back in use 3 s after it is back:
a wait and a call."""

_FIRST_WAIT_S = 0.1

REFILL_S = 5.0
"""After a loss all processes have found out, and pushed their sums again, within this time."""

MAX_WAITING_EVENTS = 1_000
"""Audit events kept while the store is down; the oldest go first, and are counted."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether the store answers, since when (monotonic seconds), and why not."""

    available: bool
    since: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Event:
    stream: str
    event: Json
    id: str


def process_name(rng: Random) -> str:
    """Return a name that no other process has, nor had: host, pid and 64 random bits."""
    return f"{socket.gethostname()}:{os.getpid()}:{rng.getrandbits(64):016x}"


class Resilient:
    """One process' side of a store. Calls that need an answer now go to `store` itself."""

    def __init__(
        self,
        store: Store,
        process: str,
        clock: Clock,
        rng: Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`process` is from `process_name`; two with one name would lose each other's sums."""
        self.store = store
        self.process = process
        self.outbox = Outbox()
        self.standing = Standing(available=True, since=clock.monotonic())
        """Taken for up until a call has failed: nothing at start waits for the store."""
        self.pushed_at = -math.inf
        """When the last push began that the store has taken (monotonic seconds)."""
        self.lost_events = 0
        """Audit events that were given up because too many waited."""
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._documents: dict[str, Document] = {}
        self._revision = 0
        self._restoring = False
        self._lost_at: float | None = None
        self._snapshot: Callable[[], Json] | None = None
        self._gone: deque[str] = deque()
        self._events: deque[_Event] = deque()
        self._logged: deque[_Event] = deque(maxlen=MAX_WAITING_EVENTS)
        self._watchers: list[tuple[str, Callable[[Document], None]]] = []

    def add(self, sums: Sums) -> None:
        """Count in; pushed within a second, or when the store is back. `ValueError`: not finite."""
        before = self.outbox.dropped
        self.outbox.add(sums)
        if self.outbox.dropped and not before:
            _LOG.error("too many arms and metrics: no room is left for new ones, their sums lack")

    def forget(self, prefix: str, *, everywhere: bool = False) -> None:
        """Let go of this process' own sums, see `Outbox.drop`.

        With `everywhere` soon of the store's, too: for what nobody will ask for again.
        """
        self.outbox.drop(prefix)
        if everywhere:
            self._gone.append(prefix)

    def report(self, snapshot: Callable[[], Json]) -> None:
        """Report from now on what `snapshot` returns, each second."""
        self._snapshot = snapshot

    def append(self, stream: str, event: Json) -> None:
        """Log an event, once, now or when the store is back."""
        if len(self._events) >= MAX_WAITING_EVENTS:
            self._events.popleft()
            self.lost_events += 1
        self._events.append(_Event(stream, event, f"{self._rng.getrandbits(128):032x}"))

    def document(self, key: str) -> Document:
        """Return the document as it was seen last, be the store up or down."""
        return self._documents.get(key) or Document(key, None, 0)

    async def fetch(self, key: str) -> Document:
        """Return the document as the store has it now, for whoever goes on from it.

        One that the store has lost is brought back first: to take it for a beginning and write on
        would be newer than all that `restore` brings back. Raises `StoreError`.
        """
        document = await self.store.get(key)
        known = self.document(key)
        if document.version < known.version:
            self._lost_at = self._clock.monotonic()
            await self.store.restore([known])
            document = await self.store.get(key)
        return document

    @property
    def refilling(self) -> bool:
        """Whether the store has lost something lately: its sums may lack a process' part."""
        at = self._lost_at
        return at is not None and self._clock.monotonic() - at < REFILL_S

    def documents(self, prefix: str) -> list[Document]:
        """Return those that begin so and are not removed, in the order of their keys."""
        return [
            self._documents[key]
            for key in sorted(self._documents)
            if key.startswith(prefix) and self._documents[key].value is not None
        ]

    def watch(self, prefix: str, changed: Callable[[Document], None]) -> None:
        """Call `changed` with each document that begins so, now and after each change of it.

        It is called from the round, must not wait, and what it raises ends the round.
        """
        self._watchers.append((prefix, changed))
        for document in list(self._documents.values()):
            if document.key.startswith(prefix):
                changed(document)

    async def run(self) -> None:
        """Go round until cancelled."""
        rounds = 0
        while True:
            await self._persist(push=rounds % PUSH_ROUNDS == 0)
            rounds += 1
            await self._sleep(POLL_S)

    async def finish(self) -> None:
        """Push and log what waits and withdraw the report: one try, before the process ends.

        Call it after `run` has ended. What the store does not take is lost, and said.
        """
        try:
            await self._push()
            if self.outbox.waiting:  # What came after a push that has failed before.
                await self._push()
            await self._write_events()
            await self.store.report(self.process, None, 0.0)
        except StoreError as error:
            if self.outbox.waiting or self._events:
                _LOG.warning("the last sums and events could not be stored: %s", error)

    async def poll(self) -> None:
        """Look at the documents now, for what must not wait half a second. `StoreError`."""
        changes = await self.store.changes(self._revision)
        self._revision = changes.revision
        self._take(changes.documents)

    async def _persist(self, *, push: bool) -> None:
        """Take the turn until it works."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StoreError),
            wait=wait_random_exponential(multiplier=_FIRST_WAIT_S, max=MAX_WAIT_S),
            before_sleep=self._failed,
            sleep=self._sleep,
        ):
            with attempt:
                await self.turn(push)
        self._worked()

    async def turn(self, push: bool) -> None:
        """Go round once: poll, and with `push` also push, log and report. Raises `StoreError`."""
        await self.poll()
        if push:
            await self._push()
            while self._gone:
                await self.store.forget(self._gone[0])
                self._gone.popleft()
            await self._write_events()
            if self._snapshot is not None:
                await self.store.report(self.process, self._snapshot(), REPORT_TTL_S)

    async def _push(self) -> None:
        """Push, again and with more if the store has lost something."""
        while True:
            if self._restoring:
                await self._restore()
            began, batch = self._clock.monotonic(), self.outbox.batch()
            if not self.outbox.heard(await self.store.push(self.process, batch)):
                self.pushed_at = began
                return
            self._restoring = True
            self._lost_at = self._clock.monotonic()

    async def _restore(self) -> None:
        missing = self.outbox.missing
        count = await self.store.restore(self._documents.values())
        self._events.extendleft(reversed(self._logged))  # Those that are still there stay once.
        self._logged.clear()
        self._restoring = False
        await self.poll()
        _LOG.warning(
            "%s has lost state: %d documents restored, sums are pushed again, %d batches are gone",
            self.store.label,
            count,
            missing,
        )

    async def _write_events(self) -> None:
        while self._events:
            first = self._events[0]
            await self.store.append(first.stream, first.event, first.id)
            self._logged.append(first)
            with contextlib.suppress(ValueError):  # A full queue may have given it up meanwhile.
                self._events.remove(first)

    def _take(self, documents: Iterable[Document]) -> None:
        """Take over what changed. One that is older than ours is of a store that went back."""
        for document in documents:
            if document.version <= self.document(document.key).version:
                continue
            self._documents[document.key] = document
            for prefix, changed in self._watchers:
                if document.key.startswith(prefix):
                    changed(document)

    def _failed(self, state: RetryCallState) -> None:
        if self.standing.available:
            error = state.outcome.exception() if state.outcome is not None else None
            self.standing = Standing(
                available=False, since=self._clock.monotonic(), reason=str(error)
            )
            _LOG.warning("the store is down; going on with what was last seen: %s", error)

    def _worked(self) -> None:
        if not self.standing.available:
            now = self._clock.monotonic()
            _LOG.info("%s is back after %.1f s", self.store.label, now - self.standing.since)
            self.standing = Standing(available=True, since=now)

"""Does this process lead, may it still act on that, and when does it ask again?

    follower --the store grants--> leader --granted again, same token--> leader
       ^                             │ │
       │                             │ └──a new token: others may have led──> leader, a new term
       └──refused, or its time is up─┘

`Candidate` is the pure part. A leader counts its time from before it asked, by its own clock, so it
stops leading before the store lets anybody else lead. A process that was stopped in between finds
that its time is up as soon as it looks at its clock; should it be stopped between looking and
writing, the store refuses the write for its old token (`Fence`): Kleppmann, "How to do distributed
locking", 2016.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import Random

from gateway.clock import Clock
from gateway.store.base import Fence, FencedError, Store, StoreError

_LOG = logging.getLogger("sluice.store")

TAKEOVER_S = 3.0
"""After a leader's death another leads within this time; a rollback is late by so much."""

_TTL_SHARE = 3 / 4
"""The share of the takeover that a lease lives for."""

RELEASES = 3
"""How often a leader that ends tries to give its lease back: a second each at the most."""

_PAUSE_SHARE = 1 / 8
"""The longest pause between two questions: six of them fit into a lease, and lease, pause and a
call together into the takeover."""


class Candidate:
    """One process that would lead, and what it knows of whether it does. Pure."""

    __slots__ = ("_rng", "_until", "fence", "lease", "owner", "pause_s", "ttl_s")

    def __init__(self, lease: str, owner: str, rng: Random, takeover_s: float = TAKEOVER_S) -> None:
        """`owner` must be this process' alone, and not that of an earlier run of it."""
        self.lease = lease
        self.owner = owner
        self.ttl_s = takeover_s * _TTL_SHARE
        self.pause_s = takeover_s * _PAUSE_SHARE
        self.fence: Fence | None = None
        """What writes carry. It stays after the time is up, until the store was heard again."""
        self._rng = rng
        self._until = 0.0

    def leads(self, now: float) -> bool:
        """Say whether this process leads: nobody else does before it says no."""
        return self.fence is not None and now < self._until

    def heard(self, token: int | None, asked: float) -> Fence | None:
        """Take the store's answer to a question that was sent at `asked`; None: another leads.

        Returns the fence of a new term, None when nothing began. Whoever begins one reads the
        documents anew: others may have written since.
        """
        if token is None:
            self.resign()
            return None
        self._until = asked + self.ttl_s
        if self.fence is not None and self.fence.token == token:
            return None
        self.fence = Fence(self.lease, token)
        return self.fence

    def resign(self) -> None:
        """Lead no more."""
        self.fence = None
        self._until = 0.0

    def wait_s(self) -> float:
        """Return the seconds until the next question; spread, so that not all ask at once."""
        return self._rng.uniform(self.pause_s / 2, self.pause_s)


class Election:
    """Asks for the lease again and again, and runs `lead` for as long as it is held."""

    def __init__(
        self,
        store: Store,
        candidate: Candidate,
        lead: Callable[[Fence], Awaitable[None]],
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`lead` is started with each term and cancelled at its end; it may also return.

        A `FencedError` or a `StoreError` that it raises ends it until the next question, which
        either goes on with the term, and starts it again, or ends that too.
        """
        self._store = store
        self._candidate = candidate
        self._lead = lead
        self._clock = clock
        self._sleep = sleep
        self._term: asyncio.Task[None] | None = None

    @property
    def leads(self) -> bool:
        """Whether this process leads at this moment."""
        return self._candidate.leads(self._clock.monotonic())

    async def run(self) -> None:
        """Stand for election until cancelled; then the lease is given back at once."""
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._ask(group)
                    await self._sleep(self._candidate.wait_s())
        finally:
            await self._release()

    async def _ask(self, group: asyncio.TaskGroup) -> None:
        candidate = self._candidate
        asked = self._clock.monotonic()
        try:
            token = await self._store.acquire(candidate.lease, candidate.owner, candidate.ttl_s)
        except StoreError as error:
            # The lease goes on for what is left of it: a store that fails once ends no term.
            if candidate.fence is not None and not self.leads:
                _LOG.warning("leads %s no more: %s", candidate.lease, error)
                candidate.resign()
        else:
            led = candidate.fence
            begun = candidate.heard(token, asked)
            if begun is not None:
                await self._end_term()
                _LOG.info("leads %s, token %d", candidate.lease, begun.token)
            elif led is not None and candidate.fence is None:
                _LOG.warning("leads %s no more: another does", candidate.lease)
        if not self.leads:
            await self._end_term()
        elif candidate.fence is not None and (self._term is None or self._term.done()):
            self._term = group.create_task(self._serve(candidate.fence))

    async def _serve(self, fence: Fence) -> None:
        try:
            await self._lead(fence)
        except (FencedError, StoreError) as error:
            _LOG.warning("leading %s was interrupted: %s", fence.lease, error)

    async def _end_term(self) -> None:
        term, self._term = self._term, None
        if term is not None:
            term.cancel()
            await asyncio.wait([term])

    async def _release(self) -> None:
        fence = self._candidate.fence
        self._candidate.resign()
        if fence is None:
            return
        for tries_left in reversed(range(RELEASES)):
            try:
                await self._store.release(fence)
            except StoreError as error:
                if not tries_left:
                    _LOG.info("the lease %s runs out by itself: %s", fence.lease, error)
            else:
                return

"""What do the attempts of all requests of a process have in common?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from random import Random

from gateway.clock import Clock
from gateway.config.cluster import Retries
from gateway.dispatch.backoff import Backoff
from gateway.dispatch.budget import RetryBudget
from gateway.dispatch.hedge import Recent
from gateway.plan.table import Table
from gateway.telemetry.metrics import Metrics
from gateway.upstream.pool import Pool


class Shared:
    """The table in force, the clock, the counters, and each cluster's retry budget."""

    __slots__ = (
        "_budgets",
        "_ended",
        "_recents",
        "backoff",
        "metrics",
        "monotonic",
        "shed_s",
        "stopping",
        "table",
        "wall",
    )

    def __init__(
        self, table: Callable[[], Table], metrics: Metrics, clock: Clock, rng: Random
    ) -> None:
        self.table = table
        self.metrics = metrics
        self.monotonic = clock.monotonic
        self.wall = clock.wall
        self.backoff = Backoff(rng)
        self.shed_s = 0
        """In how many seconds the event loop may take on more; 0 if it may now."""
        self.stopping = False
        """Whether the gateway is being ended by force: nothing is tried again."""
        self._ended = asyncio.Event()
        self._budgets: dict[str, tuple[Retries, RetryBudget]] = {}
        self._recents: dict[str, Recent] = {}

    def stop(self) -> None:
        """The gateway is being ended by force; no pause lasts any longer."""
        self.stopping = True
        self._ended.set()

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the gateway is being ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    def budget(self, pool: Pool) -> RetryBudget:
        """Return the retry budget of a pool's cluster; one with other figures is a new one."""
        retries = pool.owner.spec.retries
        found = self._budgets.get(pool.cluster)
        if found is not None and found[0] is retries:
            return found[1]
        if found is not None and found[0] == retries:
            budget = found[1]
        else:
            budget = RetryBudget(retries.budget_percent, retries.budget_min_per_s)
        self._budgets[pool.cluster] = (retries, budget)
        return budget

    def deposit(self, pool: Pool, now: float) -> None:
        """Count a request towards its cluster's retry budget, once: 0.15 µs."""
        found = self._budgets.get(pool.cluster)
        if found is not None and found[0] is pool.owner.spec.retries and now < found[1].ends_at:
            found[1].fresh += 1  # `RetryBudget.request`, but for the calls.
        else:
            self.budget(pool).request(now)

    def recent(self, pool: Pool) -> Recent:
        """Return the recent times to first token of a pool's cluster."""
        found = self._recents.get(pool.cluster)
        if found is None:
            found = self._recents[pool.cluster] = Recent()
        return found

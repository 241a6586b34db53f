"""Which requests are copied now, and when do the copies make room?

Live requests come first. No copy begins while its target is busy with them or the event loop is
late, and copies that are under way are given up, the newest first, as soon as live requests there
wait, or the two together are more than the target takes. Copies wait for nothing themselves.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gateway.admit.lag import LoopLag
from gateway.admit.ticket import Priority
from gateway.api.body import Facts, has_effect
from gateway.dispatch.copying import Copy, Order, Result
from gateway.dispatch.shared import Shared
from gateway.dispatch.tap import Tap
from gateway.plan.junction import Course
from gateway.releases.mirrored import Pair
from gateway.telemetry.metrics import INTER_TOKEN_S, Histogram
from gateway.telemetry.record import Record
from gateway.upstream.pool import Pool
from gateway.wire.types import Downstream, Request

MAX_LAG_S = 0.1
"""While the event loop was later than this within the last second, nothing is copied."""

SWITCH_S = 0.0005
"""Python's switch interval while there may be copies. A comparison in a thread would else keep the
event loop from running for 5 ms each time."""


class Mirrors:
    """All copies of a process; an async context manager, within which requests are copied."""

    def __init__(self, shared: Shared, lag: LoopLag, heard: Callable[[Pair], None]) -> None:
        """`heard` is told each pair that was compared."""
        self.monotonic = shared.monotonic
        self.wall = shared.wall
        self.gaps = Histogram(INTER_TOKEN_S)
        """Times between tokens of copies. They are not the live ones'."""
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="sluice-mirror")
        """One thread: comparisons take one core at the most, and wait for each other."""
        self.heard = heard
        self._shared = shared
        self._lag = lag
        self._group: asyncio.TaskGroup | None = None
        self._open = False
        self._switch_s = 0.0
        self._copies: dict[Copy, None] = {}  # In the order in which they began.
        self._inflight: dict[str, int] = {}  # By policy.
        self._at: dict[str, list[Copy]] = {}  # By the cluster that works on them.
        self._results: dict[tuple[str, Result], int] = {}

    def __repr__(self) -> str:
        return f"<Mirrors, {len(self._copies)} copies>"

    async def __aenter__(self) -> Self:
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        self._group = await asyncio.TaskGroup().__aenter__()
        self._open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._group is not None  # noqa: S101  it was entered
        self.stop()
        try:
            await self._group.__aexit__(None, None, None)
        finally:
            sys.setswitchinterval(self._switch_s)
            self.executor.shutdown(cancel_futures=True)

    def offer(
        self, course: Course, request: Request, facts: Facts, record: Record, down: Downstream
    ) -> Tap | None:
        """Copy a request that a mirror's rule matches, if it may be; the copy begins later.

        The tap that is returned must stand in `down`'s place from now on, and `Tap.end` is owed
        once the request is recorded. None if there is no copy. `request.body` may be replaced
        afterwards: the copy has what is there now.
        """
        group, policy = self._group, course.rule.policy
        spec, plan = policy.mirror, course.plan
        if group is None or spec is None or not self._open:
            return None
        refusal = self._refusal(policy.name, spec.max_concurrency, request)
        if refusal is None and plan is None:
            refusal = Result.UNAVAILABLE
        if refusal is not None or plan is None:
            self._count(policy.name, refusal or Result.UNAVAILABLE)
            return None
        order = Order(
            policy.name,
            course.rule.epoch,
            spec,
            plan,
            course.override,
            request,
            request.body,
            facts,
            record.request_id,
        )
        copy = Copy(self, order, down)
        copy.task = task = group.create_task(copy.run())
        self._copies[copy] = None
        self._inflight[policy.name] = self._inflight.get(policy.name, 0) + 1
        task.add_done_callback(lambda done: self._ended(copy, done))
        return copy.tap

    def _refusal(self, policy: str, most: int, request: Request) -> Result | None:
        if self._inflight.get(policy, 0) >= most:
            return Result.FULL
        if self._lag.peak_s > MAX_LAG_S:
            return Result.YIELDED
        if request.rest is not None:
            return Result.UNFIT
        if request.route.name == "responses" and has_effect(request.body):
            return Result.UNFIT
        return None

    def _ended(self, copy: Copy, task: asyncio.Task[Result]) -> None:
        """Count it. A task that is cancelled before it begins runs nothing of its own."""
        del self._copies[copy]
        self._inflight[copy.order.policy] -= 1
        result = copy.why or Result.STOPPED if task.cancelled() else task.result()
        self._count(copy.order.policy, result)
        copy.release()

    def _count(self, policy: str, result: Result) -> None:
        key = policy, result
        self._results[key] = self._results.get(key, 0) + 1

    # What a copy asks.

    def join(self, copy: Copy) -> bool:
        """Count a copy as under way at its target; False if it must yield instead."""
        pool = copy.order.plan.pool
        at = self._at.setdefault(pool.cluster, [])
        live = pool.owner.gate.inflight
        # Where live requests wait, there are enough of them, or `pick` finds no room.
        if live and live + len(at) + 1 > copy.order.spec.max_load * capacity_of(pool):
            return False
        at.append(copy)
        return True

    def leave(self, copy: Copy) -> None:
        """It is under way no longer."""
        self._at[copy.order.plan.pool.cluster].remove(copy)

    # Time and end.

    def sweep(self) -> None:
        """Give up the copies that live requests need the room of. O(copies), if there are any.

        To be called a few times a second.
        """
        if self._shared.shed_s:
            for copy in self._copies:
                copy.give_up(Result.YIELDED)
        for copies in self._at.values():
            if not copies:
                continue
            pool = copies[-1].order.plan.pool
            live = pool.owner.gate.inflight
            over = live + len(copies) - capacity_of(pool) if live else 0
            many = min(len(copies), max(self._waiting(pool), over))
            for copy in copies[len(copies) - int(many) :]:
                copy.give_up(Result.YIELDED)

    def stop(self) -> None:
        """Copy nothing more, and give up what is under way: the gateway is being ended."""
        self._open = False
        for copy in self._copies:
            copy.give_up(Result.STOPPED)

    @staticmethod
    def _waiting(pool: Pool) -> int:
        return sum(map(pool.owner.gate.waiting, Priority))

    # Numbers.

    def collect(self) -> Iterable[Metric]:
        """Yield the families; prometheus-client's registry calls this on a scrape."""
        total = CounterMetricFamily(
            "sluice_mirror",
            "Requests that a mirror's rule matched, by what came of their copies.",
            labels=["policy", "result"],
        )
        for (policy, result), count in self._results.items():
            total.add_metric([policy, result], count)
        yield total
        inflight = GaugeMetricFamily(
            "sluice_mirror_inflight", "Copies that are under way.", labels=["policy"]
        )
        for policy, count in self._inflight.items():
            inflight.add_metric([policy], count)
        yield inflight


def capacity_of(pool: Pool) -> float:
    """Return how many requests a pool takes by its cluster's or its endpoints' `max_inflight`.

    Infinity if neither has one.
    """
    most = pool.owner.spec.max_inflight
    caps = [endpoint.max_inflight for endpoint in pool.endpoints]
    total = sum(cap or 0 for cap in caps) if all(caps) else None
    return min((cap for cap in (most, total) if cap is not None), default=float("inf"))

"""Who waits for a model, and which of them form the next batch?

Pure: it takes `now` (monotonic seconds) and decides; `vision.lane` owns the clock and the threads.

    offer ──► waiting ──take──► running ──finished──► gone
                 └── cancel, expire ──► gone

Items of the same key (names, types and shapes of a row) wait in one group, first in, first out. An
instance that is free asks with `take`:

1. It gets all that fits at once if no other instance runs: a lone item never waits. With one
   instance nothing is ever held: the queue fills while it runs, and that is what fills batches.
2. While another one runs on the same GPU, an item is held back for at most `max_delay_ms`, for as
   long as its group has fewer rows than the smallest preferred size (than `max_batch` without one).
   An item whose deadline would not survive that, counting the time of a run, ends it earlier.
   Instances that share no device hold nothing: there, two small batches side by side are
   done before one large one (`bench.holding` simulates it; docs/performance.md has the figures).
3. A batch is cut to the largest preferred size in it only if those who are left behind
   will be taken before their `max_delay_ms` is over, as far as the time of recent runs tells.

Of several groups that may start, the one whose first item is oldest does, so none starves.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from math import ceil, inf
from typing import Generic, NamedTuple, TypeVar

from vision.config import Batching

SMOOTHING = 0.2
"""Share of the newest run in the average; that of ten runs ago still weighs a ninth of it."""


class Item:
    """`rows` rows of one request, which travel in one batch; whoever offers it adds what it likes.

    `since` and `deadline` are monotonic seconds; `deadline` is inf for none.
    """

    __slots__ = ("deadline", "group", "key", "rows", "since")

    def __init__(self, key: Hashable, rows: int, since: float, deadline: float = inf) -> None:
        self.key = key
        self.rows = rows
        self.since = since
        self.deadline = deadline
        self.group: Group | None = None
        """Where it waits; None if it does not."""


T = TypeVar("T", bound=Item)


class Group:
    """Waiting items of one key, the oldest first; a dict, so that each can leave at once."""

    __slots__ = ("items", "rows")

    def __init__(self) -> None:
        self.items: dict[Item, None] = {}
        self.rows = 0


class Turn(NamedTuple, Generic[T]):
    """The answer to a free instance: what to run now, or when to ask again."""

    items: Sequence[T]
    """The batch, all of one key; empty if there is none to start now."""
    rows: int
    expired: Sequence[T]
    """Taken out because their time was over; they are to be refused."""
    ask_at: float
    """If there is no batch: when one will be due if nothing comes before; inf for never."""
    more: bool
    """Whether another free instance has to ask, because items are left."""


class Batcher(Generic[T]):
    """The queue of one lane.

    `instances` is how many run side by side, `max_batch` what the model's file allows, at most the
    configured one; `shared` says whether the instances slow each other down, as on one GPU. Times
    are those of `batching`.
    """

    __slots__ = (
        "_asked",
        "_delay_s",
        "_earliest",
        "_enough",
        "_groups",
        "_preferred",
        "_queue",
        "_shared",
        "_timeout_s",
        "execute_s",
        "executing",
        "instances",
        "max_batch",
        "running",
        "waiting",
    )

    def __init__(self, batching: Batching, instances: int, max_batch: int, *, shared: bool) -> None:
        self.instances = instances
        self.max_batch = max_batch
        self._shared = shared
        self._queue = batching.queue
        self._delay_s = batching.max_delay_ms / 1e3
        self._timeout_s = batching.timeout_ms / 1e3
        self._preferred = frozenset(size for size in batching.preferred if size <= max_batch)
        self._enough = min(self._preferred, default=max_batch)
        self._groups: dict[Hashable, Group] = {}
        self._earliest = inf
        """No waiting item expires before; it may be too early, never too late."""
        self._asked = inf
        """When an instance will ask: inf for never, -inf for one that has been told to."""
        self.waiting = 0
        """Rows."""
        self.running = 0
        """Rows."""
        self.executing = 0
        """Instances that run."""
        self.execute_s = 0.0
        """Smoothed time of a run; 0 before the first has ended."""

    @property
    def next_expiry(self) -> float:
        """When the next waiting item's time may be over; inf if nothing waits."""
        return self._earliest if self.waiting else inf

    def room(self, rows: int) -> bool:
        """Say whether `rows` more may wait. What a free instance takes is not counted as waiting.

        The first item always may, also if it has more rows than the queue.
        """
        free = (self.instances - self.executing) * self.max_batch
        return self.waiting == 0 or self.waiting + rows <= self._queue + free

    def drain_s(self) -> float:
        """Estimate how long the waiting rows will take, in full batches on all instances."""
        return ceil(self.waiting / self.max_batch) * self.execute_s / max(1, self.instances)

    def offer(self, item: T, now: float) -> bool:
        """Let `item` wait. Say whether a free instance has to be told to ask. O(1).

        It does not look whether there is room, nor whether the deadline has passed.
        """
        group = self._groups.get(item.key)
        if group is None:
            group = self._groups[item.key] = Group()
        item.group = group
        group.items[item] = None
        group.rows += item.rows
        self.waiting += item.rows
        self._earliest = min(self._earliest, self.expires(item))
        if self.executing >= self.instances:
            return False  # Whoever ends first asks.
        due = now if self._may_start(group) else self._due(item)
        if due >= self._asked:
            return False
        self._asked = -inf
        return True

    def expires(self, item: Item) -> float:
        """Until when it may wait."""
        return min(item.since + self._timeout_s, item.deadline)

    def lose(self, rows: int) -> None:
        """Count an instance that has died no longer, nor the `rows` that it ran, 0 for none."""
        self.instances -= 1
        self._asked = inf  # Whoever had been told to ask may have been this one.
        if rows:
            self.executing -= 1
            self.running -= rows

    def cancel(self, item: T) -> bool:
        """Take `item` out. Say whether it waited; what runs already is not stopped. O(1)."""
        if item.group is None:
            return False
        self._remove(item)
        return True

    def expire(self, now: float) -> Sequence[T]:
        """Take out whose deadline or time in the queue is over. O(1) as long as it is nobody's."""
        if now < self._earliest:
            return ()
        expired: list[T] = []
        self._earliest = inf
        for item in self.items():
            expires = self.expires(item)
            if expires <= now:
                expired.append(item)
            else:
                self._earliest = min(self._earliest, expires)
        for item in expired:
            self._remove(item)
        return expired

    def take(self, now: float) -> Turn[T]:
        """Decide for an instance that is free. The batch counts as running until `finished`.

        1 µs and 0.3 µs an item, and as much for each further group that waits.
        """
        expired = self.expire(now) if now >= self._earliest else ()
        self._asked = inf
        chosen: Group | None = None
        oldest = ask_at = inf
        for group in self._groups.values():
            due = now if self._may_start(group) else min(map(self._due, group.items))
            if due > now:
                ask_at = min(ask_at, due)
                continue
            since = next(iter(group.items)).since
            if chosen is None or since < oldest:
                chosen, oldest = group, since
        if chosen is None:
            self._asked = ask_at
            return Turn((), 0, expired, ask_at, more=False)
        return self._started(chosen, expired, now)

    def finished(self, rows: int, execute_s: float) -> None:
        """Note that a batch of `rows` has run, in so many seconds; its instance is free."""
        self.executing -= 1
        self.running -= rows
        if self.execute_s:
            self.execute_s += SMOOTHING * (execute_s - self.execute_s)
        else:
            self.execute_s = execute_s

    def items(self) -> list[T]:
        """All who wait."""
        # Only `offer` puts items in, and it takes no others than T.
        return [item for group in self._groups.values() for item in group.items]  # type: ignore[misc]

    def _started(self, group: Group, expired: Sequence[T], now: float) -> Turn[T]:
        batch, rows = self._batch(group, now)
        for item in batch:
            self._remove(item)
        self.executing += 1
        self.running += rows
        more = self.waiting > 0 and self.executing < self.instances
        if more:
            self._asked = -inf
        return Turn(batch, rows, expired, inf, more)

    def _batch(self, group: Group, now: float) -> tuple[Sequence[T], int]:
        batch: list[T] = []
        rows = size = count = 0  # `size` rows in the first `count` items are a preferred size.
        for item in group.items:
            if rows + item.rows > self.max_batch:
                break
            batch.append(item)  # type: ignore[arg-type]  # See `items`.
            rows += item.rows
            if rows in self._preferred:
                size, count = rows, len(batch)
        if size in (0, rows):
            return batch, rows
        another = self.executing + 1 < self.instances
        free_at = now if another else now + (self.execute_s or inf)
        if all(free_at <= self._due(item) for item in batch[count:]):
            return batch[:count], size
        return batch, rows

    def _may_start(self, group: Group) -> bool:
        # Without a time of a run nothing is held, for nobody knows what deadlines allow.
        return (
            not self._shared
            or self.executing == 0
            or group.rows >= self._enough
            or not self.execute_s
        )

    def _due(self, item: Item) -> float:
        """Until when it may be held back."""
        return min(item.since + self._delay_s, self.expires(item) - self.execute_s)

    def _remove(self, item: T) -> None:
        group = item.group
        assert group is not None  # noqa: S101  who waits has one
        item.group = None
        del group.items[item]
        group.rows -= item.rows
        self.waiting -= item.rows
        if not group.rows:
            del self._groups[item.key]

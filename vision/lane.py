"""How does a loaded version run what waits for it, off the event loop?

    event loop                            thread of an instance
    infer ─ offer, ask ─────────────────► take ─► stack ─► run ─► split
      ▲                                                             │
      └── answers ◄── one call_soon_threadsafe for each batch ──────┘

Each instance has one thread, which takes its next batch itself, so that it needs no turn of the
event loop between two batches. One that is idle is asked when the turn of the loop in which an item
came is over, or has lasted for `max_delay_ms`. `vision.batcher` decides; a lock, held for µs,
keeps it to one thread at a time.

A batch that fails is run again, item by item, and only those that fail alone are told so.

A run cannot be stopped from outside. A client whose deadline passes meanwhile is told so, what
waits is refused when its time is over, and `close` gives up after `patience_s`. But the thread
stays until the library returns, and an instance that never does is gone for this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from math import ceil, inf
from typing import Protocol, TypeVarTuple, Unpack

from vision.batcher import Batcher, Turn
from vision.config import Batching
from vision.errors import BadInput, ExecutionFailed, ModelNotReady, QueueFull, VisionError
from vision.runtime.base import Loaded
from vision.seat import Request, Seat
from vision.stacking import Answer, shape_key
from vision.tensors import Array, Arrays

_log = logging.getLogger("sluice.vision.lane")

PATIENCE_S = 60.0
"""Of `close`, for what waits and runs; the default limit of the time in the queue is 30 s."""

Ts = TypeVarTuple("Ts")


class LaneObserver(Protocol):
    """Who counts what a lane does; called on the event loop."""

    def started(self, rows: int, queued_s: Sequence[float]) -> None:
        """Hear of a batch and how long each of its items waited; told when the batch has ended."""

    def executed(self, rows: int, execute_s: float) -> None:
        """Hear how long the batch ran, copying in and out included; told after `started`."""

    def waiting(self, rows: int) -> None:
        """Hear the queue's new length."""


class Lane:
    """The queue of one loaded version, its instances and their threads. Lives on one event loop."""

    def __init__(
        self,
        loaded: Loaded,
        batching: Batching,
        instances: int,
        observer: LaneObserver,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._loaded = loaded
        self._instances = instances
        self._observer = observer
        self._monotonic = monotonic
        self._patience_s = patience_s
        self._max_batch = min(loaded.max_batch, batching.max_batch)
        self._batcher: Batcher[Request] = Batcher(
            batching, instances, self._max_batch, shared=loaded.device != "cpu"
        )
        self._lock = threading.Lock()
        """Held for µs by whoever touches the batcher, `_idle` or `_batches`, in any thread."""
        self._idle: dict[Seat, None] = {}
        """Those that asked and got nothing; the last one is asked first, for it is the warmest."""
        self._batches: dict[Seat, Sequence[Request]] = {}
        """What runs."""
        self._seats: list[Seat] = []
        self._loop: asyncio.AbstractEventLoop
        self._open = False
        self._unanswered = 0
        self._answered = asyncio.Event()
        """Set when the lane is closed and no `infer` is left."""
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = inf
        self._delay_s = batching.max_delay_ms / 1e3
        self._ask_by = inf
        """When an idle instance is asked at the latest; inf if there is no need to."""

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return self._batcher.waiting

    @property
    def running(self) -> int:
        """Rows that are being executed."""
        return self._batcher.running

    @property
    def broken(self) -> bool:
        """Say whether no instance is left: it answers nobody any more, and has to be replaced."""
        return not self._batcher.instances

    async def start(self) -> None:
        """Make the instances, one after the other, and let the lane take items.

        Raises what the runtime raises; then there is nothing left to close.
        """
        self._loop = asyncio.get_running_loop()
        try:
            for _ in range(self._instances):
                seat = Seat(self._work, self._broken)
                self._seats.append(seat)
                await seat.open(self._loaded, self._max_batch)
        except BaseException:
            await self.close()
            raise
        self._open = True
        for seat in self._seats:
            seat.ask()

    async def warm(self, sizes: Sequence[int], row: Arrays, runs: int) -> None:
        """Run every instance `runs` times on a batch of each size, made of copies of `row`.

        `row` has the batch axis, of 1. One instance after the other, because a CUDA graph must not
        be captured while another thread allocates. Raises what the runtime raises.
        """
        for seat in self._seats:
            self._batcher.execute_s = await seat.warm(sizes, row, runs)

    async def infer(self, inputs: Arrays, deadline: float | None = None) -> dict[str, Array]:
        """Run one item in a batch with others, and return its rows of every output.

        `inputs` have 1 to `max_batch` rows first and have been checked against the specs;
        `deadline` is in seconds of `monotonic`. The result is the caller's own. Cancelling takes
        the item out of the queue; if it runs already, its result is dropped.

        Raises `QueueFull`, `DeadlineExceeded`, `ExecutionFailed`, `BadInput` for a wrong number of
        rows, and `ModelNotReady` once the lane is being closed.
        """
        if not self._open:
            raise ModelNotReady("The model's version does not serve.")
        now = self._monotonic()
        rows = len(next(iter(inputs.values())))
        if not 0 < rows <= self._max_batch:
            raise BadInput(
                f"An item has 1 to {self._max_batch} rows, not {rows}.", code="invalid_tensor"
            )
        key = shape_key(self._loaded.inputs, inputs)
        request = Request(inputs, key, rows, now, inf if deadline is None else deadline)
        if request.deadline <= now:
            raise request.too_late(now)
        self._admit(request, now)
        self._unanswered += 1
        try:
            return await request.answer
        except asyncio.CancelledError:
            with self._lock:
                self._batcher.cancel(request)
            self._observer.waiting(self._batcher.waiting)
            raise
        finally:
            self._unanswered -= 1
            if not self._unanswered and not self._open:
                self._answered.set()

    async def close(self) -> None:
        """Answer what waits, then end threads and instances. May be called again.

        After `patience_s` it gives up on a run that does not return: what is unanswered fails, and
        that run's thread and instance are left behind.
        """
        self._open = False
        try:
            async with asyncio.timeout(self._patience_s):
                if self._unanswered:
                    await self._answered.wait()
                self._end()
                for seat in self._seats:
                    await asyncio.wrap_future(seat.ended)
        except TimeoutError:
            stuck = sum(not seat.ended.done() for seat in self._seats)
            _log.error("gave up on %d instances that have not come back", stuck)
        finally:
            self._fail_all(ModelNotReady("The model's version was unloaded before it answered."))
            self._end()
            if self._alarm is not None:
                self._alarm.cancel()

    # On the event loop.

    def _admit(self, request: Request, now: float) -> None:
        batcher = self._batcher
        with self._lock:
            room = batcher.room(request.rows)
            if room and batcher.offer(request, now):
                self._ask_by = now + self._delay_s
                self._loop.call_soon(self._ask)
            if now >= self._ask_by:
                self._ask_by = inf
                self._ask_idle()
        if not room:
            raise QueueFull(
                f"The model's queue is full: {batcher.waiting} rows wait.",
                retry_after_s=max(1, ceil(batcher.drain_s())),
            )
        self._watch(batcher.expires(request), now)
        self._observer.waiting(batcher.waiting)

    def _ask(self) -> None:
        """Ask an instance that is free, unless that has been done.

        It is called when the turn of the loop is over, so that all that came in it is there: an
        instance that woke before would take the first of 64 items, and leave 63 waiting for a
        whole run. In a turn that is longer than max_delay_ms, `_admit` does not wait for it.
        """
        if self._ask_by < inf:
            self._ask_by = inf
            with self._lock:
                self._ask_idle()

    def _deliver(
        self, batch: Sequence[Request], answers: Sequence[Answer], start: float, execute_s: float
    ) -> None:
        for request, answer in zip(batch, answers, strict=True):
            if isinstance(answer, VisionError):
                request.fail(answer)
            elif not request.answer.done():
                request.answer.set_result(answer)
        rows = sum([request.rows for request in batch])
        self._observer.started(rows, [start - request.since for request in batch])
        self._observer.executed(rows, execute_s)
        self._observer.waiting(self._batcher.waiting)

    def _refuse(self, requests: Sequence[Request], now: float) -> None:
        for request in requests:
            request.fail(request.too_late(now))

    def _watch(self, at: float, now: float) -> None:
        """Look at `at` for those whose time is over, if nobody is going to before."""
        if at < self._alarm_at:
            self._alarm_at = at
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.call_later(at - now, self._sweep)

    def _sweep(self) -> None:
        """Refuse those whose time is over, in the queue or while they run."""
        self._alarm_at, self._alarm = inf, None
        now = self._monotonic()
        with self._lock:
            expired = self._batcher.expire(now)
            at = self._batcher.next_expiry
            running = [request for batch in self._batches.values() for request in batch]
        self._refuse([*expired, *(one for one in running if one.deadline <= now)], now)
        at = min([at, *(one.deadline for one in running if one.deadline > now)])
        if at < inf:
            self._watch(at, now)
        self._observer.waiting(self._batcher.waiting)

    def _lost(self, batch: Sequence[Request]) -> None:
        for request in batch:
            request.fail(ExecutionFailed("The model's instance broke down."))
        if not self._batcher.instances:
            self._open = False
            self._fail_all(ModelNotReady("The model's instances broke down."))

    def _fail_all(self, error: VisionError) -> None:
        with self._lock:
            waiting = self._batcher.items()
            for request in waiting:
                self._batcher.cancel(request)
            running = [request for batch in self._batches.values() for request in batch]
        for request in (*waiting, *running):
            request.fail(error)

    def _end(self) -> None:
        for seat in self._seats:
            seat.end()

    # In any thread, with the lock.

    def _ask_idle(self) -> None:
        if self._idle:  # If not, those that the batcher counts as free are about to ask.
            seat, _ = self._idle.popitem()
            seat.ask()

    # In an instance's thread.

    def _work(self, seat: Seat) -> float | None:
        """Run batches as long as there are any; return when to look again, None for never."""
        while True:
            with self._lock:
                now = self._monotonic()
                turn = self._batcher.take(now)
                self._note(seat, turn)
            if turn.expired:
                self._tell(self._refuse, turn.expired, now)
            if not turn.items:
                return None if turn.ask_at == inf else max(0.0, turn.ask_at - now)
            self._run(seat, turn, now)

    def _note(self, seat: Seat, turn: Turn[Request]) -> None:
        if turn.items:
            self._batches[seat] = turn.items
            self._idle.pop(seat, None)
        else:
            self._idle[seat] = None
        if turn.more:
            self._ask_idle()

    def _run(self, seat: Seat, turn: Turn[Request], start: float) -> None:
        batch = turn.items
        answers = seat.run(batch)
        execute_s = self._monotonic() - start
        with self._lock:
            self._batcher.finished(turn.rows, execute_s)
            del self._batches[seat]
        self._tell(self._deliver, batch, answers, start, execute_s)

    def _broken(self, seat: Seat) -> None:
        """Go on without a thread that died by a fault of ours, or `SystemExit` of a library."""
        with self._lock:
            batch = self._batches.pop(seat, ())
            self._batcher.lose(sum(request.rows for request in batch))
            self._idle.pop(seat, None)
            self._ask_idle()
        self._tell(self._lost, batch)

    def _tell(self, call: Callable[[Unpack[Ts]], None], *arguments: *Ts) -> None:
        """Have the event loop make a call."""
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            self._loop.call_soon_threadsafe(call, *arguments)

"""How does one instance live in a thread of its own?

    open ──► (ask ──► work)* ──► end ──► close

A seat carries out orders in its thread, one after the other: to make the instance, to warm it up,
or, most of the time, merely to ask the lane for work. A thread for each instance, and not a pool,
because CUDA contexts and streams belong to threads, and because a run that never returns then
takes only its own instance with it. Threads are daemons, so that such a run does not keep the
process from ending.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

from vision.batcher import Item
from vision.errors import DeadlineExceeded, VisionError
from vision.runtime.base import Instance, Loaded
from vision.stacking import Answer, Stack, execute, split
from vision.tensors import Array, Arrays

_log = logging.getLogger("sluice.vision.seat")

T = TypeVar("T")


class Request(Item):
    """An item with its inputs, and where its answer goes. Made on the event loop."""

    __slots__ = ("answer", "inputs")

    def __init__(
        self, inputs: Arrays, key: Hashable, rows: int, since: float, deadline: float
    ) -> None:
        super().__init__(key, rows, since, deadline)
        self.inputs = inputs
        self.answer: asyncio.Future[dict[str, Array]] = asyncio.get_running_loop().create_future()

    def fail(self, error: VisionError) -> None:
        """Answer with an error, unless there is an answer or the client has left."""
        if not self.answer.done():
            self.answer.set_exception(error)

    def too_late(self, now: float) -> DeadlineExceeded:
        """The error of one whose time is over."""
        waited_ms = (now - self.since) * 1e3
        return DeadlineExceeded(f"The request's time ran out; it had waited {waited_ms:.0f} ms.")


class Seat:
    """One instance and its thread; `work` runs in it.

    `work(seat)` is called whenever the seat is asked; it returns after how many seconds it is to be
    called again if nobody asks before, None for never. `broken(seat)` is called in the thread if
    something raised there that nobody else hears of.
    """

    __slots__ = ("_broken", "_ending", "_instance", "_orders", "_stack", "_work", "ended")

    def __init__(
        self, work: Callable[[Seat], float | None], broken: Callable[[Seat], None]
    ) -> None:
        self._work = work
        self._broken = broken
        self._instance: Instance | None = None
        self._stack: Stack
        self._orders: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        """A call to make, or None: ask for work."""
        self._ending = False
        self.ended: Future[None] = Future()
        """Done when the thread has ended."""
        self.ended.set_running_or_notify_cancel()  # So that who stops waiting does not cancel it.

    async def open(self, loaded: Loaded, max_batch: int) -> None:
        """Start the thread and make the instance in it; raises what the runtime raises."""
        threading.Thread(target=self._serve, name="instance", daemon=True).start()
        await self._ordered(partial(self._make, loaded, max_batch))

    async def warm(self, sizes: Sequence[int], row: Arrays, runs: int) -> float:
        """Run batches of copies of `row`; return the seconds of the last run, 0 if none.

        Raises what the runtime raises.
        """
        return await self._ordered(partial(self._warm, sizes, row, runs))

    def ask(self) -> None:
        """Have it look for work. From any thread; 1 µs, and the system's for waking a thread."""
        self._orders.put(None)

    def end(self) -> None:
        """Have it close the instance and end its thread, after what it is at; see `ended`."""
        self._ending = True
        self._orders.put(None)

    def run(self, batch: Sequence[Request]) -> list[Answer]:
        """Run a batch, in the seat's thread; see `vision.stacking.execute`."""
        assert self._instance is not None  # noqa: S101  it is open
        items, sizes = [one.inputs for one in batch], [one.rows for one in batch]
        return execute(self._instance.run, self._stack, items, sizes)

    async def _ordered(self, call: Callable[[], T]) -> T:
        done: Future[T] = Future()

        def order() -> None:
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(call())
                except BaseException as error:  # Raised where the order came from.
                    done.set_exception(error)

        self._orders.put(order)
        return await asyncio.wrap_future(done)

    def _make(self, loaded: Loaded, max_batch: int) -> None:
        self._instance = loaded.instance()
        self._stack = Stack(loaded.inputs, self._instance.allocate, max_batch)

    def _warm(self, sizes: Sequence[int], row: Arrays, runs: int) -> float:
        assert self._instance is not None  # noqa: S101  it is open
        elapsed_s = 0.0
        for size in sizes:
            batch = self._stack.stack([row] * size, size)
            for _ in range(runs):
                start = time.monotonic()
                split(self._instance.run(batch), [size], size)
                elapsed_s = time.monotonic() - start
        return elapsed_s

    def _serve(self) -> None:
        """Run the thread."""
        try:
            self._obey()
        except BaseException:
            _log.critical("the thread of an instance broke down", exc_info=True)
            self._broken(self)
        finally:
            self._close()
            self.ended.set_result(None)

    def _obey(self) -> None:
        wait_s: float | None = None
        while not self._ending:
            try:
                order = self._orders.get(timeout=wait_s)
            except Empty:
                order = None
            if order is not None:
                order()
            elif not self._ending:
                wait_s = self._work(self)

    def _close(self) -> None:
        try:
            if self._instance is not None:
                self._instance.close()
        except Exception:  # It is the library's, and nobody is there to hear of it.
            _log.exception("an instance could not be closed")
        self._instance = None

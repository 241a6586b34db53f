"""How does a version come into memory and out of it, within the memory budget?

    wait for a turn ──► make room (evict idle ones) ──► load, warm up ──► make room for what it
    really takes ──► the shelf has it

Idle is what nobody leases, what has nothing queued and what nobody waits for; the least recently
used goes first. A load that finds no room fails nothing: the version is at rest until
somebody asks for it and there is room. While the service starts nothing is evicted, or it would
load models only to throw them out for the next ones.

A load cannot be cancelled: a thread that reads a file has no way to stop. Whoever waits for one
may leave; the load goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from vision.errors import LoadError, OperatorError
from vision.model import Model, OffLoop
from vision.shelf import Shelf
from vision.versions import Copy, Found, Slot, idle_to_evict

_LOG = logging.getLogger("sluice.vision.repository")
_MIB = 2**20

R = TypeVar("R")

Load = Callable[[str, Found, OffLoop], Awaitable[Model]]


class EventKind(StrEnum):
    """What happened to a version."""

    LOADED = "loaded"
    SWAPPED = "swapped"
    FAILED = "failed"
    POSTPONED = "postponed"
    EVICTED = "evicted"
    UNLOADED = "unloaded"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, for metrics and tests; the log has it in words."""

    kind: EventKind
    model: str
    version: int
    seconds: float = 0.0
    """Of a load and its warm-up."""
    reason: str = ""


class NoRoom(Exception):  # noqa: N818  no defect: it is loaded later
    """The memory budget is taken by versions that are in use."""


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """Limits of what is loaded."""

    memory_budget_bytes: int | None
    concurrent: int


class Loads:
    """Everything that loads and closes, with the threads and tasks for it."""

    def __init__(
        self,
        shelves: Mapping[str, Shelf[Model]],
        settings: LoadSettings,
        load: Load,
        monotonic: Callable[[], float],
        on_event: Callable[[Event], None],
    ) -> None:
        """`shelves` is looked at when room is needed."""
        self.group = asyncio.TaskGroup()
        self._shelves = shelves
        self._budget = settings.memory_budget_bytes
        self._load = load
        self._monotonic = monotonic
        self._on_event = on_event
        self._turns = asyncio.Semaphore(settings.concurrent)
        # One more than loads: looking at the folder never waits for one.
        self._threads = ThreadPoolExecutor(settings.concurrent + 1, "sluice-models")
        self._serving: dict[str, Copy[Model]] = {}
        self._reserved = 0  # What the loads under way are expected to take.

    async def start(self) -> None:
        """Open the place where tasks run."""
        await self.group.__aenter__()

    async def close(self) -> None:
        """Close every copy, leased or not; wait for loads under way, for they cannot be stopped."""
        for shelf in self._shelves.values():
            for copy in list(shelf.going):
                self.end(shelf, copy)
        try:
            await self.group.__aexit__(None, None, None)
        finally:
            self._threads.shutdown()

    async def off_loop(self, call: Callable[[], R]) -> R:
        """Run what blocks in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def bring(
        self, shelf: Shelf[Model], number: int, changed: Callable[[Shelf[Model]], None], evict: bool
    ) -> None:
        """Load a version that the shelf has begun with, and tell the shelf what became of it.

        `changed` hears of shelves that lost a copy to it; unless `evict`, none does.
        """
        slot = shelf.slots[number]
        async with self._turns:
            found = shelf.turn(number)
            if found is None:
                return
            began = self._monotonic()
            try:
                copy = await self._copy(shelf, found, changed if evict else None)
            except NoRoom:
                self._postponed(shelf, slot)
            except OperatorError as error:
                self._failed(shelf, number, str(error))
            except Exception as error:
                # A task's root, and what libraries raise is anything: the others go on.
                _LOG.exception("%s %d: a load failed in a way that has no name", shelf.name, number)
                self._failed(shelf, number, f"{found.folder}: {type(error).__name__}: {error}")
            else:
                copy.used_at = self._monotonic()
                copy.load_s = copy.used_at - began
                self._loaded(shelf, number, copy)

    def retire_broken(self, shelf: Shelf[Model]) -> None:
        """Retire the copies whose instances broke down; to be settled, which loads them again."""
        for number, slot in shelf.slots.items():
            if slot.copy is not None and slot.copy.model.broken:
                _LOG.error("%s %d: its instances broke down; loaded again", shelf.name, number)
                self.retire(shelf, shelf.lose(number))

    def retire(self, shelf: Shelf[Model], copy: Copy[Model]) -> None:
        """Close a retired copy once nobody uses it."""
        if not copy.leases:
            self.end(shelf, copy)

    def end(self, shelf: Shelf[Model], copy: Copy[Model]) -> None:
        """Close a copy now."""
        if not copy.closing:
            copy.closing = True
            self.group.create_task(self._close(shelf, copy))

    def tell(self, event: Event) -> None:
        """Pass on what happened; see `Event`."""
        self._on_event(event)

    def note_swap(self, shelf: Shelf[Model]) -> None:
        """Say when requests go to another copy than before."""
        old = self._serving.pop(shelf.name, None)
        new = shelf.current.copy if shelf.current is not None else None
        if new is None:
            return
        self._serving[shelf.name] = new
        if old is None or old is new:
            return
        number, before = new.found.version, old.found.version
        instead = f"of {before}" if number != before else "of what its files were before"
        _LOG.info("%s %d: serves now instead %s", shelf.name, number, instead)
        self.tell(Event(EventKind.SWAPPED, shelf.name, number))

    async def _copy(
        self,
        shelf: Shelf[Model],
        found: Found,
        changed: Callable[[Shelf[Model]], None] | None,
    ) -> Copy[Model]:
        slot = shelf.slots[found.version]
        need = slot.need_bytes(found)
        await self._make_room(shelf, found, need, changed)
        self._reserved += need
        try:
            model = await self._load(shelf.name, found, self.off_loop)
        finally:
            self._reserved -= need
        slot.took = found, model.memory_bytes
        try:
            await self._make_room(shelf, found, model.memory_bytes, changed)
        except BaseException:
            await model.close()
            raise
        return Copy(model, found, model.memory_bytes, used_at=self._monotonic())

    async def _make_room(
        self,
        shelf: Shelf[Model],
        found: Found,
        need: int,
        changed: Callable[[Shelf[Model]], None] | None,
    ) -> None:
        """Evict until `need` fits; what this version will replace does not count.

        Raises `NoRoom` if what is idle is not enough, `LoadError` if nothing ever would be.
        """
        budget = self._budget
        if budget is None:
            return
        if need > budget:
            raise LoadError(
                f"{found.folder}: takes {need / _MIB:.1f} MiB, the memory budget for all models is "
                f"{budget / _MIB:.1f} MiB"
            )
        while True:
            replaced = shelf.replaced_by(found.version)
            held = [one for one in self._held() if one[2] not in replaced]
            excess = sum(copy.memory_bytes for *_, copy in held) + self._reserved + need - budget
            if excess <= 0:
                return
            owners = {copy: one for one, slot, copy in held if _idle(slot, copy)}
            chosen = None if changed is None else idle_to_evict(owners, excess)
            if changed is None or chosen is None:
                raise NoRoom
            await self._evict([(owners[copy], copy) for copy in chosen], changed)

    async def _evict(
        self,
        chosen: Iterable[tuple[Shelf[Model], Copy[Model]]],
        changed: Callable[[Shelf[Model]], None],
    ) -> None:
        closing = []
        for shelf, copy in chosen:
            number = copy.found.version
            shelf.evict(number)
            copy.closing = True
            closing.append(self.group.create_task(self._close(shelf, copy)))
            changed(shelf)
            _LOG.info("%s %d: evicted to keep to the memory budget", shelf.name, number)
            self.tell(Event(EventKind.EVICTED, shelf.name, number))
        await asyncio.wait(closing)  # Or there would be less room than there seems to be.

    def _held(self) -> Iterator[tuple[Shelf[Model], Slot[Model], Copy[Model]]]:
        for shelf in self._shelves.values():
            for slot in shelf.slots.values():
                if slot.copy is not None:
                    yield shelf, slot, slot.copy

    async def _close(self, shelf: Shelf[Model], copy: Copy[Model]) -> None:
        number = copy.found.version
        try:
            await copy.model.close()
        except Exception:
            # A task's root: a library that cannot clean up after itself stops nobody else.
            _LOG.exception("%s %d: could not be closed in good order", shelf.name, number)
        shelf.going.remove(copy)
        _LOG.info("%s %d: unloaded", shelf.name, number)
        self.tell(Event(EventKind.UNLOADED, shelf.name, number))

    def _loaded(self, shelf: Shelf[Model], number: int, copy: Copy[Model]) -> None:
        old = shelf.loaded(number, copy)
        if old is not None:
            self.retire(shelf, old)
        model = copy.model
        said = f"loaded with {model.runtime} on {model.device} in {copy.load_s:.2f} s"
        _LOG.info("%s %d: %s", shelf.name, number, said)
        self.tell(Event(EventKind.LOADED, shelf.name, number, copy.load_s))

    def _failed(self, shelf: Shelf[Model], number: int, reason: str) -> None:
        shelf.failed(number, reason)
        _LOG.error("%s %d: not loaded: %s", shelf.name, number, reason)
        self.tell(Event(EventKind.FAILED, shelf.name, number, reason=reason))

    def _postponed(self, shelf: Shelf[Model], slot: Slot[Model]) -> None:
        before = slot.rest
        shelf.no_room(slot.number)
        if slot.rest is not None and before is None:  # Or each request would be told of.
            _LOG.warning("%s %d: not loaded: %s", shelf.name, slot.number, slot.rest)
            self.tell(Event(EventKind.POSTPONED, shelf.name, slot.number, reason=slot.rest))


def _idle(slot: Slot[Model], copy: Copy[Model]) -> bool:
    return not copy.leases and not slot.waiting and slot.loading is None and copy.model.idle

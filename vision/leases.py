"""Which version does a request get, and what if that is not in memory?

lease ──► in memory ──────────────────────────────► counted, given back, closed if retired
     └──► at rest ──► one load for all who wait ──┘
     └──► loading for the first time, failed, unloaded ──► refused
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NoReturn

from vision.errors import DeadlineExceeded, ModelNotFound, ModelNotReady
from vision.model import Model
from vision.shelf import Shelf
from vision.versions import Copy, Slot

_SHOWN = 100  # Characters of a name that a client sent.


class Leases:
    """All leases of a repository."""

    def __init__(
        self,
        shelves: Mapping[str, Shelf[Model]],
        begin: Callable[[Shelf[Model], int], None],
        end: Callable[[Shelf[Model], Copy[Model]], None],
        monotonic: Callable[[], float],
    ) -> None:
        """`begin` begins to load a version at rest, `end` closes a retired copy."""
        self._shelves = shelves
        self._begin = begin
        self._end = end
        self._monotonic = monotonic
        self._news: dict[str, asyncio.Event] = {}

    def lease(self, name: str, version: int | None, deadline: float | None) -> Lease:
        """See `Repository.lease`."""
        return Lease(self, name, version, deadline)

    def changed(self, shelf: Shelf[Model]) -> None:
        """Let those who wait look again."""
        if news := self._news.pop(shelf.name, None):
            news.set()

    async def news_of(self, name: str) -> None:
        """Wait for the next change of a shelf."""
        await self._news.setdefault(name, asyncio.Event()).wait()

    def slot(self, name: str, version: int | None) -> Slot[Model]:
        """Return a version that is in memory or at rest; raises what a lease raises."""
        shelf = self._shelves.get(name)
        if shelf is None:
            raise unknown(name)
        slot = shelf.current if version is None else shelf.slots.get(version)
        if slot is None or (slot.copy is None and slot.rest is None):
            _refuse(shelf, version)
        return slot

    async def wake(self, name: str, version: int | None, deadline: float | None) -> Copy[Model]:
        """Wait until a version at rest is in memory. All who wait share one load.

        Raises `DeadlineExceeded`; the load goes on, for the next request will want it, too.
        """
        left_s = None if deadline is None else deadline - self._monotonic()
        try:
            async with asyncio.timeout(left_s):
                return await self._awake(name, version)
        except TimeoutError:
            said = "The time was up before the model had been loaded again."
            raise DeadlineExceeded(said, param="model") from None

    async def _awake(self, name: str, version: int | None) -> Copy[Model]:
        asked: int | None = None
        while True:
            slot = self.slot(name, version)
            if slot.copy is not None:
                return slot.copy
            if slot.loading is None:
                if asked == slot.number:
                    said = f"There is no room in memory for the model `{name}` at the moment."
                    raise ModelNotReady(said, param="model", retry_after_s=1)
                self._begin(self._shelves[name], slot.number)
            asked = slot.number
            slot.waiting += 1
            try:
                await self.news_of(name)
            finally:
                slot.waiting -= 1

    def give_back(self, name: str, copy: Copy[Model]) -> None:
        """End a lease."""
        copy.leases -= 1
        copy.used_at = self._monotonic()
        if copy.retired and not copy.leases:
            self._end(self._shelves[name], copy)


class Lease:
    """Keeps a version in memory as long as the context lasts."""

    __slots__ = ("_copy", "_deadline", "_leases", "_name", "_version")

    def __init__(
        self, leases: Leases, name: str, version: int | None, deadline: float | None
    ) -> None:
        self._leases = leases
        self._name = name
        self._version = version
        self._deadline = deadline
        self._copy: Copy[Model] | None = None

    async def __aenter__(self) -> Model:
        slot = self._leases.slot(self._name, self._version)
        copy = slot.copy or await self._leases.wake(self._name, self._version, self._deadline)
        copy.leases += 1
        self._copy = copy
        return copy.model

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._copy is not None  # noqa: S101  it was entered
        self._leases.give_back(self._name, self._copy)


def unknown(name: str) -> ModelNotFound:
    """Return what is raised for a model that nobody has."""
    return ModelNotFound(f"The model `{name[:_SHOWN]}` does not exist.", param="model")


def _refuse(shelf: Shelf[Model], version: int | None) -> NoReturn:
    """Say why there is no lease; the operator's reasons are in the index, not here."""
    if not shelf.slots and not shelf.going:
        raise unknown(shelf.name)
    if version is not None and shelf.enabled and version not in shelf.wanted():
        said = f"The model `{shelf.name}` serves no version {version}."
        raise ModelNotFound(said, param="version")
    if any(one.loading is not None for one in shelf.slots.values()):
        said = f"The model `{shelf.name}` is being loaded."
        raise ModelNotReady(said, param="model", retry_after_s=1)
    raise ModelNotReady(f"The model `{shelf.name}` is not loaded.", param="model")

"""Which versions of a model have to be loaded, which serve, and which may go?

    listed ──begin──► loading ──loaded──► ready ──no longer wanted──► unloading ──closed──► gone
      ▲                  ├──failed──► unavailable ──other files, or `enable`──► listed
      │                  └──no room──► at rest ◄──evicted── ready
      └────────────────────────────────begin (a lease, or `enable`)──┘

A version serves until all those that shall serve instead are ready: a failed load changes nothing
for clients. `latest` means the newest that can be loaded, so that the one before serves again after
a restart, too. A version whose files change is loaded anew beside its old copy, which serves until
then. Pure: a `Shelf` is told what was listed and what became of loads, and says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vision.config import Versions
from vision.versions import Copy, Found, Rest, Row, Slot, State, chosen, describe

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Shelf(Generic[T]):
    """One model's versions."""

    name: str
    enabled: bool
    """Whether its versions shall serve at all: False after an unload."""
    policy: Versions = field(default_factory=Versions)
    problem: str | None = None
    """What is wrong with the model as a whole."""
    current: Slot[T] | None = None
    """The version for a request that names none; it may be at rest."""
    slots: dict[int, Slot[T]] = field(default_factory=dict)
    going: list[Copy[T]] = field(default_factory=list)
    """Retired copies that are not closed yet."""

    def listed(
        self, policy: Versions | None, found: Mapping[int, Found], problem: str | None = None
    ) -> list[tuple[int, str]]:
        """Take what a listing saw; return the versions that newly cannot be loaded, with reasons.

        With `policy` None the last one goes on.
        """
        self.policy = policy or self.policy
        self.problem = problem
        for number in found.keys() - self.slots.keys():
            self.slots[number] = Slot(number)
        told = []
        for number, slot in sorted(self.slots.items()):
            new = found.get(number)
            before = None if slot.found is None else slot.found.problem
            slot.found = new
            if new is None or new.problem is not None:
                slot.rest = None
            elif slot.rest is Rest.NO_ROOM and any(one.copy for one in self.slots.values()):
                slot.rest = None  # Something of the model serves: its successor is tried again.
            if new is not None and new.problem is not None and new.problem != before:
                told.append((number, new.problem))
        return told

    def enable(self) -> None:
        """Let versions serve, and forget failures: what failed is tried again."""
        self.enabled = True
        for slot in self.slots.values():
            slot.failed = slot.rest = None

    def disable(self) -> None:
        """Let no version serve."""
        self.enabled = False
        for slot in self.slots.values():
            slot.rest = None

    def wanted(self) -> tuple[int, ...]:
        """Return the versions that should serve, the newest first."""
        there = [n for n, slot in self.slots.items() if slot.found is not None and not slot.broken]
        return self._chosen(there)

    def due(self) -> list[int]:
        """Return the versions to begin to load, the newest first."""
        return [n for n in self.wanted() if n in self.slots and self.slots[n].stale]

    def begin(self, number: int) -> Found:
        """Note that a version that is due or at rest is being loaded; return what to load."""
        slot = self.slots[number]
        assert slot.found is not None and slot.loading is None  # noqa: S101, PT018  due, or at rest
        slot.loading = slot.found
        return slot.found

    def turn(self, number: int) -> Found | None:
        """Return what to load now that a load's turn has come; None, and no load, if nothing."""
        slot = self.slots[number]
        fit = slot.found is not None and slot.found.problem is None
        slot.loading = slot.found if fit and number in self.wanted() else None
        return slot.loading

    def loaded(self, number: int, copy: Copy[T]) -> Copy[T] | None:
        """Put a version's new copy in place; return the one that it replaces, retired."""
        slot = self.slots[number]
        old, slot.copy = slot.copy, copy
        slot.loading = slot.failed = slot.rest = None
        return None if old is None else self._retire(old)

    def failed(self, number: int, reason: str) -> None:
        """Note that a load failed; it is not tried again with the same files."""
        slot = self.slots[number]
        slot.failed, slot.loading, slot.rest = slot.loading, None, None
        slot.reason = reason

    def no_room(self, number: int) -> None:
        """Note that a load has to wait for room."""
        slot = self.slots[number]
        slot.loading = None
        if slot.rest is None and slot.found is not None and self.enabled:
            slot.rest = Rest.NO_ROOM

    def evict(self, number: int) -> Copy[T]:
        """Take a version out of memory until somebody asks for it; return its copy, retired."""
        slot = self.slots[number]
        assert slot.copy is not None  # noqa: S101  the caller chose it by its copy
        copy, slot.copy, slot.rest = slot.copy, None, Rest.EVICTED
        return self._retire(copy)

    def lose(self, number: int) -> Copy[T]:
        """Take out a copy that does not answer any more, retired; the version is due again."""
        slot = self.slots[number]
        assert slot.copy is not None  # noqa: S101  as above
        copy, slot.copy = slot.copy, None
        return self._retire(copy)

    def settle(self) -> list[Copy[T]]:
        """Retire what is not needed any more and return it; choose `current` from the rest.

        To be called after each change.
        """
        wanted = self.wanted()
        missing = [self.slots.get(number) for number in wanted if not self._served(number)]
        hope = any(slot is not None and self._hopeful(slot) for slot in missing)
        retired = []
        for number, slot in list(self.slots.items()):
            spare = number not in wanted and not missing
            if slot.copy is not None and (spare or (slot.found is None and not hope)):
                retired.append(self._retire(slot.copy))
                slot.copy = None
            if number not in wanted:
                slot.rest = None
            if slot.found is None and slot.copy is None and slot.loading is None:
                del self.slots[number]
        self.current = self._choose(wanted)
        return retired

    def replaced_by(self, number: int) -> list[Copy[T]]:
        """Return the copies that go when this version has been loaded."""
        wanted = self.wanted()
        return [
            slot.copy
            for n, slot in self.slots.items()
            if slot.copy is not None and (n == number or n not in wanted)
        ]

    def shortfall(self) -> list[tuple[int, str]]:
        """Return the versions that should serve by the policy alone but do not, with reasons."""
        found = []
        for number in self._chosen(self.slots):
            slot = self.slots.get(number)
            if slot is None or slot.found is None:
                found.append((number, "has no folder"))
            elif slot.copy is None or slot.copy.found != slot.found:
                found.append((number, slot.why or slot.rest or "is not loaded"))
        return found

    def rows(self) -> Iterator[Row[T]]:
        """Yield the index's lines by version."""
        wanted = self.wanted()
        going = {copy.found.version for copy in self.going}
        numbers = sorted({*self.slots, *going, *(wanted if self.enabled else ())})
        for number in numbers:
            slot = self.slots.get(number) or Slot(number)
            if slot.copy is not None:
                why = slot.why or slot.rest
                said = f"serves as it was loaded; its files changed since: {why}" if why else ""
                yield Row(number, State.READY, said, slot.copy)
            elif slot.loading is not None:
                yield Row(number, State.LOADING, "")
            elif number in going:
                yield Row(number, State.UNLOADING, "requests still use it")
            else:
                yield Row(number, State.UNAVAILABLE, self._absence(slot))
        if not numbers:
            said = self.problem or "has no version folder (1, 2, …)"
            yield Row(None, State.UNAVAILABLE, said)

    def _absence(self, slot: Slot[T]) -> str:
        if not self.enabled:
            return "not loaded; load it by the repository's API"
        if slot.found is None:
            return "the policy names it, but it has no folder"
        if slot.rest is not None or slot.why:
            return slot.rest or slot.why
        return f"the policy ({describe(self.policy)}) does not serve it"

    def _chosen(self, there: Iterable[int]) -> tuple[int, ...]:
        return chosen(self.policy, there) if self.enabled else ()

    def _served(self, number: int) -> bool:
        slot = self.slots.get(number)
        return slot is not None and (slot.copy is not None or slot.rest is Rest.EVICTED)

    def _hopeful(self, slot: Slot[T]) -> bool:
        return slot.loading is not None or slot.stale or slot.rest is not None

    def _choose(self, wanted: Iterable[int]) -> Slot[T] | None:
        for number in wanted:
            if self._served(number):
                return self.slots[number]
        by_number = [slot for _, slot in sorted(self.slots.items(), reverse=True)]
        ready = (slot for slot in by_number if slot.copy is not None)
        at_rest = (slot for slot in by_number if slot.rest is not None)
        return next(ready, None) or next(at_rest, None)

    def _retire(self, copy: Copy[T]) -> Copy[T]:
        copy.retired = True
        self.going.append(copy)
        return copy

"""Which models does this process serve, and how do they come and go without a failed request?

    look ──► settle ──► load (thread) ──► warm up ──► swap ──► the old one's leases end ──► close
      ▲ poll_s    │                   └─ failed: nothing changes but the index and the log
      └───────────┘

A request takes a lease, and what it leases stays in memory until it gives it back. So a swap is an
assignment on the event loop: requests before it finish on the old version, requests after it go to
the new one. Both are in memory for a moment; the budget does not count the old one meanwhile.

To change a model, put a new version folder beside the others with `mv`, which is atomic. A folder
that is being copied is taken up when two looks in a row see the same files.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from vision.errors import BadInput, LoadError, OperatorError
from vision.lane import LaneObserver
from vision.leases import Lease, Leases, unknown
from vision.listing import Folder, Listed
from vision.loads import Event, EventKind, Loads, LoadSettings
from vision.model import Model, OffLoop
from vision.model import load as load_model
from vision.shelf import Shelf
from vision.versions import Found, State, settled

_LOG = logging.getLogger("sluice.vision.repository")

ALL = "*"


class Control(StrEnum):
    """Who says when models are loaded."""

    POLL = "poll"
    """The folder, which is looked at every `poll_s`."""
    EXPLICIT = "explicit"
    """The repository's API."""
    NONE = "none"
    """Nobody after the start."""


@dataclass(frozen=True, slots=True)
class RepositorySettings:
    """How a repository is kept."""

    control: Control = Control.POLL
    poll_s: float = 5.0
    """Seconds between two looks; a change is taken up after one to two of them."""
    memory_budget_bytes: int | None = None
    """For all models together; None for no limit."""
    load: tuple[str, ...] = ()
    """With `explicit`: the models to load at the start, `*` for all."""
    loads: int = 1
    """Loads at the same time. More are faster for many small models, and take cores from those
    that serve."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One version in the index."""

    name: str
    version: int | None
    """None for a model that has no version."""
    state: State
    reason: str
    """Why it is not ready; or, of one that is, why its newer files are not served."""
    runtime: str = ""
    device: str = ""
    memory_bytes: int = 0
    load_s: float | None = None
    """How long its load and warm-up took."""


LoadModel = Callable[[str, Found, LaneObserver, OffLoop], Awaitable[Model]]


class Repository:
    """The models of one folder. Lives on one event loop; nothing on it blocks."""

    def __init__(
        self,
        folder: Path,
        settings: RepositorySettings,
        observe: Callable[[str, int], LaneObserver],
        *,
        on_event: Callable[[Event], None] | None = None,
        load: LoadModel = load_model,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`observe` gives the observer of a version's lane, by model and version."""
        self._folder = Folder(folder)
        self._settings = settings
        self._shelves: dict[str, Shelf[Model]] = {}
        self._looked: dict[str, Listed] = {}
        self._looking = asyncio.Lock()
        self._under_way = 0
        self._open = False
        self._up = asyncio.Event()
        self._closing = asyncio.Event()

        async def load_one(name: str, found: Found, off_loop: OffLoop) -> Model:
            return await load(name, found, observe(name, found.version), off_loop)

        limits = LoadSettings(settings.memory_budget_bytes, settings.loads)
        self._loads = Loads(
            self._shelves, limits, load_one, monotonic, on_event or (lambda event: None)
        )
        self._leases = Leases(self._shelves, self._begin, self._loads.end, monotonic)

    async def start(self) -> None:
        """List the folder and begin to load; `ready` says when that is over, `up` waits for it.

        Raises `OperatorError` if the folder cannot be read, or lacks a model that the settings
        name.
        """
        looked = await asyncio.to_thread(self._folder.look)
        if missing := sorted({*self._settings.load} - {ALL} - looked.keys()):
            said = f"the model repository {self._folder.path} has no model {', '.join(missing)}"
            raise OperatorError(said)
        if not looked:
            _LOG.warning("the model repository %s holds no model", self._folder.path)
        await self._loads.start()
        self._open = True
        self._looked = looked
        for name, listed in looked.items():
            self._take(name, listed, listed)
        self._rise()
        if self._settings.control is Control.POLL:
            self._loads.group.create_task(self._poll_forever())

    async def close(self) -> None:
        """Unload everything, leased or not, and end all threads and tasks.

        Waits for loads that are under way. To be called when requests have ended.
        """
        if not self._open:
            return
        self._open = False
        self._closing.set()
        for shelf in list(self._shelves.values()):
            shelf.disable()
            self._settle(shelf)
        await self._loads.close()

    def ready(self) -> bool:
        """Say whether everything that was there at the start has been loaded, or has failed."""
        return self._up.is_set()

    async def up(self) -> None:
        """Wait until `ready`."""
        await self._up.wait()

    @property
    def loading(self) -> bool:
        """Say whether loads are under way, for which `close` would wait."""
        return self._under_way > 0

    def lease(self, name: str, version: int | None = None, deadline: float | None = None) -> Lease:
        """Keep a version in memory, the one that serves if none is named.

        Entering it raises `ModelNotFound` and `ModelNotReady`. It loads an evicted version again;
        `DeadlineExceeded` if that is not done by `deadline`, on the monotonic clock.
        """
        return self._leases.lease(name, version, deadline)

    def index(self) -> list[Entry]:
        """Return the versions that there are, by name and version."""
        entries = []
        for name, shelf in sorted(self._shelves.items()):
            for row in shelf.rows():
                entry = Entry(name, row.version, row.state, row.reason)
                if row.copy is not None and row.copy.model.broken:
                    entry = Entry(name, row.version, State.UNAVAILABLE, "its instances broke down")
                elif row.copy is not None:
                    copy, model = row.copy, row.copy.model
                    facts = (model.runtime, model.device, copy.memory_bytes, copy.load_s)
                    entry = Entry(name, row.version, row.state, row.reason, *facts)
                entries.append(entry)
        return entries

    async def load(self, name: str) -> None:
        """Load what the folder holds of a model now, and try again what failed; wait for it.

        Raises `BadInput` unless control is explicit, `ModelNotFound`, and `LoadError` with the
        reasons if a version that the policy names could not be loaded. What served before serves
        on.
        """
        self._explicit_only()
        async with self._looking:
            listed = (await self._look()).get(name)
        if listed is None:
            raise unknown(name)
        shelf = self._shelves.setdefault(name, Shelf(name, enabled=True))
        shelf.enable()
        self._take(name, listed, listed)
        while any(slot.loading is not None for slot in shelf.slots.values()):
            await self._leases.news_of(name)
        if not shelf.enabled:
            raise LoadError(f"{name}: was unloaded while it was being loaded")
        if short := shelf.shortfall():
            raise LoadError("\n".join(f"{name} {number}: {why}" for number, why in short))
        if shelf.current is None:
            raise LoadError(shelf.problem or f"{name}: has no version folder (1, 2, …)")

    async def unload(self, name: str) -> None:
        """Let a model serve no more; its memory is given back when the last lease has ended.

        Raises `BadInput` unless control is explicit, `ModelNotFound`.
        """
        self._explicit_only()
        shelf = self._shelves.get(name)
        if shelf is None:
            raise unknown(name)
        shelf.disable()
        self._settle(shelf)

    async def poll(self) -> None:
        """Look at the folder once, and begin what follows from it."""
        async with self._looking:
            try:
                looked = await self._look()
            except OperatorError as error:
                _LOG.warning("%s; what is loaded serves on", error)
                return
            before, self._looked = self._looked, looked
            for name in sorted({*looked, *self._shelves}):
                if name in self._shelves or name in before:
                    self._take(name, looked.get(name), before.get(name))

    async def _poll_forever(self) -> None:
        while not self._closing.is_set():
            try:
                async with asyncio.timeout(self._settings.poll_s):
                    await self._closing.wait()
            except TimeoutError:
                try:
                    await self.poll()
                except Exception:
                    # A task's root: whatever is strange in the folder, what is loaded serves on.
                    _LOG.exception("the model repository could not be looked at")

    async def _look(self) -> dict[str, Listed]:
        return await self._loads.off_loop(self._folder.look)

    def _take(self, name: str, now: Listed | None, before: Listed | None) -> None:
        """Take of a look what it and the one before agree on."""
        if not self._open:
            return
        nothing = Listed(name, None, None, {})
        now, before = now or nothing, before or nothing
        shelf = self._shelves.get(name)
        if shelf is None:
            shelf = self._shelves[name] = Shelf(name, self._enabled(name))
        known = {n: slot.found for n, slot in shelf.slots.items() if slot.found is not None}
        found = settled(known, before.versions, now.versions)
        self._loads.retire_broken(shelf)
        policy = now.policy if now.policy == before.policy else None
        for number, problem in shelf.listed(policy, found, now.problem):
            _LOG.error("%s %d: not loaded: %s", name, number, problem)
            self._loads.tell(Event(EventKind.FAILED, name, number, reason=problem))
        self._settle(shelf)
        if now is nothing and not shelf.slots and not shelf.going:
            del self._shelves[name]

    def _enabled(self, name: str) -> bool:
        wanted = self._settings.load
        return self._settings.control is not Control.EXPLICIT or name in wanted or ALL in wanted

    def _settle(self, shelf: Shelf[Model]) -> None:
        """Do what follows from a change of a shelf; every change ends here."""
        for copy in shelf.settle():
            self._loads.retire(shelf, copy)
        for number in shelf.due():
            self._begin(shelf, number)
        self._loads.note_swap(shelf)
        self._leases.changed(shelf)

    def _begin(self, shelf: Shelf[Model], number: int) -> None:
        shelf.begin(number)
        self._under_way += 1
        self._loads.group.create_task(self._bring(shelf, number))

    async def _bring(self, shelf: Shelf[Model], number: int) -> None:
        await self._loads.bring(shelf, number, self._settle, evict=self._up.is_set())
        self._under_way -= 1
        self._settle(shelf)
        self._rise()

    def _rise(self) -> None:
        if self._open and not self._under_way:
            self._up.set()

    def _explicit_only(self) -> None:
        if self._settings.control is not Control.EXPLICIT:
            raise BadInput("Models are not loaded by request here: control is not `explicit`.")

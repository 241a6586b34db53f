"""A model repository on disk, and loads that fail, wait and are counted on command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vision.errors import LoadError
from vision.loads import Event, EventKind
from vision.model import OffLoop
from vision.repository import Control, Repository, RepositorySettings
from vision.versions import Found, State


def put(folder: Path, model: str, version: int, content: bytes = b"weights") -> Path:
    """Move a version into the repository as an operator would, with one rename."""
    target = folder / model / str(version)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.parent / f".{version}.new"
    fresh.mkdir()
    (fresh / "model.onnx").write_bytes(content)
    fresh.rename(target)
    return target


def rewrite(file: Path, content: bytes) -> None:
    """Replace a file's content with another that is told from it by its time at least."""
    before = file.stat().st_mtime_ns
    file.write_bytes(content)
    os.utime(file, ns=(before + 1_000_000, before + 1_000_000))


@dataclass(eq=False)
class FakeModel:
    """What a load brings; `content` is what the file held."""

    name: str
    version: int
    content: bytes
    memory_bytes: int
    idle: bool = True
    closed: bool = False
    broken: bool = False
    runtime: str = "fake"
    device: str = "cpu"
    closing: asyncio.Event | None = None
    """What its end waits for."""

    def infer(self) -> bytes:
        """Answer, as long as it is there."""
        assert not self.closed
        return self.content

    async def close(self) -> None:
        if self.closing is not None:
            await self.closing.wait()
        self.closed = True


@dataclass(eq=False)
class Loader:
    """Loads files: `bad…` fails, `boom…` raises what nobody expects, the rest is a model."""

    loads: list[tuple[str, int]] = field(default_factory=list)
    models: list[FakeModel] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Loads wait for it; it is open at first."""
    memory: dict[bytes, int] = field(default_factory=dict)
    """What contents take; their length if they are not here."""
    slow_end: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def __call__(self, name: str, found: Found, observer: Any, off_loop: OffLoop) -> Any:
        self.loads.append((name, found.version))
        self.entered.set()
        await self.gate.wait()
        file = found.folder / "model.onnx"
        content = await off_loop(file.read_bytes)
        if content.startswith(b"bad"):
            raise LoadError(f"{file}: is not a model")
        if content.startswith(b"boom"):
            raise ZeroDivisionError("odd")
        size = self.memory.get(content, len(content))
        model = FakeModel(name, found.version, content, size, closing=self.slow_end)
        self.models.append(model)
        return model


@dataclass(eq=False)
class Stage:
    """A repository with fake loads, and what it told."""

    folder: Path
    loader: Loader
    repository: Repository
    events: list[Event]
    clock: Iterator[int]
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def kinds(self, *kinds: EventKind) -> list[tuple[EventKind, str, int]]:
        """What it told of these kinds (all if none is named)."""
        told = [(one.kind, one.model, one.version) for one in self.events]
        return [one for one in told if not kinds or one[0] in kinds]

    def states(self, name: str) -> dict[int | None, tuple[str, str]]:
        """State and reason of a model's versions."""
        index = self.repository.index()
        return {one.version: (one.state.value, one.reason) for one in index if one.name == name}

    async def look(self) -> None:
        """Look twice, so that both agree, and let what follows come to its end."""
        await self.repository.poll()
        await self.repository.poll()
        await self.calm()

    async def calm(self) -> None:
        """Wait until nothing is being loaded or unloaded any more."""
        busy = self.repository
        await until(
            lambda: (
                not busy._under_way
                and all(one.state is not State.UNLOADING for one in busy.index())
            )
        )

    async def ask(
        self, name: str = "m", version: int | None = None, deadline: float | None = None
    ) -> bytes:
        """Lease and infer."""
        async with self.repository.lease(name, version, deadline) as model:
            await asyncio.sleep(0)
            return model.infer()  # type: ignore[attr-defined]  # a fake's

    async def until_it_says(self, content: bytes, name: str = "m") -> None:
        """Ask until the answer is this one."""
        async with asyncio.timeout(20):
            while await self.ask(name) != content:
                pass


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop turn until a condition holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  there is no event for each thing a test looks at
            await asyncio.sleep(0)


@asynccontextmanager
async def stage(
    folder: Path, settings: RepositorySettings | None = None, *, up: bool = True, **memory: int
) -> AsyncIterator[Stage]:
    """Start a repository over a folder; `memory` is what contents take. Nothing may be left."""
    loader = Loader(memory={key.encode(): size for key, size in memory.items()})
    clock = iter(range(10**9))
    events: list[Event] = []

    def hear(event: Event) -> None:
        events.append(event)
        made.heard.set()

    repository = Repository(
        folder,
        settings or RepositorySettings(Control.POLL, poll_s=3600),
        lambda model, version: None,  # type: ignore[arg-type,return-value]  # fakes have no lane
        on_event=hear,
        load=loader,
        monotonic=lambda: next(clock),
    )
    made = Stage(folder, loader, repository, events, clock)
    await repository.start()
    try:
        if up:
            await repository.up()
        yield made
    finally:
        loader.gate.set()
        await repository.close()
    assert all(model.closed for model in loader.models)

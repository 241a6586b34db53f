"""What is known of the versions in a repository, and which of them does a policy name?

Pure: values, and decisions that need no more than them. What becomes of a model's versions in time
is `vision.shelf`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

from vision.config import ModelConfig, Versions

T = TypeVar("T")


class State(StrEnum):
    """A version's, by the names of the Open Inference Protocol's index in lower case."""

    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    UNAVAILABLE = "unavailable"


class Rest(StrEnum):
    """Why a version that should serve is not in memory; the next lease loads it."""

    EVICTED = "evicted to keep to the memory budget; the next request loads it again"
    NO_ROOM = "the memory budget has no room for it; a request loads it when there is"


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells one state of a file from another without reading it; `size` -1: not there."""

    name: str
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Found:
    """A version's folder as a listing saw it; an equal one holds the same."""

    version: int
    folder: Path
    base: Path
    """The folder that labels and samples count from: that of its `config.yaml`."""
    config: ModelConfig
    """Without what belongs to the model or to other versions: policy, other pins."""
    files: tuple[FileStamp, ...]
    model_files: tuple[str, ...] = ()
    """Those that its runtimes may load, in their order."""
    problem: str | None = None
    """Why it cannot be loaded as it is; no load is tried then."""

    @property
    def size_bytes(self) -> int:
        """Return how large the largest of its model files is: a first guess of its memory."""
        sizes = [stamp.size for stamp in self.files if stamp.name in self.model_files]
        return max(sizes, default=0)


@dataclass(slots=True, eq=False)
class Copy(Generic[T]):
    """A version in memory. Whoever uses it counts in `leases`."""

    model: T
    found: Found
    memory_bytes: int
    used_at: float
    """When its last lease ended, or when it was loaded."""
    load_s: float = 0.0
    """How long it took to load it and to warm it up."""
    leases: int = 0
    retired: bool = False
    """No new leases; it is closed when the last one has ended."""
    closing: bool = False


@dataclass(slots=True, eq=False)
class Slot(Generic[T]):
    """What is known of one version."""

    number: int
    found: Found | None = None
    """None: its folder is gone."""
    copy: Copy[T] | None = None
    loading: Found | None = None
    failed: Found | None = None
    """What the last load failed on."""
    reason: str = ""
    rest: Rest | None = None
    waiting: int = 0
    """Leases that wait for it to be loaded."""
    took: tuple[Found, int] | None = None
    """How many bytes its last load took in memory, and of which files."""

    def need_bytes(self, found: Found) -> int:
        """Return what files will take in memory: what they took, or else a guess by their size."""
        if self.took is not None and self.took[0] == found:
            return self.took[1]
        return found.size_bytes

    @property
    def broken(self) -> bool:
        """Say whether nothing serves, and no load would help before the files change."""
        if self.copy is not None or self.rest is not None or self.found is None:
            return False
        return self.found.problem is not None or self.failed == self.found

    @property
    def stale(self) -> bool:
        """Say whether a load is called for: nothing is in memory, or not what the folder holds."""
        if self.found is None or self.loading is not None or self.rest is not None:
            return False
        if self.found.problem is not None or self.failed == self.found:
            return False
        return self.copy is None or self.copy.found != self.found

    @property
    def why(self) -> str:
        """Say what is wrong with the files as they are; empty if nothing is known of it."""
        if self.found is not None and self.found.problem is not None:
            return self.found.problem
        return self.reason if self.failed is not None and self.failed == self.found else ""


@dataclass(frozen=True, slots=True)
class Row(Generic[T]):
    """One line of the index."""

    version: int | None
    """None: the model has no version."""
    state: State
    reason: str
    copy: Copy[T] | None = None


def chosen(policy: Versions, there: Iterable[int]) -> tuple[int, ...]:
    """Return the versions that a policy names, of those that are there, the newest first.

    `specific` names its versions whether they are there or not.
    """
    if policy.policy == "specific":
        return tuple(sorted(set(policy.versions), reverse=True))
    newest = sorted(there, reverse=True)
    return tuple(newest[: policy.count] if policy.policy == "latest" else newest)


def describe(policy: Versions) -> str:
    """Say a policy in the words of its keys."""
    match policy.policy:
        case "latest":
            return f"latest {policy.count}"
        case "specific":
            return f"specific {', '.join(map(str, sorted(policy.versions)))}"
        case _:
            return "all"


def settled(
    taken: Mapping[int, Found], before: Mapping[int, Found], now: Mapping[int, Found]
) -> dict[int, Found]:
    """Return what to take from a look: where two in a row agree, else what was taken before.

    A folder that is being copied differs from one look to the next; one that is being replaced is
    missing in one of them.
    """
    agreed: dict[int, Found] = {}
    for number in {*taken, *before, *now}:
        new = now.get(number)
        found = new if new == before.get(number) else taken.get(number)
        if found is not None:
            agreed[number] = found
    return agreed


def idle_to_evict(idle: Iterable[Copy[T]], excess_bytes: int) -> list[Copy[T]] | None:
    """Choose copies to make room, the least recently used first; None if all are not enough."""
    chosen: list[Copy[T]] = []
    for copy in sorted(idle, key=lambda one: one.used_at):
        if excess_bytes <= 0:
            break
        chosen.append(copy)
        excess_bytes -= copy.memory_bytes
    return chosen if excess_bytes <= 0 else None

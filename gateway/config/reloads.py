"""Which configuration is in effect, and what came of the last attempt to replace it?

Pure: callers say what happened and when.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from gateway.config.diff import Change


class Result(StrEnum):
    """What came of one reload."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    """The file says what is in effect already, or nothing that a running process can take over."""
    FAILED = "failed"
    """The configuration from before stays in effect, all of it."""


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """The answer to whoever asked for a reload."""

    result: Result
    generation: int
    """The number of the configuration that is in effect now."""
    changes: tuple[Change, ...] = ()
    """Every difference, also what needs a restart and is not in effect."""
    problems: tuple[str, ...] = ()
    """Why it failed, with file, line and key where there are any."""


class Reloads:
    """The running count. Generation 1 is what the process started with."""

    __slots__ = ("last", "loaded_at")

    def __init__(self, wall: float) -> None:
        self.last = ReloadResult(Result.APPLIED, 1)
        self.loaded_at = wall
        """When the configuration in effect was taken over; seconds since the epoch."""

    def begin_at(self, generation: int) -> int:
        """Begin with the number that other processes have; return it."""
        self.last = ReloadResult(Result.APPLIED, generation)
        return generation

    @property
    def generation(self) -> int:
        """The number of the configuration in effect."""
        return self.last.generation

    @property
    def ok(self) -> bool:
        """Whether the last attempt did not fail."""
        return self.last.result is not Result.FAILED

    def succeeded(self, changes: Sequence[Change], wall: float) -> ReloadResult:
        """Note that all that could be taken over is in effect."""
        if all(change.restart for change in changes):
            self.last = ReloadResult(Result.UNCHANGED, self.generation, tuple(changes))
        else:
            self.last = ReloadResult(Result.APPLIED, self.generation + 1, tuple(changes))
            self.loaded_at = wall
        return self.last

    def failed(self, problems: Sequence[str]) -> ReloadResult:
        """Note that nothing has changed, and why."""
        self.last = ReloadResult(Result.FAILED, self.generation, (), tuple(problems))
        return self.last

"""What does the operator see while a conversion runs?"""

from __future__ import annotations

from typing import Protocol


class Steps(Protocol):
    """Where the parts of a conversion tell how far they are; one step at a time, parts in it."""

    def begin(self, title: str, total: int | None = None) -> None:
        """A step of the conversion begins, the one before it is over; `total` parts, if known."""

    def advance(self, done: int) -> None:
        """So many parts of the present step are done."""

    def open(self, name: str, parent: str | None, total: int) -> None:
        """A phase within the present step begins; TensorRT's phases nest."""

    def move(self, name: str, done: int) -> None:
        """So many parts of the phase are done."""

    def close(self, name: str) -> None:
        """The phase is over; phases within it, too."""


class Silent:
    """Shows nothing."""

    def begin(self, title: str, total: int | None = None) -> None:
        """See `Steps.begin`."""

    def advance(self, done: int) -> None:
        """See `Steps.advance`."""

    def open(self, name: str, parent: str | None, total: int) -> None:
        """See `Steps.open`."""

    def move(self, name: str, done: int) -> None:
        """See `Steps.move`."""

    def close(self, name: str) -> None:
        """See `Steps.close`."""

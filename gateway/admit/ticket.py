"""What does a waiting request bring with it: how urgent, whose, until when?

Pure: values only.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")


class Priority(IntEnum):
    """The classes, the most urgent first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


_NAMES = {b"high": Priority.HIGH, b"normal": Priority.NORMAL, b"low": Priority.LOW}


def read_priority(value: bytes) -> Priority:
    """Read `x-priority`: `high`, `normal`, `low`, or an integer as in vLLM's `priority`.

    There 0 is the default and lower is sooner: below 0 is high, above 0 is low. Anything else is
    normal, because a hint that nobody understands is no reason to refuse a request.
    """
    named = _NAMES.get(value.lower())
    if named is not None:
        return named
    digits = value[1:] if value[:1] in (b"-", b"+") else value
    if not digits.isdigit() or not digits.strip(b"0"):
        return Priority.NORMAL
    return Priority.HIGH if value[:1] == b"-" else Priority.LOW


class Refusal(StrEnum):
    """Why a request was not let in."""

    FULL = "full"  # As many wait as may.
    DISPLACED = "displaced"  # The queue was full, and it gave its place to another.
    BACKLOG = "backlog"  # So many wait that its turn would come after the queue time-out.
    TIMEOUT = "timeout"  # It has waited that long.
    DEADLINE = "deadline"  # Its turn would come after the client's own deadline.


class Ticket(Generic[T]):
    """One waiting request. `wake` is what its owner finds it by; the queue does not look at it."""

    __slots__ = ("deadline", "priority", "seq", "since", "tenant", "wake", "weight")

    def __init__(
        self,
        priority: Priority,
        tenant: bytes,
        weight: float,
        deadline: float,
        since: float,
        wake: T,
    ) -> None:
        """`deadline` and `since` are monotonic seconds, `deadline` is inf where there is none.

        Raises `ValueError` if `weight` is not above 0.
        """
        if not weight > 0:
            raise ValueError("weight must be above 0")
        self.priority = priority
        self.tenant = tenant
        self.weight = weight
        self.deadline = deadline
        self.since = since
        self.wake = wake
        self.seq = -1
        """Its number in the order of arrival; the queue gives it."""

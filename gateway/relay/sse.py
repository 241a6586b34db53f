"""Where does one server-sent event end and the next begin?

Pure: bytes in any chunking → whole events. The format is WHATWG HTML §9.2: lines end with LF, CRLF
or CR, an empty line ends an event. Forwarding only whole events means that the client always
stands at a boundary, where an error frame or a resumed stream may follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_EVENT_BYTES = 4 * 1024 * 1024
"""An event that grows past this without ending is a broken engine, not a long answer."""

# The look-ahead keeps the two bytes of one CRLF from counting as two line ends.
_BOUNDARY = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LINE = re.compile(rb"\r\n|\n|\r")


class EventTooLargeError(Exception):
    """An event passed `MAX_EVENT_BYTES` without a terminator."""


class EventSplitter:
    """Holds the incomplete tail of a stream of events."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Return the events that `data` completes, as they came; keep the rest.

        The common case, a read that ends where an event ends, costs one comparison.
        Raises `EventTooLargeError`.
        """
        tail = self._tail
        if not tail and data.endswith(b"\n\n"):
            return data
        # A terminator may have begun in the tail: search from three bytes before the seam.
        start = max(0, len(tail) - 3)
        tail += data
        end = _last_boundary(tail, start)
        if end < 0:
            if len(tail) > MAX_EVENT_BYTES:
                raise EventTooLargeError
            return b""
        events = bytes(tail[:end])
        del tail[:end]
        if len(tail) > MAX_EVENT_BYTES:
            raise EventTooLargeError
        return events

    @property
    def pending(self) -> bool:
        """Whether an incomplete event is held."""
        return bool(self._tail)


def _last_boundary(data: bytearray, start: int) -> int:
    """Return the offset after the last event terminator that ends at or after `start`, or -1."""
    end = -1
    # "\n\r\n" covers CRLF CRLF; the others are the uniform endings.
    for mark in (b"\n\n", b"\n\r\n", b"\r\r"):
        at = data.rfind(mark, max(0, start))
        if at >= 0:
            end = max(end, at + len(mark))
    return end


def split(events: bytes) -> Iterator[bytes]:
    """Yield each event of a run of whole events, with its terminator."""
    start = 0
    for match in _BOUNDARY.finditer(events):
        yield events[start : match.end()]
        start = match.end()
    if start < len(events):
        yield events[start:]


def payload(event: bytes) -> bytes | None:
    """Return the event's `data:` lines joined by LF; None for a comment or an empty event."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]  # One LF-terminated line, which is what engines send.
    lines = [
        line[6:] if line.startswith(b"data: ") else line[5:]
        for line in _LINE.split(event)
        if line.startswith(b"data:")
    ]
    return b"\n".join(lines) if lines else None

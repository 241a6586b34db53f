"""What is the text of many events that differ in nothing but their text?

Pure. An engine writes each token of a stream into the same bytes. Once these are known, the text of
hundreds of events is cut out and decoded as one JSON string: 0.3 µs for an event, not 1.4 µs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

_TEXT = re.compile(rb'"(content|text|reasoning|reasoning_content)":("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, slots=True)
class Frame:
    """The bytes of a token's event around its text."""

    before: bytes
    after: bytes

    def text_of(self, events: Sequence[bytes]) -> str | None:
        """Return the text of runs of whole events; None if not each is one such event."""
        before, after = self.before, self.after
        start, end = len(before), -len(after)
        texts = [event[start:end] for event in events]
        if b"".join(events) != b"".join((before, (after + before).join(texts), after)):
            return None
        try:
            return msgspec.json.decode(b'"%b"' % b"".join(texts), type=str)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None  # A quote in it: there is more than one event in a run.


def frame_of(event: bytes, text: str) -> Frame | None:
    """Return what stands around `text`, the one text of an event; None if that is not plain."""
    matches = list(_TEXT.finditer(event))
    if len(matches) != 1 or msgspec.json.decode(matches[0][2]) != text:
        return None
    return Frame(event[: matches[0].start(2) + 1], event[matches[0].end(2) - 1 :])

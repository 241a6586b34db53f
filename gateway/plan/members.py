"""Where do the members of this JSON object, or the elements of this array, stand in its text?

Pure. msgspec finds the values in C without building them, and their lengths are all that is needed
to walk the text from one to the next (10 µs for 1 KB, of which the walk is 9); whatever is not
replaced stays the very bytes that it was. The text must be valid JSON
(`gateway.api.body.read_json` has checked it).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_NAME = re.compile(rb'[ \t\r\n]*"([^"\\]*(?:\\.[^"\\]*)*)"[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)
_SPACE = re.compile(rb"[ \t\r\n]*")
_ENDS = frozenset(b",}")
# Numbers stay text: int() refuses more than 4,300 digits, which are valid JSON.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str)


Change = Callable[[bytes | None], bytes | None]
"""From a member's value as JSON text (None: there is none) to the new one (None: remove it)."""


class Member(NamedTuple):
    """One member of an object."""

    name: str
    begin: int
    """Where it begins: after the brace or the comma before it."""
    start: int
    """Where its value begins."""
    stop: int
    """Where its value ends."""
    end: int
    """Where it ends: at the comma or the brace after it."""


def members(text: bytes) -> list[Member]:
    """Return the members of an object in their order, repeated names too."""
    values = _OBJECT.decode(text)
    found: list[Member] = []
    begin = _skip(text, 0) + 1
    while match := _NAME.match(text, begin):
        start = match.end()
        name = match[1].decode()
        if "\\" in name:
            name = json.loads(f'"{name}"')
        value = bytes(values[name])
        stop = start + len(value)
        end = _skip(text, stop)
        if text[start:stop] != value or text[end] not in _ENDS:
            # A repeated name: msgspec has the last value only.
            stop = _stop(text, start)
            end = _skip(text, stop)
        found.append(Member(name, begin, start, stop, end))
        begin = end + 1
    return found


def elements(text: bytes) -> list[tuple[int, int]]:
    """Return where each element of an array begins and ends."""
    found: list[tuple[int, int]] = []
    at = _skip(text, 0) + 1
    for value in _ARRAY.decode(text):
        start = _skip(text, at)
        stop = start + len(memoryview(value))
        found.append((start, stop))
        at = _skip(text, stop) + 1
    return found


def rewrite(text: bytes, old: Sequence[Member], changes: Mapping[str, Change]) -> bytes:
    """Return an object's text with other values; `old` are its `members`.

    What is new comes last. Names, order, spaces and all values that `changes` does not name are
    kept byte for byte; of a repeated name all occurrences are changed.
    """
    kept: list[bytes] = []
    missing = dict(changes)
    for member in old:
        change = changes.get(member.name)
        if change is None:
            kept.append(text[member.begin : member.end])
            continue
        missing.pop(member.name, None)
        value = change(text[member.start : member.stop])
        if value is not None:
            kept.append(text[member.begin : member.start] + value + text[member.stop : member.end])
    for name, change in missing.items():
        value = change(None)
        if value is not None:
            kept.append(json.dumps(name).encode() + b":" + value)
    last = old[-1].end if old else _skip(text, _skip(text, 0) + 1)
    first = old[0].begin if old else last
    return b"".join((text[:first], b",".join(kept), text[last:]))


def _skip(text: bytes, at: int) -> int:
    if text[at] > 0x20:  # Most clients leave no space before commas and brackets.
        return at
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _stop(text: bytes, start: int) -> int:
    rest = text[start:].decode()
    _, length = _JSON.raw_decode(rest)
    return start + len(rest[:length].encode())

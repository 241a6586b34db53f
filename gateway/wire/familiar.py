"""Is this message head the same as the last one, but for its length?

Pure. A client sends the same head with every request of a connection, and an engine with every
response; only `content-length` changes, and the engine's `date`. A `FamiliarHead` keeps one
accepted head as its literal parts with holes at those values. Where the bytes match, the result
of the full parse and of every check is already known; where they do not, the parser decides as
always. Saves about 8 µs a request.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")

_CREDIT = 8
"""Heads learnt without a match before learning stops: some clients never repeat themselves."""


class FamiliarHead(Generic[T]):
    """The last head that could be learnt, and what it was found to mean."""

    __slots__ = ("_beginning", "_credit", "_holes", "_start", "value")

    def __init__(self) -> None:
        self._beginning = b""
        self._start = 0
        self._holes: list[tuple[bytes, int, bool]] = []
        """What stands behind each hole, how long that is, and whether the hole is the length."""
        self._credit = _CREDIT
        self.value: T | None = None

    def match(self, data: bytes) -> tuple[int, int] | None:
        """Return (declared body length, offset of the body) if `data` begins with this head."""
        at = self._start
        if not at or not data.startswith(self._beginning):
            return None
        length = b""
        for literal, size, is_length in self._holes:
            end = data.find(b"\r\n", at)
            if not data.startswith(literal, end):  # Also where `end` is -1.
                return None
            if is_length:
                length = data[at:end]
            at = end + size
        # Nine digits are 1 GB: above any cap, below any overflow.
        if not length.isdigit() or len(length) > 9:
            return None
        self._credit = _CREDIT
        return int(length), at

    def learn(self, data: bytes, value: T, changing: frozenset[bytes] = frozenset()) -> None:
        """Keep the head that `data` begins with, which the parser has accepted, as `value`.

        The values of `content-length` and of the fields named in `changing` become holes.
        Heads without exactly one plain `content-length` are not learnt.
        """
        if self._credit == 0:
            return
        self._credit -= 1
        end = data.find(b"\r\n\r\n")
        literal = b""
        literals: list[bytes] = []
        lengths: list[int] = []
        for line in data[: max(0, end)].split(b"\r\n"):
            name, colon, content = line.partition(b": ")
            lower = name.lower()
            if lower == b"content-length" and content.isdigit():
                lengths.append(len(literals))
            elif not colon or lower not in changing:
                literal += line + b"\r\n"
                continue
            literals.append(literal + name + colon)
            literal = b"\r\n"
        if len(lengths) == 1:
            literals.append(literal + b"\r\n")
            self._beginning, self._start = literals[0], len(literals[0])
            self._holes = [
                (after, len(after), index == lengths[0]) for index, after in enumerate(literals[1:])
            ]
            self.value = value

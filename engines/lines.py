"""Which lines does a program write?"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Final

# A progress bar rewrites its line with carriage returns; each state counts as a line.
_ENDS: Final = re.compile(r"[\r\n]+")
_MAX_CHARS: Final = 65_536


class LineSplitter:
    """Bytes in, whole lines out; blank ones are dropped, broken UTF-8 is replaced.

    A line that grows past 64 Ki characters is cut, so that a program that never ends one cannot
    fill the memory.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._tail = ""

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that these bytes complete."""
        yield from self._split(self._decoder.decode(data))

    def end(self) -> Iterator[str]:
        """The last line, if nothing ended it."""
        yield from self._split(self._decoder.decode(b"", final=True) + "\n")

    def _split(self, text: str) -> Iterator[str]:
        *lines, self._tail = _ENDS.split(self._tail + text)
        while len(self._tail) > _MAX_CHARS:
            lines.append(self._tail[:_MAX_CHARS])
            self._tail = self._tail[_MAX_CHARS:]
        yield from (line.rstrip() for line in lines if line.strip())

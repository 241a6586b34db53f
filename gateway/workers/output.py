"""How do lines of several processes stay whole on one standard output?

A write to a file that was opened for appending is one piece. A write to a pipe is one only up to
4 KiB (PIPE_BUF), and the access log writes 0.2 s of lines at once. So workers take turns: a lock on
a file is held for the write. Only the access log's own thread ever waits for it.
"""

from __future__ import annotations

import fcntl
import io
import os
import sys
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class InTurns(io.RawIOBase):
    """A raw stream whose writes are never mixed with those of others that share the lock."""

    def __init__(self, descriptor: int, lock: str) -> None:
        """`descriptor` stays open when this closes. Raises `OSError`."""
        self._descriptor = descriptor
        self._lock = os.open(lock, os.O_CREAT | os.O_RDWR, 0o600)

    def writable(self) -> bool:
        """Say yes."""
        return True

    def write(self, data: ReadableBuffer) -> int:
        """Write all of it. Raises `OSError`."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        return size

    def close(self) -> None:
        """Let go of the lock's file."""
        if not self.closed:
            super().close()
            os.close(self._lock)


def take_turns(lock: str) -> None:
    """Let this process' standard output be written in turns. Raises `OSError`."""
    sys.stdout.flush()
    # The buffer is written in one piece when it is flushed, and what exceeds it at once.
    binary: IO[bytes] = io.BufferedWriter(InTurns(sys.stdout.fileno(), lock))
    sys.stdout = io.TextIOWrapper(binary, encoding="utf-8", line_buffering=True)

"""Where does the access log go, without a request ever waiting for a disk?

Requests append lines to a bounded queue; a thread of its own writes it out now and then. When
the disk is slower than the traffic, or full, lines are dropped and counted, never waited for.
"""

from __future__ import annotations

import errno
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Generic, TypeVar

MAX_PENDING = 100_000
"""Lines kept for a slow disk: about 40 MB."""

CLOSE_S = 3.0
"""How long the end of the gateway waits for the last lines. Who reads a pipe may have stopped."""

R = TypeVar("R")

_LOG = logging.getLogger("sluice.access")


class AccessLog(Generic[R]):
    """JSON lines to a file or to standard output, made from whatever a request left behind."""

    def __init__(self, target: str, line_of: Callable[[R], str], interval_s: float = 0.2) -> None:
        """`target` is a path, or "-" for standard output. Raises `OSError`."""
        self._line_of = line_of
        # Unbuffered: a buffer would keep what it could not write, and its lock while it tries to.
        self._file: IO[bytes] = (
            getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)
            if target == "-"
            else _opened(target)
        )
        self._owns_file = target != "-"
        self._interval_s = interval_s
        self._pending: deque[str] = deque()  # Its ends are safe between two threads.
        self.dropped = 0
        """Lines that were lost to a slow or full disk."""
        self._torn = False
        self._closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, record: R) -> None:
        """Take one finished request; only its writing is the thread's work.

        The line is made here: a record kept for the thread would leave the processor's cache,
        and the thread would hold the interpreter for milliseconds at a time.
        """
        pending = self._pending
        if len(pending) < MAX_PENDING:
            pending.append(self._line_of(record))
        else:
            self.dropped += 1

    def close(self) -> None:
        """Write what is left and end the thread, if that is possible within `CLOSE_S`."""
        self._closing = True
        self._wake.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            self.dropped += len(self._pending)
            _LOG.warning("The access log cannot be written any more; its last lines are lost.")
        elif self._owns_file:
            with suppress(OSError):  # A full disk again; its lines are counted already.
                self._file.close()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._interval_s)
            self._wake.clear()
            self._flush()
        self._flush()

    def _flush(self) -> None:
        lines = [self._pending.popleft() for _ in range(len(self._pending))]
        if not lines:
            return
        # After a failure half a line may stand there; the next one begins at a beginning.
        text = "".join(["\n", *lines] if self._torn else lines)
        try:
            self._write(text.encode())
            self._torn = False
        except (OSError, ValueError) as error:
            self._torn = True
            if not self.dropped:
                _LOG.warning("The access log cannot be written: %s", error)
            self.dropped += len(lines)

    def _write(self, data: bytes) -> None:
        """Write all of it. Raises `OSError`, or `ValueError` for a file that is closed."""
        rest = memoryview(data)
        while rest:
            written = self._file.write(rest)
            if not written:
                raise BlockingIOError(errno.EAGAIN, "it takes no more")
            rest = rest[written:]


def _opened(path: str) -> IO[bytes]:
    try:
        return Path(path).open("ab", 0)
    except OSError as error:
        raise OSError(f"Cannot open the access log {path}: {error.strerror}.") from None

"""Is it this machine that has run out of something, and not the peer that failed?

Pure: it reads exceptions.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Descriptors of the process or the machine, buffers, memory, local ports."""


def is_scarcity(error: BaseException) -> bool:
    """Whether a failure to connect, or what it came from, is a lack on our own side."""
    return any(isinstance(one, OSError) and one.errno in _OURS for one in _origins(error))


def _origins(error: BaseException | None) -> Iterator[BaseException]:
    # httpx and anyio wrap what the kernel said, and anyio groups what several addresses gave.
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for one in error.exceptions:
                yield from _origins(one)
        error = error.__cause__ or error.__context__

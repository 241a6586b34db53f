"""Is it this machine that has run out of something, and not the peer that failed?

Pure: it reads exceptions.
"""

from __future__ import annotations

import errno

_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Descriptors of the process or the machine, buffers, memory, local ports."""


def is_scarcity(error: BaseException) -> bool:
    """Whether a failure to connect, or what it came from, is a lack on our own side."""
    return any(isinstance(one, OSError) and one.errno in _OURS for one in _origins(error))


def _origins(error: BaseException) -> list[BaseException]:
    # httpx and anyio wrap what the kernel said, and anyio groups what several addresses gave.
    # An exception that was raised again while another was handled may be its own origin.
    found: list[BaseException] = []
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or any(one is known for known in found):
            continue
        found.append(one)
        left.append(one.__cause__ or one.__context__)
        if isinstance(one, BaseExceptionGroup):
            left.extend(one.exceptions)
    return found

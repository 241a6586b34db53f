"""What time is it, for `created` and for the Date header?"""

from __future__ import annotations

import time
from email.utils import formatdate


class WallClock:
    """The system's clock in whole seconds, with the Date header's text made once a second."""

    __slots__ = ("_date", "_made_s")

    def __init__(self) -> None:
        self._made_s = -1
        self._date = b""

    def now_s(self) -> int:
        """Return seconds since the epoch."""
        return int(time.time())  # noqa: TID251 - the one place in this package that asks

    def http_date(self) -> bytes:
        """Return the time as HTTP writes it."""
        now_s = self.now_s()
        if now_s != self._made_s:
            self._made_s = now_s
            self._date = formatdate(now_s, usegmt=True).encode("ascii")
        return self._date

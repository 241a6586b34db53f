"""How long is the wait before another attempt?

Pure. Two answers: the engine's own, if it gave one in its response fields, else full jitter. The
window of the jitter is computed by tenacity, as it is for the calls outside the data path; only the
draw is ours, because tenacity draws from the process' own random numbers and a core draws from
those that it was given.
"""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from math import isfinite
from random import Random

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_exponential

BASE_S = 0.025
"""The window of the first retry; Envoy's `base_interval` is 25 ms. It is short against any first
token, and there to keep those apart who failed together."""

MAX_S = 1.0
"""The widest window, reached at the seventh retry. Only engines ask for longer waits."""

_FIELD = re.compile(rb"^(retry-after(?:-ms)?):([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


class Backoff:
    """Full jitter: anything from nothing to a window that doubles with each retry.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    __slots__ = ("_rng", "_windows")

    def __init__(self, rng: Random, base_s: float = BASE_S, max_s: float = MAX_S) -> None:
        self._rng = rng
        self._windows = _windows(base_s, max_s)

    def wait_s(self, retry: int) -> float:
        """Return the seconds to wait before the n-th retry, counted from 1."""
        return self._rng.uniform(0.0, self._windows[min(retry, len(self._windows)) - 1])


def _windows(base_s: float, max_s: float) -> tuple[float, ...]:
    """Return the window for each retry, up to the first that is the widest."""
    window = wait_exponential(multiplier=base_s, max=max_s)
    state = RetryCallState(Retrying(), None, (), {})
    widths = [window(state)]
    while widths[-1] < max_s:
        state.prepare_for_next_attempt()
        widths.append(window(state))
    return tuple(widths)


def retry_after(lines: bytes, wall_now: float) -> float | None:
    """Return the seconds that an engine asks to be left alone for; None if it does not say.

    `lines` are response fields, each `name: value` and CRLF; `wall_now` is the time of day in
    seconds since 1970, which an HTTP date is compared with. `retry-after-ms` goes before
    `retry-after`, as in openai-python. A time in the past is 0.0. What is not a number or a date
    is not there.
    """
    said = {name.lower(): value.strip() for name, value in _FIELD.findall(lines)}
    milliseconds = _number(said.get(b"retry-after-ms", b""))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    value = said.get(b"retry-after", b"")
    seconds = _number(value)
    if seconds is None:
        seconds = _until(value, wall_now)
    return None if seconds is None else max(0.0, seconds)


def _number(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _until(value: bytes, wall_now: float) -> float | None:
    try:
        date = parsedate_to_datetime(value.decode("latin-1"))
        if date.tzinfo is None:  # C's asctime, which HTTP allows and means to be GMT.
            date = date.replace(tzinfo=UTC)
        return date.timestamp() - wall_now
    except (ValueError, OverflowError):
        return None

"""How does a score reach the process that served its request?

    client ──> this process: known here? count it
                  └── not known, and there are others ──> the store's log `feedback`
    each second, every process ──> the log's end ──> count what is known here

Each process looks at each score of the log once, though it reads it again and again: a later
request of the same trace, or with the same id, must not get the score too. One whose process is
gone, or that nobody knows, is lost.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Mapping

from gateway.store.base import Json, StoreError
from gateway.store.resilient import Resilient
from gateway.telemetry.feedback import MAX_SCORE, Given, Remembered

_LOG = logging.getLogger("sluice.releases")

STREAM = "feedback"
"""The store's log of scores."""

PULL_S = 1.0
"""Between two looks into it."""

TAIL = 500
"""How many scores a look reads; what more came in a second is lost."""

SEEN = 10 * TAIL
"""Scores of the log that are known to have been looked at: more than it may hold for a while."""

HANDED_ON = 100
"""Scores that a process hands on between two looks. Whoever invents ids must neither fill the store
nor, while they wait for it, push out what else is to be logged."""


class Scores:
    """Where the scores of clients go (`gateway.control.feedback.Feedback`)."""

    __slots__ = ("_left", "_number", "_remembered", "_seen", "_shared")

    def __init__(self, remembered: Remembered, shared: Resilient | None) -> None:
        """`shared` is None if there are no other processes: what is not known here is unknown."""
        self._remembered = remembered
        self._shared = shared
        self._left = HANDED_ON
        self._number = 0
        self._seen: OrderedDict[str, None] = OrderedDict()

    def give(self, name: str, score: float, label: str = "") -> Given:
        """Count a score, or hand it on, unless the store is down or too many were.

        Raises as `Remembered.give`.
        """
        given, shared = self._remembered.give(name, score, label), self._shared
        if given is not Given.UNKNOWN or shared is None:
            return given
        if not self._left or not shared.standing.available:
            return Given.UNKNOWN
        self._left -= 1
        self._number += 1
        event_id = f"{shared.process}/{self._number}"
        event = {"id": event_id, "request": name, "score": score, "label": label}
        shared.append(STREAM, event)
        return Given.HANDED_ON

    async def pull_forever(self) -> None:
        """Count what others have handed on, until cancelled; ends at once without others."""
        while self._shared is not None:
            try:
                self.take(await self._shared.store.tail(STREAM, TAIL))
            except StoreError:
                _LOG.debug("no scores from the store: it is down")
            except Exception:  # Whatever lies in the store, requests are served.
                _LOG.exception("the scores in the store could not be read")
            self._left = HANDED_ON
            await asyncio.sleep(PULL_S)

    def take(self, events: list[Json]) -> int:
        """Count those of the log's events that are new and known here; return how many."""
        count = sum(self._take(event) is Given.COUNTED for event in events if self._is_new(event))
        while len(self._seen) > SEEN:
            self._seen.popitem(last=False)
        return count

    def _is_new(self, event: Json) -> bool:
        """Say whether it was never looked at before; of what has no id it cannot be told."""
        event_id = event.get("id") if isinstance(event, Mapping) else None
        if not isinstance(event_id, str):
            return True
        known = event_id in self._seen
        self._seen[event_id] = None
        return not known

    def _take(self, event: Json) -> Given:
        """Count one. What another version wrote, and this one cannot read, is passed over."""
        if not isinstance(event, Mapping):
            return Given.UNKNOWN
        name, score, label = event.get("request"), event.get("score"), event.get("label")
        if not isinstance(name, str) or not isinstance(score, int | float):
            return Given.UNKNOWN
        if not math.isfinite(score) or abs(score) > MAX_SCORE:
            return Given.UNKNOWN
        return self._remembered.give(name, score, label if isinstance(label, str) else "")

"""How does each transition get into the audit log once, though its writer may die?

    writer: state and its last transitions ──put──> document ──append──> audit log
                                                        └─ left between the two? ─┐
    leader: a version that it did not write itself ──append all that it holds──> audit log

A transition stands in the policy's document, written in one with the state, before it is in the
log. The log takes an event once, however often it is appended.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.plan.rollout_state import Event
from gateway.store.base import Document, Fence, Json, Store

_LOG = logging.getLogger("sluice.releases")

AUDIT = "audit"
"""The store's log of all transitions."""

KEPT = 4
"""Transitions that a document holds. The leader looks each second: people give no more orders."""

FIELD = "transitions"
"""Where in the document they stand."""


def entry(policy: str, event: Event) -> Json:
    """Return a rollout's transition as it is kept; policy, number and time name it for ever."""
    mark = f"{policy}/{event.number}/{event.at:.6f}"
    return {"id": mark, "event": {"policy": policy, **event.as_json()}}


def following(document: Document, entries: Iterable[Json]) -> list[Json]:
    """Return the transitions to write with the document's next version."""
    return [*_held(document), *entries][-KEPT:]


async def tell(store: Store, entries: Iterable[Json], fence: Fence | None) -> None:
    """Write transitions to the audit log, and to the gateway's own. Raises as `Store.append`."""
    for each in entries:
        _LOG.info("%s", _words(each["event"]))
        await store.append(AUDIT, each["event"], each["id"], fence)


class Trail:
    """What a leader knows of the audit log: for each policy the version that is in it."""

    __slots__ = ("_store", "_told")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._told: dict[str, int] = {}

    def forget(self) -> None:
        """Begin anew: others may have led."""
        self._told.clear()

    async def catch_up(self, document: Document, fence: Fence) -> None:
        """Tell what another has written; it may have died before it could."""
        if self._told.get(document.key) != document.version:
            for each in _held(document):
                await self._store.append(AUDIT, each["event"], each["id"], fence)
            self._told[document.key] = document.version

    async def written(
        self, document: Document, version: int, entries: Iterable[Json], fence: Fence
    ) -> None:
        """Tell what the leader itself has just written."""
        await tell(self._store, entries, fence)
        self._told[document.key] = version


def _held(document: Document) -> list[Json]:
    value = document.value
    held = value.get(FIELD) if isinstance(value, Mapping) else None
    return held if isinstance(held, list) else []


def _words(event: Mapping[str, Any]) -> str:
    change = f" {event['before']} → {event['after']}:" if "before" in event else ""
    return f"policy {event['policy']}:{change} {event['words']}"

"""The store of one process keeps the contract, and lets go of what is over."""

from __future__ import annotations

import pytest

from gateway.store.base import KEEP_PROGRESS_S, Batch
from gateway.store.memory import MemoryStore
from tests.gateway.store.contract import KEPT_EVENTS, StoreContract
from tests.support.control import ManualClock


class MemorySite:
    """All of the process share the one store; time passes by hand."""

    ttl_s = 10.0

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock, max_events=KEPT_EVENTS)

    def open(self) -> MemoryStore:
        return self.store

    async def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds


@pytest.fixture
def site() -> MemorySite:
    return MemorySite()


class TestMemoryStore(StoreContract):
    """See `StoreContract`."""


async def test_a_long_gone_process_is_forgotten(site: MemorySite) -> None:
    """When a new one comes; the sums that it pushed stay."""
    store = site.store
    await store.push("old", Batch(0, 1, {"n": {"": 1}}))
    site.clock.now += KEEP_PROGRESS_S / 2
    await store.push("quiet", Batch(0, 1, {"n": {"": 1}}))
    site.clock.now += KEEP_PROGRESS_S / 2
    await store.push("new", Batch(0, 1, {"n": {"": 1}}))
    assert await store.push("old", Batch(9, 9, {})) == 0
    assert await store.push("quiet", Batch(9, 9, {})) == 1
    assert await store.totals("n") == {"n": {"": 3.0}}


async def test_closing_keeps_the_state_of_others(site: MemorySite) -> None:
    """There is nothing to let go of."""
    await site.store.put("x", 1, 0)
    await site.store.close()
    assert (await site.store.get("x")).value == 1

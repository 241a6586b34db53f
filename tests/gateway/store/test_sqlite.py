"""The store of one host keeps the contract, also between real processes, and heals."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import pytest

from gateway.clock import SystemClock
from gateway.store.base import KEEP_PROGRESS_S, Batch, Document, StoreError
from gateway.store.resilient import Resilient
from gateway.store.sqlite import SqliteStore
from gateway.store.statements import SCHEMA_VERSION
from tests.gateway.store import members
from tests.gateway.store.contract import KEPT_EVENTS, StoreContract
from tests.support.control import ManualClock


class SqliteSite:
    """A file, and a store with a thread of its own for each that opens it."""

    ttl_s = 10.0

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.opened: list[SqliteStore] = []

    def open(self, timeout_s: float = 20.0) -> SqliteStore:
        store = SqliteStore(self.path, self.clock, timeout_s=timeout_s, max_events=KEPT_EVENTS)
        self.opened.append(store)
        return store

    async def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    def lose(self) -> None:
        """Remove the file under everybody's hands."""
        for name in (self.path, *self.path.parent.glob(f"{self.path.name}-*")):
            name.unlink()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[SqliteSite]:
    site = SqliteSite(tmp_path / "state")
    yield site
    for store in site.opened:
        await store.close()


class TestSqliteStore(StoreContract):
    """See `StoreContract`."""


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[tuple[str, SqliteStore]]:
    """A file that other processes open too, by its address."""
    store = SqliteStore(tmp_path / "state", SystemClock(), timeout_s=20.0)
    yield f"sqlite:{tmp_path / 'state'}", store
    await store.close()


async def test_four_processes_push_exactly(shared: tuple[str, SqliteStore]) -> None:
    """Four times 1,000 pushes, a fifth of them twice: nothing is lost, nothing doubled."""
    await members.four_processes_push(*shared, 1_000)


async def test_a_killed_leader_is_replaced(shared: tuple[str, SqliteStore]) -> None:
    """kill -9: within the takeover's time."""
    await asyncio.to_thread(members.a_killed_leader_is_replaced, shared[0])


async def test_a_leader_that_ends_is_replaced_at_once(shared: tuple[str, SqliteStore]) -> None:
    """Its lease would have run for minutes."""
    await asyncio.to_thread(members.a_leader_that_ends_is_replaced_at_once, shared[0])


async def test_a_stopped_leader_is_fenced(shared: tuple[str, SqliteStore]) -> None:
    """SIGSTOP between looking and writing: the write is refused."""
    await members.a_stopped_leader_is_fenced(*shared)


async def test_a_stopped_candidate_stands_again(shared: tuple[str, SqliteStore]) -> None:
    """SIGSTOP at any moment: it gets a new term or none."""
    await asyncio.to_thread(members.a_stopped_candidate_stands_again, shared[0])


async def test_only_its_owner_reads_the_file(site: SqliteSite) -> None:
    """Audit events name people."""
    await site.open().put("x", 1, 0)
    assert stat.S_IMODE(site.path.stat().st_mode) == 0o600


async def test_state_outlives_the_process(site: SqliteSite) -> None:
    """A closed and reopened file has everything."""
    first = site.open()
    await first.put("x", 1, 0)
    await first.push("a", Batch(0, 1, {"n": {"": 1}}))
    await first.append("audit", "e", "1")
    await first.close()
    second = site.open()
    assert (await second.get("x")).value == 1
    assert await second.push("a", Batch(0, 1, {"n": {"": 1}})) == 1
    assert await second.totals("n") == {"n": {"": 1.0}}
    assert await second.tail("audit", 9) == ["e"]


async def test_a_restarted_machine_ends_leases_and_reports(site: SqliteSite) -> None:
    """Its clock begins again: what was granted until later than that never runs out by itself."""
    store = site.open()
    token = await store.acquire("l", "a", 10.0)
    await store.report("a", 1, 10.0)
    await store.push("a", Batch(0, 1, {"n": {"": 1}}))
    site.clock.now = 5.0
    later = await store.acquire("l", "b", 10.0)
    assert later is not None
    assert token is not None
    assert later > token
    assert await store.reports() == {}
    await store.report("b", 2, 10.0)
    assert await store.reports() == {"b": 2}
    await store.push("new", Batch(0, 1, {}))
    assert await store.push("a", Batch(9, 9, {})) == 0


async def test_a_long_gone_process_is_forgotten(site: SqliteSite) -> None:
    """When a new one comes; the sums that it pushed stay."""
    store = site.open()
    await store.push("old", Batch(0, 1, {"n": {"": 1}}))
    site.clock.now += KEEP_PROGRESS_S + 1
    await store.push("new", Batch(0, 1, {"n": {"": 1}}))
    assert await store.push("old", Batch(9, 9, {})) == 0
    assert await store.totals("n") == {"n": {"": 2.0}}


async def test_a_file_that_was_removed_is_begun_anew(site: SqliteSite) -> None:
    """All see the new one, instead of each writing to the old one that nobody else opens."""
    store, other = site.open(), site.open()
    await store.put("x", 1, 0)
    assert (await other.get("x")).value == 1
    site.lose()
    assert await store.get("x") == Document("x", None, 0)
    version = await store.put("x", 2, 0)
    assert version is not None
    assert await other.get("x") == Document("x", 2, version)


async def test_what_was_lost_with_the_file_comes_back(site: SqliteSite) -> None:
    """From the processes that saw it: sums of all, documents in their newest version."""
    ours = Resilient(site.open(), "a", site.clock, Random(1))
    theirs = Resilient(site.open(), "b", site.clock, Random(2))
    await ours.store.put("rollout/x", {"step": 1}, 0)
    ours.add({"n": {"": 3}})
    theirs.add({"n": {"": 4}})
    for one in (ours, theirs, ours):
        await one.turn(push=True)
    newer = await ours.store.put("rollout/x", {"step": 2}, ours.document("rollout/x").version)
    await ours.turn(push=True)
    site.lose()
    theirs.add({"n": {"": 10}})
    for one in (theirs, ours):
        await one.turn(push=True)
    assert await ours.store.totals("") == {"n": {"": 17.0}}
    assert await ours.store.get("rollout/x") == Document("rollout/x", {"step": 2}, newer or 0)
    assert (ours.outbox.losses, theirs.outbox.losses) == (1, 1)
    await theirs.turn(push=False)
    assert theirs.document("rollout/x").value == {"step": 2}


async def test_a_lock_that_is_held_ends_in_an_error(site: SqliteSite) -> None:
    """A process that was stopped in its transaction holds up no other for longer than the
    time-out, and the next call after it works."""
    await site.open().put("x", 1, 0)
    store = site.open(timeout_s=0.2)
    with sqlite3.connect(site.path, isolation_level=None) as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="sqlite at"):
            await asyncio.wait_for(store.get("x"), 10)
        db.execute("ROLLBACK")
    db.close()
    patient = site.open()
    assert (await patient.get("x")).value == 1


async def test_a_fresh_file_that_is_locked_ends_in_an_error(site: SqliteSite) -> None:
    """Before its journal was switched: many begin at once. The thread is free again soon."""
    store = site.open()
    with sqlite3.connect(site.path, isolation_level=None) as db:
        db.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        with pytest.raises(StoreError, match="locked"):
            await store.get("x")
        assert time.monotonic() - begun < 10.0  # Not the 16 s of its lock's time-out.
        db.execute("ROLLBACK")
    db.close()
    assert await store.put("x", 1, 0) is not None


async def test_a_thread_that_hangs_ends_in_an_error(site: SqliteSite) -> None:
    """As on a disk that does not answer: each call is given up in its time."""
    store = site.open(timeout_s=0.2)
    hanging, go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang() -> float:
        loop.call_soon_threadsafe(hanging.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(members.PATIENCE_S)
        return 100.0

    site.clock.monotonic = hang  # type: ignore[method-assign]  # called inside the transaction
    with pytest.raises(StoreError, match="no answer in"):
        await store.acquire("l", "a", 1.0)
    await hanging.wait()
    with pytest.raises(StoreError, match="no answer in"):
        await store.get("x")
    await store.close()
    go.set()


def fill_with_text(path: Path) -> None:
    path.write_text("no database\n" * 100)


def of_a_later_sluice(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()


def no_folder(path: Path) -> None:
    path.parent.rmdir()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (fill_with_text, "not a database"),
        (of_a_later_sluice, "later sluice"),
        (no_folder, "there is no folder /"),
        (Path.mkdir, "unable to open"),
    ],
)
async def test_a_file_that_cannot_be_used_is_an_error(
    site: SqliteSite, spoil: Callable[[Path], None], why: str
) -> None:
    """That says why, each time; and the store is well again when the file is."""
    spoil(site.path)
    store = site.open()
    for _ in range(2):
        with pytest.raises(StoreError, match=why):
            await store.get("x")
    if site.path.is_dir():
        site.path.rmdir()
    site.path.unlink(missing_ok=True)
    site.path.parent.mkdir(exist_ok=True)
    assert await store.put("x", 1, 0) is not None


async def test_an_empty_file_is_filled(site: SqliteSite) -> None:
    """As `touch` leaves one."""
    site.path.touch()
    assert await site.open().put("x", 1, 0) is not None


async def test_a_failed_call_leaves_nothing(site: SqliteSite) -> None:
    """A transaction is whole or not at all."""
    store = site.open()
    await store.push("a", Batch(0, 1, {"n": {"": 1}}))
    with pytest.raises(StoreError):
        await store.push("a", Batch(1, 2, {"n": {"": 1}, "m": {"": None}}))  # type: ignore[dict-item]  # refused by the table, after the first row
    assert await store.totals("") == {"n": {"": 1.0}}
    assert await store.push("a", Batch(1, 2, {"n": {"": 1}})) == 2


async def test_a_closed_store_holds_no_descriptors(site: SqliteSite) -> None:
    """The file and its log are let go of; closing twice is once, and calls after it fail."""
    store = site.open()
    await store.put("x", 1, 0)
    assert descriptors(site.path)
    await store.close()
    await store.close()
    assert not descriptors(site.path)
    with pytest.raises(StoreError, match="closed"):
        await store.get("x")


def descriptors(path: Path) -> list[str]:
    """The files at the path, or beside it, that this process has open."""
    links = [one for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    return [str(one.readlink()) for one in links if str(one.readlink()).startswith(str(path))]

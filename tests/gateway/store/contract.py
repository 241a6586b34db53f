"""What every store does. Each store's test file runs this class over a `site` of its own."""

from __future__ import annotations

import asyncio
from typing import Protocol

import pytest

from gateway.store.base import Batch, Document, Fence, FencedError, Store
from gateway.store.outbox import Outbox

KEPT_EVENTS = 5
"""What the stores of the sites are opened with."""


class Site(Protocol):
    """One shared state, that any number of stores are opened over."""

    ttl_s: float
    """A time to live that calls which follow each other at once stay well within."""

    def open(self) -> Store:
        """Return one more process' store; the site closes it."""

    async def pass_time(self, seconds: float) -> None:
        """Let so much time pass for the store."""


class StoreContract:
    """One protocol, the same behaviour."""

    async def test_sums_add_up_over_processes(self, site: Site) -> None:
        """Counters and histograms of two processes are one."""
        ours, theirs = site.open(), site.open()
        assert await ours.push("a", Batch(0, 1, {"p/n": {"": 2}, "p/h": {"0.1": 1, "0.2": 3}})) == 1
        assert await theirs.push("b", Batch(0, 1, {"p/n": {"": 5}, "p/h": {"0.2": 1}})) == 1
        together = {"p/n": {"": 7.0}, "p/h": {"0.1": 1.0, "0.2": 4.0}}
        assert await ours.totals("p/") == together
        assert await theirs.totals("p/") == together

    async def test_a_prefix_selects_names(self, site: Site) -> None:
        """Also one beyond ASCII; the empty one selects all."""
        store = site.open()
        sums = {name: {"n": 1} for name in ("a", "a/x", "a/ü", "ab", "b", "ü/1", "ü/日本")}
        await store.push("p", Batch(0, 1, sums))
        assert set(await store.totals("a/")) == {"a/x", "a/ü"}
        assert set(await store.totals("a")) == {"a", "a/x", "a/ü", "ab"}
        assert set(await store.totals("ü/")) == {"ü/1", "ü/日本"}
        assert set(await store.totals("")) == set(sums)
        assert await store.totals("c") == {}

    async def test_a_repeated_push_counts_once(self, site: Site) -> None:
        """Whether at once, later, or by another connection."""
        store, other = site.open(), site.open()
        first, second = Batch(0, 1, {"n": {"": 1}}), Batch(1, 2, {"n": {"": 10}})
        assert await store.push("a", first) == 1
        assert await other.push("a", first) == 1
        assert await store.push("a", second) == 2
        assert await store.push("a", first) == 2
        assert await other.push("a", second) == 2
        assert await store.totals("") == {"n": {"": 11.0}}

    async def test_a_push_that_does_not_follow_is_refused(self, site: Site) -> None:
        """The answer says where the process stands."""
        store = site.open()
        await store.push("a", Batch(0, 3, {"n": {"": 1}}))
        assert await store.push("a", Batch(5, 6, {"n": {"": 1}})) == 3
        assert await store.push("new", Batch(5, 6, {"n": {"": 1}})) == 0
        assert await store.totals("") == {"n": {"": 1.0}}

    async def test_an_empty_push_only_asks(self, site: Site) -> None:
        """It leaves the sums and the place alone."""
        store = site.open()
        await store.push("a", Batch(0, 1, {"n": {"": 1}}))
        assert await store.push("a", Batch(1, 1, {})) == 1
        assert await store.totals("") == {"n": {"": 1.0}}

    async def test_numbers_are_doubles(self, site: Site) -> None:
        """Large counts, small squares and negative sums come back to the last bit."""
        store = site.open()
        await store.push(
            "a", Batch(0, 1, {"n": {"big": 2**53 - 1, "small": 1e-30, "odd": 0.1, "minus": -1.5}})
        )
        await store.push("a", Batch(1, 2, {"n": {"big": 1, "small": 2e-30, "odd": 0.2}}))
        assert await store.totals("n") == {
            "n": {"big": 2.0**53, "small": 1e-30 + 2e-30, "odd": 0.1 + 0.2, "minus": -1.5}
        }

    async def test_sums_are_forgotten_by_prefix(self, site: Site) -> None:
        """Others stay, and the name can begin again."""
        store = site.open()
        await store.push("a", Batch(0, 1, {"x/1": {"n": 1}, "x/2": {"n": 1}, "y": {"n": 1}}))
        assert await store.forget("x/") == 2
        assert await store.forget("x/") == 0
        assert await store.totals("") == {"y": {"n": 1.0}}
        await store.push("a", Batch(1, 2, {"x/1": {"n": 4}}))
        assert await store.totals("x/") == {"x/1": {"n": 4.0}}

    async def test_pushes_of_many_at_once_are_exact(self, site: Site) -> None:
        """Eight processes, each through a connection of its own, with every push sent twice."""

        async def process(name: str) -> None:
            store, outbox = site.open(), Outbox()
            for _ in range(25):
                outbox.add({"n": {"": 1}})
                batch = outbox.batch()
                await asyncio.gather(store.push(name, batch), store.push(name, batch))
                outbox.heard(batch.seq)

        await asyncio.gather(*(process(f"p{i}") for i in range(8)))
        assert await site.open().totals("") == {"n": {"": 200.0}}

    async def test_reports_end_with_their_time(self, site: Site) -> None:
        """A later one replaces an earlier, and 0 seconds withdraw it."""
        store, other = site.open(), site.open()
        await store.report("a", {"inflight": 1}, site.ttl_s * 100)
        await store.report("b", {"inflight": 2}, site.ttl_s)
        await store.report("c", {"inflight": 3}, site.ttl_s * 100)
        await store.report("a", {"inflight": [4, "x:y"]}, site.ttl_s * 100)
        await store.report("c", None, 0)
        await store.report("never", None, 0)
        assert await other.reports() == {"a": {"inflight": [4, "x:y"]}, "b": {"inflight": 2}}
        await site.pass_time(site.ttl_s)
        assert await other.reports() == {"a": {"inflight": [4, "x:y"]}}

    async def test_an_absent_document_has_version_0(self, site: Site) -> None:
        """So that the first write names it as what it expects."""
        store = site.open()
        assert await store.get("x") == Document("x", None, 0)
        assert await store.put("x", 1, expected=7) is None
        assert await store.get("x") == Document("x", None, 0)

    async def test_only_the_expected_version_is_written_over(self, site: Site) -> None:
        """Of two writers that read the same one wins, and the other is told."""
        store, other = site.open(), site.open()
        first = await store.put("x", {"weight": 5}, expected=0)
        assert first is not None
        assert await other.put("x", {"weight": 9}, expected=0) is None
        second = await other.put("x", {"weight": [10, "ü"]}, expected=first)
        assert second is not None
        assert second > first
        assert await store.put("x", {"weight": 1}, expected=first) is None
        assert await store.get("x") == Document("x", {"weight": [10, "ü"]}, second)

    async def test_a_removed_document_keeps_counting(self, site: Site) -> None:
        """Its version goes on, so that a writer of before cannot write over what comes after."""
        store = site.open()
        first = await store.put("x", 1, expected=0)
        assert first is not None
        gone = await store.put("x", None, expected=first)
        assert gone is not None
        assert await store.get("x") == Document("x", None, gone)
        again = await store.put("x", 2, expected=gone)
        assert again is not None
        assert again > gone > first

    async def test_of_many_writers_each_step_has_one(self, site: Site) -> None:
        """Compare and set counts to 40, whoever gets there first."""

        async def climb() -> None:
            store = site.open()
            for _ in range(10):
                while True:
                    seen = await store.get("count")
                    if await store.put("count", (seen.value or 0) + 1, seen.version) is not None:
                        break

        await asyncio.gather(*(climb() for _ in range(4)))
        assert (await site.open().get("count")).value == 40

    async def test_changes_are_told_once(self, site: Site) -> None:
        """In the order in which they happened, from where the reader stands; removals too."""
        store, reader = site.open(), site.open()
        assert await reader.changes(0) == (start := await reader.changes(0))
        assert start.documents == ()
        await store.put("b", 1, expected=0)
        a = await store.put("a", 2, expected=0)
        assert a is not None
        seen = await reader.changes(0)
        assert [(one.key, one.value) for one in seen.documents] == [("b", 1), ("a", 2)]
        assert (await reader.changes(seen.revision)).documents == ()
        await store.put("a", None, expected=a)
        later = await reader.changes(seen.revision)
        assert [(one.key, one.value) for one in later.documents] == [("a", None)]
        assert later.revision > seen.revision
        everything = await reader.changes(0)
        assert [one.key for one in everything.documents] == ["b", "a"]

    async def test_restoring_keeps_the_newer(self, site: Site) -> None:
        """A document comes back under its own version, is a change, and may be written on."""
        store, reader = site.open(), site.open()
        mine = await store.put("mine", "new", expected=0)
        assert mine is not None
        seen = (await reader.changes(0)).revision
        lost = Document("lost", {"step": 2}, mine + 1_000_000)
        old = Document("mine", "old", mine - 1)
        assert await store.restore([lost, old, Document("mine", "new", mine)]) == 1
        assert await store.restore([lost]) == 0
        assert await store.get("lost") == lost
        assert await store.get("mine") == Document("mine", "new", mine)
        assert (await reader.changes(seen)).documents == (lost,)
        on = await store.put("lost", {"step": 3}, expected=lost.version)
        assert on is not None
        assert on > lost.version

    async def test_restoring_nothing_is_harmless(self, site: Site) -> None:
        """As a process without documents does."""
        assert await site.open().restore([]) == 0

    async def test_a_log_keeps_its_order_and_its_bounds(self, site: Site) -> None:
        """The newest stay; streams are apart from each other."""
        store, other = site.open(), site.open()
        for number in range(KEPT_EVENTS + 3):
            await (store, other)[number % 2].append("audit", {"n": number}, f"id{number}")
        await store.append("else", "x", "id0")
        kept = [{"n": number} for number in range(3, KEPT_EVENTS + 3)]
        assert await other.tail("audit", 100) == kept
        assert await other.tail("audit", 2) == kept[-2:]
        assert await other.tail("audit", 0) == []
        assert await other.tail("else", 9) == ["x"]
        assert await other.tail("none", 9) == []

    async def test_an_event_is_logged_once(self, site: Site) -> None:
        """A repeated append, after an answer that got lost, changes nothing."""
        store, other = site.open(), site.open()
        await store.append("audit", "first", "1")
        await store.append("audit", "second", "2")
        await other.append("audit", "first", "1")
        assert await store.tail("audit", 9) == ["first", "second"]

    async def test_one_owner_holds_a_lease(self, site: Site) -> None:
        """It may hold on to it with the same token; others wait for its time to run out."""
        store, other = site.open(), site.open()
        token = await store.acquire("rollouts", "a", site.ttl_s)
        assert token is not None
        assert await other.acquire("rollouts", "b", site.ttl_s) is None
        assert await store.acquire("rollouts", "a", site.ttl_s) == token
        assert await other.acquire("else", "b", site.ttl_s) is not None
        await site.pass_time(site.ttl_s)
        later = await other.acquire("rollouts", "b", site.ttl_s)
        assert later is not None
        assert later > token
        assert await store.acquire("rollouts", "a", site.ttl_s) is None

    async def test_holding_on_prolongs(self, site: Site) -> None:
        """From the moment of asking, not from the end of the time before."""
        store, other = site.open(), site.open()
        token = await store.acquire("l", "a", site.ttl_s)
        await site.pass_time(site.ttl_s / 2)
        assert await store.acquire("l", "a", site.ttl_s * 2) == token
        await site.pass_time(site.ttl_s)
        assert await other.acquire("l", "b", site.ttl_s) is None

    async def test_a_lease_after_a_gap_is_a_new_one(self, site: Site) -> None:
        """Even for the same owner: others may have held it in between."""
        store = site.open()
        token = await store.acquire("l", "a", site.ttl_s)
        await site.pass_time(site.ttl_s)
        again = await store.acquire("l", "a", site.ttl_s)
        assert token is not None
        assert again is not None
        assert again > token

    async def test_a_lease_given_back_is_free(self, site: Site) -> None:
        """Only by who holds it: an old token gives back nothing."""
        store, other = site.open(), site.open()
        token = await store.acquire("l", "owner:with:colons", site.ttl_s * 100)
        assert token is not None
        await other.release(Fence("l", token - 1))
        assert await other.acquire("l", "b", site.ttl_s) is None
        await store.release(Fence("l", token))
        await store.release(Fence("l", token))
        later = await other.acquire("l", "b", site.ttl_s)
        assert later is not None
        assert later > token

    async def test_a_leader_that_was_stopped_writes_nothing(self, site: Site) -> None:
        """Its lease ran out, or another leads: the write is refused, not lost without a word."""
        store, other = site.open(), site.open()
        token = await store.acquire("l", "a", site.ttl_s)
        assert token is not None
        fence = Fence("l", token)
        version = await store.put("x", 1, 0, fence)
        assert version is not None
        await store.append("audit", "led", "1", fence)
        await site.pass_time(site.ttl_s)
        with pytest.raises(FencedError):
            await store.put("x", 2, version, fence)
        later = await other.acquire("l", "b", site.ttl_s * 100)
        assert later is not None
        with pytest.raises(FencedError):
            await store.put("x", 2, version, fence)
        with pytest.raises(FencedError):
            await store.append("audit", "still led?", "2", fence)
        with pytest.raises(FencedError):
            await store.put("x", 2, version, Fence("never", token))
        assert await other.put("x", 3, version, Fence("l", later)) is not None
        assert (await store.get("x")).value == 3
        assert await store.tail("audit", 9) == ["led"]

    async def test_a_fenced_write_still_expects_a_version(self, site: Site) -> None:
        """Leading does not make a stale read true."""
        store = site.open()
        token = await store.acquire("l", "a", site.ttl_s * 100)
        assert token is not None
        await store.put("x", 1, 0)
        assert await store.put("x", 2, 0, Fence("l", token)) is None

    async def test_what_json_cannot_say_is_refused(self, site: Site) -> None:
        """Before anything is written."""
        store = site.open()
        with pytest.raises(ValueError, match="JSON"):
            await store.put("x", float("nan"), 0)
        with pytest.raises(TypeError):
            await store.append("audit", object(), "1")
        with pytest.raises(TypeError):
            await store.report("a", {"x": object()}, 1)
        assert await store.get("x") == Document("x", None, 0)

    async def test_a_value_is_a_copy(self, site: Site) -> None:
        """What the writer does with its own afterwards changes nothing."""
        store = site.open()
        value = {"weights": [1, 2]}
        await store.put("x", value, 0)
        value["weights"].append(3)
        assert (await store.get("x")).value == {"weights": [1, 2]}

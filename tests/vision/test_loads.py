"""What `vision.loads` promises: the memory budget holds, and what is in use is never evicted."""

import asyncio
from pathlib import Path

import pytest

from tests.support.vision_repository import put, rewrite, stage, until
from vision.errors import ModelNotReady
from vision.loads import EventKind
from vision.repository import Control, RepositorySettings


def budget(size: int, loads: int = 1) -> RepositorySettings:
    return RepositorySettings(Control.POLL, poll_s=3600, memory_budget_bytes=size, loads=loads)


async def test_the_least_recently_used_model_is_evicted(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path, name, 1, name.encode() * 5)
    async with stage(tmp_path, budget(10)) as on:
        assert await on.ask("a") == b"aaaaa"
        assert await on.ask("b") == b"bbbbb"
        assert await on.ask("a") == b"aaaaa"
        assert await on.ask("c") == b"ccccc"
        assert on.kinds(EventKind.EVICTED) == [(EventKind.EVICTED, "b", 1)]
        assert [on.states(name)[1][0] for name in "abc"] == ["ready", "unavailable", "ready"]
        assert await on.ask("b") == b"bbbbb"
        assert on.kinds(EventKind.EVICTED)[-1] == (EventKind.EVICTED, "a", 1)


async def test_the_start_evicts_nothing(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path, name, 1, name.encode() * 5)
    async with stage(tmp_path, budget(10)) as on:
        assert on.loader.loads == [("a", 1), ("b", 1)]
        assert on.kinds(EventKind.POSTPONED) == [(EventKind.POSTPONED, "c", 1)]
        assert "no room" in on.states("c")[1][1]
        assert await on.ask("c") == b"ccccc"


async def test_evicted_memory_is_free_before_the_load_begins(tmp_path: Path) -> None:
    put(tmp_path, "a", 1, b"aaaaaa")
    put(tmp_path, "b", 1, b"bbbbbb")
    async with stage(tmp_path, budget(10)) as on, asyncio.TaskGroup() as group:
        (first,) = on.loader.models
        first.closing = asyncio.Event()
        asking = group.create_task(on.ask("b"))
        await until(lambda: on.states("a")[1][0] == "unloading")
        assert on.loader.loads == [("a", 1)]
        first.closing.set()
        assert await asking == b"bbbbbb"


async def test_a_model_over_the_budget_alone_fails_before_it_is_loaded(tmp_path: Path) -> None:
    put(tmp_path, "a", 1, b"a")
    put(tmp_path, "b", 1, b"b" * 3 * 2**20)
    async with stage(tmp_path, budget(2**20)) as on:
        assert on.loader.loads == [("a", 1)]
        said = f"{tmp_path}/b/1: takes 3.0 MiB, the memory budget for all models is 1.0 MiB"
        assert on.states("b") == {1: ("unavailable", said)}
        assert await on.ask("a") == b"a"


async def test_what_a_model_really_takes_counts(tmp_path: Path) -> None:
    put(tmp_path, "a", 1, b"a")
    put(tmp_path, "b", 1, b"b")
    put(tmp_path, "c", 1, b"c")
    async with stage(tmp_path, budget(10), a=6, b=6, c=11) as on:
        assert "no room" in on.states("b")[1][1]
        assert "takes" in on.states("c")[1][1]
        assert all(model.closed for model in on.loader.models if model.name != "a")
        assert await on.ask("b") == b"b"
        assert on.states("a")[1][0] == "unavailable"
        async with on.repository.lease("b"):
            with pytest.raises(ModelNotReady, match="no room"):
                await on.ask("a")


async def test_what_a_version_took_is_known_and_not_found_out_by_each_load(tmp_path: Path) -> None:
    """Or a version that finds no room would be read whole at each look, and for each request."""
    put(tmp_path, "a", 1, b"aaa")
    put(tmp_path, "b", 1, b"bbbbbb")
    async with stage(tmp_path, budget(10), A=6, AA=2) as on, on.repository.lease("b"):
        put(tmp_path, "a", 2, b"A")
        for _ in range(3):
            await on.look()
        with pytest.raises(ModelNotReady, match="no room"):
            await on.ask("a", 2)
        assert on.loader.loads.count(("a", 2)) == 1
        rewrite(tmp_path / "a/2/model.onnx", b"AA")  # Of other files nothing is known.
        await on.look()
        assert await on.ask("a") == b"AA"


async def test_models_with_work_in_their_lane_are_not_idle(tmp_path: Path) -> None:
    put(tmp_path, "a", 1, b"aaaaaa")
    put(tmp_path, "b", 1, b"bbbbbb")
    async with stage(tmp_path, budget(10)) as on:
        on.loader.models[0].idle = False
        with pytest.raises(ModelNotReady, match="no room"):
            await on.ask("b")
        on.loader.models[0].idle = True
        assert await on.ask("b") == b"bbbbbb"


async def test_a_swap_needs_no_room_beside_what_it_replaces(tmp_path: Path) -> None:
    put(tmp_path, "a", 1, b"aaaaaa")
    async with stage(tmp_path, budget(10)) as on, on.repository.lease("a"):
        put(tmp_path, "a", 2, b"AAAAAA")
        await on.repository.poll()
        await on.repository.poll()
        await on.until_it_says(b"AAAAAA", "a")
        assert on.kinds(EventKind.EVICTED) == []


async def test_a_swap_evicts_others_that_are_idle_or_waits_for_them(tmp_path: Path) -> None:
    put(tmp_path, "a", 1, b"aaa")
    put(tmp_path, "b", 1, b"bbbbbb")
    async with stage(tmp_path, budget(10)) as on:
        async with on.repository.lease("b"):
            put(tmp_path, "a", 2, b"AAAAAA")
            await on.look()
            assert await on.ask("a") == b"aaa"
            assert "no room" in on.states("a")[2][1]
        await on.look()
        assert await on.ask("a") == b"AAAAAA"
        assert on.states("b")[1][1].startswith("evicted")


async def test_loads_at_the_same_time_reserve_their_room(tmp_path: Path) -> None:
    for name in "abcd":
        put(tmp_path, name, 1, name.encode() * 4)
    async with stage(tmp_path, budget(10, loads=3), up=False) as on:
        on.loader.gate.clear()
        await on.loader.entered.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(on.loader.loads) == 2
        on.loader.gate.set()
        await on.repository.up()
        assert sum(one.memory_bytes for one in on.repository.index()) <= 10


async def test_one_load_at_a_time_unless_the_settings_allow_more(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path, name, 1)
    for loads in (1, 2):
        settings = RepositorySettings(Control.NONE, loads=loads)
        async with stage(tmp_path, settings, up=False) as on:
            on.loader.gate.clear()
            await on.loader.entered.wait()
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(on.loader.loads) == loads
            on.loader.gate.set()
            await on.repository.up()
            assert len(on.loader.loads) == 3


async def test_a_load_takes_the_files_as_they_are_when_its_turn_comes(tmp_path: Path) -> None:
    put(tmp_path, "a", 1)
    file = put(tmp_path, "b", 1, b"old") / "model.onnx"
    async with stage(tmp_path, up=False) as on:
        on.loader.gate.clear()
        await on.loader.entered.wait()
        rewrite(file, b"new")
        await on.repository.poll()
        await on.repository.poll()
        on.loader.gate.set()
        await on.repository.up()
        assert await on.ask("b") == b"new"
        assert on.loader.loads == [("a", 1), ("b", 1)]


async def test_events_tell_how_long_a_load_took_and_why_it_failed(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    put(tmp_path, "n", 1, b"bad")
    async with stage(tmp_path) as on:
        loaded, failed = on.events
        assert (loaded.kind, loaded.model, loaded.version) == (EventKind.LOADED, "m", 1)
        assert loaded.seconds > 0
        assert (failed.kind, failed.model) == (EventKind.FAILED, "n")
        assert "is not a model" in failed.reason

"""What `vision.leases` promises: one load for all who wait, and whoever leaves disturbs nobody."""

import asyncio
from pathlib import Path

import pytest

from tests.support.vision_repository import Stage, put, stage
from vision.errors import DeadlineExceeded, ModelNotFound, ModelNotReady
from vision.repository import Control, RepositorySettings

TIGHT = RepositorySettings(Control.POLL, poll_s=3600, memory_budget_bytes=10)
"""Room for one model of 6 bytes, not for two."""


async def evicted(on: Stage) -> None:
    """Let `b` be evicted by a request for `a`, or the other way round at the start."""
    await on.ask("b")
    await on.ask("a")
    await on.calm()
    assert on.states("b")[1][1].startswith("evicted")
    on.loader.loads.clear()


async def two(folder: Path) -> None:
    put(folder, "a", 1, b"aaaaaa")
    put(folder, "b", 1, b"bbbbbb")


async def test_all_who_wait_for_an_evicted_version_share_one_load(tmp_path: Path) -> None:
    await two(tmp_path)
    async with stage(tmp_path, TIGHT) as on:
        await evicted(on)
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(on.ask("b")) for _ in range(10)]
        assert {one.result() for one in asking} == {b"bbbbbb"}
        assert on.loader.loads == [("b", 1)]


async def test_who_leaves_while_waiting_does_not_stop_the_load(tmp_path: Path) -> None:
    await two(tmp_path)
    async with stage(tmp_path, TIGHT) as on, asyncio.TaskGroup() as group:
        await evicted(on)
        on.loader.gate.clear()
        on.loader.entered.clear()
        asking = [group.create_task(on.ask("b")) for _ in range(3)]
        await on.loader.entered.wait()
        asking[0].cancel()
        asking[1].cancel()
        await asyncio.sleep(0)
        on.loader.gate.set()
        assert await asking[2] == b"bbbbbb"
        assert on.loader.loads == [("b", 1)]


async def test_a_load_that_all_have_left_goes_on(tmp_path: Path) -> None:
    await two(tmp_path)
    async with stage(tmp_path, TIGHT) as on:
        await evicted(on)
        on.loader.gate.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await on.ask("b")
        on.loader.gate.set()
        await on.calm()
        assert on.states("b")[1][0] == "ready"
        assert on.repository._shelves["b"].slots[1].waiting == 0


async def test_a_deadline_ends_the_waiting_but_not_the_load(tmp_path: Path) -> None:
    await two(tmp_path)
    async with stage(tmp_path, TIGHT) as on:
        await evicted(on)
        assert await on.ask("a", deadline=-1.0) == b"aaaaaa"  # There is nothing to wait for.
        on.loader.gate.clear()
        with pytest.raises(DeadlineExceeded) as caught:
            await on.ask("b", deadline=-1.0)
        assert caught.value.param == "model"
        on.loader.gate.set()
        await on.calm()
        assert await on.ask("b", deadline=1e9) == b"bbbbbb"
        assert on.loader.loads == [("b", 1)]


async def test_a_version_that_cannot_be_loaded_again_is_refused_without_the_reason(
    tmp_path: Path,
) -> None:
    await two(tmp_path)
    async with stage(tmp_path, TIGHT) as on:
        await evicted(on)
        (tmp_path / "b/1/model.onnx").write_bytes(b"bad")
        with pytest.raises(ModelNotReady) as caught:
            await on.ask("b")
        assert str(tmp_path) not in caught.value.message
        assert caught.value.retry_after_s is None
        assert "is not a model" in on.states("b")[1][1]


async def test_an_older_version_is_loaded_if_the_evicted_one_cannot_be(tmp_path: Path) -> None:
    await two(tmp_path)
    put(tmp_path, "b", 2, b"BBBBBB")
    async with stage(tmp_path, TIGHT) as on:
        await evicted_2(on)
        (tmp_path / "b/2/model.onnx").write_bytes(b"bad")
        with pytest.raises(ModelNotReady, match="is being loaded"):
            await on.ask("b")
        await on.calm()
        assert await on.ask("b") == b"bbbbbb"


async def evicted_2(on: Stage) -> None:
    await on.ask("b")
    await on.ask("a")
    await on.calm()
    assert on.states("b")[2][1].startswith("evicted")


async def test_what_is_waited_for_is_not_evicted_before_it_is_had(tmp_path: Path) -> None:
    await two(tmp_path)
    put(tmp_path, "c", 1, b"cccccc")
    settings = RepositorySettings(Control.POLL, 3600, memory_budget_bytes=10, loads=2)
    async with stage(tmp_path, settings) as on, asyncio.timeout(20):
        answers: list[bytes] = []

        async def client(name: str) -> None:
            for _ in range(10):
                while True:
                    try:
                        answers.append(await on.ask(name))
                        break
                    except ModelNotReady as error:
                        answers.append(error.message.encode())
                        await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for name in "abcabc":
                group.create_task(client(name))
        loaded = {name.encode() * 6 for name in "abc"}
        assert loaded <= {*answers}
        assert all(b"no room in memory" in one for one in {*answers} - loaded)
        held = [one.memory_bytes for one in on.repository.index() if one.state == "ready"]
        assert sum(held) <= 10


async def test_no_room_is_said_as_such_and_with_a_time_to_come_again(tmp_path: Path) -> None:
    await two(tmp_path)
    async with stage(tmp_path, TIGHT) as on:
        await evicted(on)
        async with on.repository.lease("a"):
            for _ in range(2):
                with pytest.raises(ModelNotReady, match="no room in memory") as caught:
                    await on.ask("b")
                assert caught.value.retry_after_s == 1
        assert await on.ask("b") == b"bbbbbb"


async def test_a_model_that_goes_while_somebody_waits_is_not_found(tmp_path: Path) -> None:
    await two(tmp_path)
    async with stage(tmp_path, TIGHT) as on, asyncio.TaskGroup() as group:
        await evicted(on)
        on.loader.gate.clear()
        asking = group.create_task(_refusal_of(on))
        on.loader.entered.clear()
        await on.loader.entered.wait()
        (tmp_path / "b/1/model.onnx").unlink()
        (tmp_path / "b/1").rmdir()
        await on.repository.poll()
        await on.repository.poll()
        on.loader.gate.set()
        assert isinstance(await asking, (ModelNotFound, ModelNotReady))
        await on.calm()


async def _refusal_of(on: Stage) -> Exception:
    with pytest.raises((ModelNotFound, ModelNotReady)) as caught:
        await on.ask("b")
    return caught.value

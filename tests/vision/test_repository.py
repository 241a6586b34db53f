"""What `vision.repository` promises: models come and go without a failed request."""

import asyncio
import logging
import shutil
import threading
from pathlib import Path

import pytest

from tests.support.vision_repository import put, rewrite, stage, until
from vision.errors import BadInput, LoadError, ModelNotFound, ModelNotReady, OperatorError
from vision.loads import EventKind
from vision.repository import Control, Repository, RepositorySettings

EXPLICIT = RepositorySettings(Control.EXPLICIT)
LATEST = ("unavailable", "the policy (latest 1) does not serve it")


async def test_the_start_loads_the_newest_version_of_every_model(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    put(tmp_path, "m", 2, b"two")
    put(tmp_path, "n", 1, b"n")
    async with stage(tmp_path, up=False) as on:
        assert not on.repository.ready()
        await on.repository.up()
        assert on.repository.ready()
        assert (await on.ask("m"), await on.ask("n")) == (b"two", b"n")
        assert await on.ask("m", 2) == b"two"
        entry = on.repository.index()[1]
        assert (entry.name, entry.version, entry.runtime, entry.device) == ("m", 2, "fake", "cpu")
        assert entry.memory_bytes == 3
        assert entry.load_s is not None
        assert on.states("m")[1] == LATEST


async def test_a_folder_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "no", RepositorySettings(), lambda m, v: None)
    with pytest.raises(OperatorError, match=r"the model repository .*/no: No such file"):
        await repository.start()
    await repository.close()


async def test_an_empty_folder_is_warned_of(tmp_path: Path, caplog) -> None:
    async with stage(tmp_path) as on:
        assert on.repository.ready()
        assert on.repository.index() == []
    assert "holds no model" in caplog.text


async def test_names_that_are_not_there_are_refused_whatever_they_are(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    async with stage(tmp_path) as on:
        for name in ("x", "", "../m", "m/1", "m/../m", ".", "M", "m\0", "x" * 10**6):
            with pytest.raises(ModelNotFound) as caught:
                await on.ask(name)
            assert len(caught.value.message) < 200
        for version in (2, 0, -1, 10**30):
            with pytest.raises(ModelNotFound, match="serves no version"):
                await on.ask("m", version)


async def test_a_failed_load_leaves_the_old_version_and_says_why(tmp_path: Path, caplog) -> None:
    put(tmp_path, "m", 1, b"one")
    async with stage(tmp_path) as on:
        put(tmp_path, "m", 2, b"bad")
        await on.look()
        assert await on.ask() == b"one"
        reason = f"{tmp_path}/m/2/model.onnx: is not a model"
        assert on.states("m") == {1: ("ready", ""), 2: ("unavailable", reason)}
        assert (EventKind.FAILED, "m", 2) in on.kinds()
        assert f"m 2: not loaded: {reason}" in caplog.text
        with pytest.raises(ModelNotFound):
            await on.ask("m", 2)
        await on.look()
        assert on.loader.loads == [("m", 1), ("m", 2)]  # It is not tried over and over.
        rewrite(tmp_path / "m/2/model.onnx", b"two")
        await on.look()
        assert await on.ask() == b"two"


async def test_an_error_without_a_name_is_a_failed_load_too(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, b"one")
    async with stage(tmp_path) as on:
        put(tmp_path, "m", 2, b"boom")
        await on.look()
        assert on.states("m")[2] == ("unavailable", f"{tmp_path}/m/2: ZeroDivisionError: odd")
        assert await on.ask() == b"one"


async def test_after_a_restart_beside_a_broken_version_the_one_before_serves(tmp_path) -> None:
    put(tmp_path, "m", 1, b"one")
    put(tmp_path, "m", 2, b"bad")
    async with stage(tmp_path) as on:
        assert await on.ask() == b"one"


async def test_a_swap_under_load_fails_no_request(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, b"1")
    async with stage(tmp_path) as on:
        answers: list[bytes] = []
        last = 6

        async def client() -> None:
            while not answers or answers[-1] != str(last).encode():
                async with on.repository.lease("m") as model:
                    await asyncio.sleep(0)
                    first = model.infer()
                    for _ in range(len(answers) % 5):
                        await asyncio.sleep(0)
                    assert model.infer() == first
                    answers.append(first)

        async def operator() -> None:
            for version in range(2, last + 1):
                put(tmp_path, "m", version, str(version).encode())
                await on.repository.poll()
                await on.repository.poll()
                await on.until_it_says(str(version).encode())

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(client())
            group.create_task(operator())
        seen = list(dict.fromkeys(answers))
        assert seen == sorted(seen)
        assert len(seen) == last
        await on.calm()
        assert [model.closed for model in on.loader.models] == [True] * (last - 1) + [False]
        swapped = [version for kind, _, version in on.kinds(EventKind.SWAPPED)]
        assert swapped == list(range(2, last + 1))


async def test_a_lease_keeps_the_old_version_until_it_is_given_back(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, b"one")
    async with stage(tmp_path) as on:
        async with on.repository.lease("m") as model:
            put(tmp_path, "m", 2, b"two")
            await on.repository.poll()
            await on.repository.poll()
            await on.until_it_says(b"two")
            assert model.infer() == b"one"
            assert on.states("m")[1] == ("unloading", "requests still use it")
        await on.calm()
        assert model.closed


async def test_changed_files_are_swapped_in_and_broken_ones_are_not(tmp_path: Path) -> None:
    file = put(tmp_path, "m", 1, b"one") / "model.onnx"
    async with stage(tmp_path) as on:
        rewrite(file, b"two")
        await on.look()
        assert await on.ask() == b"two"
        assert on.kinds(EventKind.SWAPPED) == [(EventKind.SWAPPED, "m", 1)]
        rewrite(file, b"bad")
        await on.look()
        assert await on.ask() == b"two"
        state, reason = on.states("m")[1]
        assert (state, "is not a model" in reason) == ("ready", True)
        (tmp_path / "m/config.yaml").write_text("batching: {max_batch: 0}")
        await on.look()
        assert "config.yaml: line 1: batching.max_batch: must be" in on.states("m")[1][1]
        assert await on.ask() == b"two"


async def test_a_changed_config_is_a_reload_but_a_changed_policy_is_not(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    async with stage(tmp_path) as on:
        config = tmp_path / "m/config.yaml"
        config.write_text("versions: {policy: all}\n# a remark\n")
        await on.look()
        assert on.loader.loads == [("m", 1)]
        config.write_text("batching: {max_batch: 3}")
        await on.look()
        assert on.loader.loads == [("m", 1), ("m", 1)]


async def test_a_policy_in_a_half_written_file_is_not_followed(tmp_path: Path) -> None:
    for version in (1, 2):
        put(tmp_path, "m", version, str(version).encode())
    config = tmp_path / "m/config.yaml"
    config.write_text("versions: {policy: specific, versions: [1]}")
    async with stage(tmp_path) as on:
        config.write_text("")
        await on.repository.poll()
        assert await on.ask() == b"1"
        config.write_text("versions: {policy: specific, versions: [1, 2]}")
        await on.look()
        assert await on.ask() == b"2"
        assert on.loader.loads == [("m", 1), ("m", 2)]


async def test_a_folder_that_is_being_copied_waits_until_it_rests(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, b"one")
    async with stage(tmp_path) as on:
        file = put(tmp_path, "m", 2, b"t") / "model.onnx"
        await on.repository.poll()
        with file.open("ab") as stream:
            stream.write(b"wo")
        await on.repository.poll()
        assert on.loader.loads == [("m", 1)]
        await on.repository.poll()
        await on.calm()
        assert await on.ask() == b"two"


async def test_a_new_model_is_found_when_two_looks_have_seen_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as on:
        put(tmp_path, "m", 1, b"one")
        await on.repository.poll()
        with pytest.raises(ModelNotFound):
            await on.ask()
        await on.repository.poll()
        with pytest.raises(ModelNotReady, match="is being loaded") as caught:
            await on.ask()
        assert caught.value.retry_after_s == 1
        await on.calm()
        assert await on.ask() == b"one"


async def test_a_removed_model_is_unloaded_when_its_leases_have_ended(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, b"one")
    async with stage(tmp_path) as on:
        async with on.repository.lease("m") as model:
            shutil.rmtree(tmp_path / "m")
            await on.repository.poll()
            assert await on.ask() == b"one"  # It might have been in the middle of a rename.
            await on.repository.poll()
            with pytest.raises(ModelNotReady):
                await on.ask()
            assert model.infer() == b"one"
        await on.calm()
        assert model.closed
        with pytest.raises(ModelNotFound):
            await on.ask()
        await on.look()
        assert on.repository.index() == []


async def test_a_folder_that_cannot_be_listed_for_a_while_changes_nothing(tmp_path, caplog) -> None:
    folder = tmp_path / "models"
    put(folder, "m", 1, b"one")
    async with stage(folder) as on:
        folder.rename(tmp_path / "away")
        await on.look()
        assert await on.ask() == b"one"
        assert "what is loaded serves on" in caplog.text


async def test_a_model_without_versions_says_so(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    async with stage(tmp_path) as on:
        assert on.states("m") == {None: ("unavailable", "has no version folder (1, 2, …)")}
        with pytest.raises(ModelNotFound):
            await on.ask()


async def test_the_folder_is_looked_at_without_being_told(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    settings = RepositorySettings(Control.POLL, poll_s=0.001)
    async with stage(tmp_path, settings) as on, asyncio.timeout(20):
        put(tmp_path, "m", 2)
        while (EventKind.LOADED, "m", 2) not in on.kinds():
            on.heard.clear()
            await on.heard.wait()


async def test_a_look_that_goes_wrong_does_not_end_the_looking(
    tmp_path: Path, monkeypatch, caplog
) -> None:
    put(tmp_path, "m", 1)
    settings = RepositorySettings(Control.POLL, poll_s=0.001)
    async with stage(tmp_path, settings) as on, asyncio.timeout(20):
        look, failed = on.repository._look, asyncio.Event()

        async def once() -> dict:
            monkeypatch.setattr(on.repository, "_look", look)
            failed.set()
            raise RuntimeError("odd")

        monkeypatch.setattr(on.repository, "_look", once)
        await failed.wait()
        put(tmp_path, "m", 2)
        while (EventKind.LOADED, "m", 2) not in on.kinds():
            on.heard.clear()
            await on.heard.wait()
    assert "could not be looked at" in caplog.text


async def test_with_explicit_control_models_wait_to_be_loaded(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, b"one")
    async with stage(tmp_path, EXPLICIT) as on:
        assert on.repository.ready()
        assert on.states("m")[1][0] == "unavailable"
        with pytest.raises(ModelNotReady):
            await on.ask()
        await on.repository.load("m")
        assert await on.ask() == b"one"
        await on.repository.load("m")
        assert on.loader.loads == [("m", 1)]
        put(tmp_path, "m", 2, b"two")
        await on.repository.load("m")
        assert await on.ask() == b"two"
        async with on.repository.lease("m") as model:
            await on.repository.unload("m")
            with pytest.raises(ModelNotReady, match="is not loaded"):
                await on.ask()
            assert model.infer() == b"two"
        await on.calm()
        assert model.closed
        assert "load it by the repository's API" in on.states("m")[2][1]


async def test_an_explicit_load_that_fails_says_so_and_is_tried_again(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, b"one")
    async with stage(tmp_path, EXPLICIT) as on:
        await on.repository.load("m")
        put(tmp_path, "m", 2, b"bad")
        for _ in range(2):
            with pytest.raises(LoadError, match=r"m 2: .*model\.onnx: is not a model"):
                await on.repository.load("m")
        assert on.loader.loads == [("m", 1), ("m", 2), ("m", 2)]
        assert await on.ask() == b"one"


async def test_an_explicit_load_of_nothing_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/config.yaml").write_text("[]")
    async with stage(tmp_path, EXPLICIT) as on:
        with pytest.raises(ModelNotFound):
            await on.repository.load("m")
        with pytest.raises(ModelNotFound):
            await on.repository.unload("m")
        with pytest.raises(LoadError, match="has no version folder"):
            await on.repository.load("empty")
        with pytest.raises(LoadError, match=r"odd/config\.yaml: line 1: must be a mapping"):
            await on.repository.load("odd")


async def test_a_model_that_came_after_the_start_is_loaded_explicitly(tmp_path: Path) -> None:
    async with stage(tmp_path, EXPLICIT) as on:
        put(tmp_path, "m", 1, b"one")
        await on.repository.load("m")
        assert await on.ask() == b"one"


async def test_an_unload_during_a_load_wins(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    async with stage(tmp_path, EXPLICIT) as on, asyncio.TaskGroup() as group:
        on.loader.gate.clear()
        loading = group.create_task(_error_of(on.repository.load("m")))
        await on.loader.entered.wait()
        await on.repository.unload("m")
        on.loader.gate.set()
        assert "was unloaded" in str(await loading)
        await on.calm()
        assert on.loader.models[0].closed


async def _error_of(call) -> Exception:
    with pytest.raises(LoadError) as caught:
        await call
    return caught.value


async def test_the_settings_name_what_the_start_loads(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    put(tmp_path, "n", 1)
    async with stage(tmp_path, RepositorySettings(Control.EXPLICIT, load=("n",))) as on:
        assert on.loader.loads == [("n", 1)]
    async with stage(tmp_path, RepositorySettings(Control.EXPLICIT, load=("*",))) as on:
        assert sorted(on.loader.loads) == [("m", 1), ("n", 1)]
    with pytest.raises(OperatorError, match="has no model x, y"):
        async with stage(tmp_path, RepositorySettings(Control.EXPLICIT, load=("y", "m", "x"))):
            raise AssertionError


@pytest.mark.parametrize("control", [Control.POLL, Control.NONE])
async def test_only_explicit_control_is_by_request(tmp_path: Path, control: Control) -> None:
    put(tmp_path, "m", 1, b"one")
    async with stage(tmp_path, RepositorySettings(control, poll_s=3600)) as on:
        for call in (on.repository.load, on.repository.unload):
            with pytest.raises(BadInput, match="control is not `explicit`"):
                await call("m")
        assert await on.ask() == b"one"


async def test_close_waits_for_a_load_and_leaves_nothing(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    put(tmp_path, "n", 1)
    async with asyncio.TaskGroup() as group, stage(tmp_path, up=False) as on:
        on.loader.gate.clear()
        await on.loader.entered.wait()
        closing = group.create_task(on.repository.close())
        await until(lambda: not on.repository._open)
        with pytest.raises(ModelNotReady):
            await on.ask()
        assert not closing.done()
        on.loader.gate.set()
        await closing
        assert on.loader.loads == [("m", 1)]  # The other's turn came too late.
        assert not on.repository.ready()
        with pytest.raises(ModelNotReady):
            await on.ask()
    assert not [one.name for one in threading.enumerate() if "sluice-models" in one.name]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_close_does_not_wait_for_a_lease(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    async with stage(tmp_path) as on, on.repository.lease("m") as model:
        await on.repository.close()
        assert model.closed


async def test_a_look_that_ends_after_close_loads_nothing(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    async with stage(tmp_path) as on:
        put(tmp_path, "m", 2)
        await on.repository.poll()
        looked = on.repository._folder.look()
        await on.repository.close()
        on.repository._take("m", looked["m"], looked["m"])
        assert on.loader.loads == [("m", 1)]


async def test_a_model_that_cannot_be_closed_stops_nobody(tmp_path: Path, caplog) -> None:
    put(tmp_path, "m", 1)
    async with stage(tmp_path) as on:
        model = on.loader.models[0]

        async def refuse() -> None:
            model.closed = True
            raise RuntimeError("odd")

        model.close = refuse
        put(tmp_path, "m", 2, b"two")
        with caplog.at_level(logging.ERROR):
            await on.look()
        assert await on.ask() == b"two"
        assert "m 1: could not be closed in good order" in caplog.text
        assert on.states("m")[1] == LATEST


async def test_the_log_tells_loads_and_swaps(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO, "sluice.vision.repository")
    put(tmp_path, "m", 1)
    async with stage(tmp_path) as on:
        put(tmp_path, "m", 2)
        await on.look()
        rewrite(tmp_path / "m/2/model.onnx", b"new")
        await on.look()
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("m 1: loaded with fake on cpu in ")
    assert "m 2: serves now instead of 1" in said
    assert "m 2: serves now instead of what its files were before" in said
    assert said.count("m 2: unloaded") == 2


async def test_a_version_whose_instances_broke_down_is_loaded_again(tmp_path: Path, caplog) -> None:
    put(tmp_path, "m", 1)
    async with stage(tmp_path) as on:
        first = on.loader.models[0]
        first.broken = True
        assert on.states("m") == {1: ("unavailable", "its instances broke down")}
        await on.look()
        assert on.states("m") == {1: ("ready", "")}
        assert on.loader.loads == [("m", 1)] * 2
        assert first.closed
        assert "m 1: its instances broke down" in caplog.text
        assert await on.ask() == b"weights"


async def test_a_request_may_end_on_a_copy_that_broke_down(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    async with stage(tmp_path) as on:
        first = on.loader.models[0]
        async with on.repository.lease("m"):
            first.broken = True
            await on.repository.poll()
            await on.calm()
            assert await on.ask() == b"weights"
            assert not first.closed
        await until(lambda: first.closed)

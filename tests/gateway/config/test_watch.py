"""A change is seen however it was made, when it is whole, and once."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import watch
from gateway.config.diff import Change, Kind
from gateway.config.problems import ConfigError
from gateway.config.reloads import ReloadResult, Result
from gateway.config.spec import Config
from gateway.config.watch import FileSource, Looks, log_reload, watch_forever
from tests.support.rig import eventually

ONE = "clusters: {a: {endpoints: [{url: 'http://one'}]}}\n"
TWO = ONE.replace("one", "two")


def url(config: Config) -> str:
    return config.clusters["a"].endpoints[0].url


def test_only_what_two_looks_agree_on_is_loaded() -> None:
    """A file that is being written differs from look to look."""
    looks = Looks()
    seen = [b"old", b"half", b"half and more", b"whole", b"whole"]
    assert [looks.settled(each, b"old") for each in seen] == [False] * 4 + [True]


def test_a_missing_file_is_no_change() -> None:
    """Neither is one that comes back as it was, even if it was away for long."""
    looks = Looks()
    for seen in (b"old", None, None, b"old", b"old"):
        assert not looks.settled(seen, b"old")
    assert [looks.settled(each, b"old") for each in (None, b"new", b"new")] == [False, False, True]


def test_what_was_read_by_somebody_else_is_not_loaded_again() -> None:
    """A reload by signal comes before the second look."""
    looks = Looks()
    assert not looks.settled(b"new", b"old")
    assert not looks.settled(b"new", b"new")


@given(st.lists(st.sampled_from([None, b"a", b"b", b"c"])))
def test_a_file_that_rests_is_loaded_by_the_second_look(seen: list[bytes | None]) -> None:
    """Whatever happened before; and never what only one look saw."""
    looks, loaded, last = Looks(), b"a", None
    for each in [*seen, b"c", b"c"]:
        if looks.settled(each, loaded):
            assert each is not None
            assert each == last
            loaded = each
        last = each
    assert loaded == b"c"


def test_the_source_reads_the_file_anew(tmp_path: Path) -> None:
    """The command line's settings lie over every reading; the digest is of what was read."""
    file = tmp_path / "sluice.yaml"
    file.write_text(ONE)

    def over(config: Config) -> Config:
        return config.model_copy(update={"server": config.server.model_copy(update={"port": 1})})

    source = FileSource(file, over)
    assert source.digest is None
    config = source.load()
    assert (url(config), config.server.port) == ("http://one", 1)
    assert source.look() == source.digest
    file.write_text(TWO)
    assert source.look() != source.digest
    assert url(source.load()) == "http://two"
    assert FileSource(file).load().server.port == 8000


def test_an_invalid_file_is_read_once(tmp_path: Path) -> None:
    """Its digest counts as loaded, so that the same mistake is not told twice a second."""
    file = tmp_path / "sluice.yaml"
    file.write_text("clusters: {")
    source = FileSource(file)
    with pytest.raises(ConfigError):
        source.load()
    assert source.digest == source.look()
    file.unlink()
    with pytest.raises(ConfigError):
        source.load()
    assert (source.digest, source.look()) == (None, None)


@pytest.mark.parametrize("name", ["a\\0b", "a\\0b/*.yaml"])
def test_a_name_that_no_file_can_have_is_a_problem_of_the_file(tmp_path: Path, name: str) -> None:
    """And no end of the looking, which would be the gateway's."""
    path = tmp_path / "sluice.yaml"
    path.write_text(
        f'clusters: {{c: {{endpoints: [{{url: "http://h"}}]}}}}\npolicies: ["{name}"]\n'
    )
    source = FileSource(path)
    with pytest.raises(ConfigError, match="cannot be read: embedded null"):
        source.load()
    assert source.look() == source.digest


def test_a_policy_file_s_name_may_be_no_text(tmp_path: Path) -> None:
    """Names are bytes: one in Latin-1 among the policies must not end the gateway."""
    path = tmp_path / "sluice.yaml"
    path.write_text(f"{ONE}policies: ['{tmp_path}/p/*.yaml']\n")
    (tmp_path / "p").mkdir()
    source = FileSource(path)
    source.load()
    named = tmp_path / "p" / os.fsdecode(b"caf\xe9.yaml")
    named.write_text("- no policy\n")
    assert source.look() not in {None, source.digest}
    with pytest.raises(ConfigError, match=r"caf\\udce9\.yaml"):
        source.load()
    named.write_text("")
    assert source.look() not in {None, source.digest}


def test_a_link_that_is_swapped_is_followed(tmp_path: Path) -> None:
    """Kubernetes turns `..data` over to a new folder; the file's own path stays the same."""
    for number, text in enumerate((ONE, TWO)):
        (tmp_path / f"v{number}").mkdir()
        (tmp_path / f"v{number}" / "sluice.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("v0")
    (tmp_path / "sluice.yaml").symlink_to("..data/sluice.yaml")
    source = FileSource(tmp_path / "sluice.yaml")
    source.load()
    (tmp_path / "..data_tmp").symlink_to("v1")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert source.look() != source.digest
    assert url(source.load()) == "http://two"


async def test_a_change_leads_to_one_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As soon as the file rests; that it is away is said once, and that it is back."""
    monkeypatch.setattr(watch, "INTERVAL_S", 0.0)
    file = tmp_path / "sluice.yaml"
    file.write_text(ONE)
    source = FileSource(file)
    source.load()
    reloaded: asyncio.Queue[str] = asyncio.Queue()

    async def reload() -> None:
        await reloaded.put(url(source.load()))

    async with asyncio.timeout(10):
        task = asyncio.create_task(watch_forever(source, reload))
        file.write_text(TWO)
        assert await reloaded.get() == "http://two"
        file.rename(tmp_path / "away")
        await eventually(lambda: "cannot be read" in caplog.text)
        (tmp_path / "away").rename(file)
        await eventually(lambda: "is there again" in caplog.text)
        file.write_text(ONE)
        assert await reloaded.get() == "http://one"
    task.cancel()
    assert reloaded.empty()
    assert caplog.text.count("cannot be read") == 1


def test_the_log_says_what_came_of_it(caplog: pytest.LogCaptureFixture) -> None:
    """Problems are errors; what needs a restart is a warning."""
    caplog.set_level(logging.INFO)
    later = Change(Kind.CHANGED, "server.port", "1", "2", restart=True)
    log_reload(ReloadResult(Result.APPLIED, 2, (later, Change(Kind.ADDED, "models.x on a"))))
    log_reload(ReloadResult(Result.FAILED, 2, (), ("f:1:1: is empty",)))
    log_reload(ReloadResult(Result.UNCHANGED, 2))
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "configuration 2 is in effect"),
        ("WARNING", "~ server.port 1 → 2 (needs a restart)"),
        ("INFO", "+ models.x on a"),
        ("ERROR", "configuration 2 stays; the new one cannot be used:"),
        ("ERROR", "f:1:1: is empty"),
        ("INFO", "configuration 2 stays"),
    ]

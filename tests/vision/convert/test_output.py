"""Versions get into the repository whole or not at all, and config.yaml is the operator's."""

from __future__ import annotations

from pathlib import Path

import pytest

from vision.config import Classification, ModelConfig, Preprocessing, Raw, Resize, Tensor
from vision.configs import parse_config, read_config
from vision.convert.failures import ConversionError
from vision.convert.output import choose_version, place, staging, to_yaml, write_config

CONFIG = ModelConfig(
    inputs=(Tensor(name="x", shape=(-1, 3)),),
    preprocessing=Preprocessing(color="gray", resize=Resize(size=(8, 8)), mean=(0.5,), std=(0.1,)),
    postprocessing=Classification(kind="classification", labels="labels.txt"),
    description="Ünïcode: with a colon",
)


def test_next_version_is_above_the_newest(tmp_path: Path) -> None:
    assert choose_version(tmp_path / "new", None, force=False) == 1
    for name in ("2", "10", ".convert-x", "other"):
        (tmp_path / name).mkdir()
    assert choose_version(tmp_path, None, force=False) == 11
    assert choose_version(tmp_path, 3, force=False) == 3


def test_version_that_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    with pytest.raises(ConversionError, match="2 is already there: --force replaces it"):
        choose_version(tmp_path, 2, force=False)
    assert choose_version(tmp_path, 2, force=True) == 2


def test_staged_version_is_moved_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with staging(folder) as staged:
        (staged / "model.onnx").write_text("new")
        assert staged.name.startswith(".convert-")
        place(staged, folder, 1, force=False)
    assert [one.name for one in folder.iterdir()] == ["1"]
    assert (folder / "1" / "model.onnx").read_text() == "new"
    assert (folder / "1").stat().st_mode & 0o777 == 0o755


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with staging(tmp_path / "model") as staged:
            (staged / "model.onnx").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_version_that_somebody_else_wrote_meanwhile_stays(tmp_path: Path) -> None:
    with staging(tmp_path) as staged:
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "theirs").touch()
        with pytest.raises(ConversionError, match="is already there"):
            place(staged, tmp_path, 1, force=False)
    assert (tmp_path / "1" / "theirs").exists()


def test_forced_version_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "old").touch()
    with staging(tmp_path) as staged:
        (staged / "new").touch()
        place(staged, tmp_path, 1, force=True)
    assert [one.name for one in (tmp_path / "1").iterdir()] == ["new"]
    assert [one.name for one in tmp_path.iterdir()] == ["1"]


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConversionError, match="cannot be written to"), staging(tmp_path / "file"):
        pass


def test_written_config_reads_as_it_was(tmp_path: Path) -> None:
    assert write_config(tmp_path, CONFIG, ("a", "b"), force=False)
    assert read_config(tmp_path, None) == CONFIG
    assert (tmp_path / "labels.txt").read_text() == "a\nb\n"
    assert parse_config(to_yaml(ModelConfig()), "x") == ModelConfig()
    raw = ModelConfig(postprocessing=Raw())
    assert parse_config(to_yaml(raw), "x") == raw


def test_config_that_is_there_stays_but_for_force(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("description: mine\n")
    (tmp_path / "labels.txt").write_text("mine\n")
    assert not write_config(tmp_path, CONFIG, ("a",), force=False)
    assert (tmp_path / "config.yaml").read_text() == "description: mine\n"
    assert (tmp_path / "labels.txt").read_text() == "mine\n"
    assert write_config(tmp_path, CONFIG, ("a",), force=True)
    assert (tmp_path / "labels.txt").read_text() == "a\n"
    assert read_config(tmp_path, None) == CONFIG

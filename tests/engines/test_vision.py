"""The vision service is started on a folder of models, if its libraries are there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engines import vision
from engines.spec import SpecError


def test_the_launch_lets_the_service_choose_its_port(tmp_path: Path) -> None:
    """It tells it in a line, and has the environment that it is given."""
    made = vision.launch(tmp_path, {"A": "b"})
    assert made.argv == (
        *(sys.executable, "-m", "vision", "serve", "--repository", str(tmp_path)),
        *("--port", "0", "--ready-line"),
    )
    assert (made.name, made.url, made.env["A"]) == ("vision", None, "b")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Before anything starts."""
    with pytest.raises(SpecError, match="models: there is no folder"):
        vision.launch(tmp_path / "no", {})


def test_models_are_shipped() -> None:
    """The one of the examples among them."""
    assert (vision.shipped() / "digits" / "config.yaml").is_file()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here, where the tests need them all; also a part of a package that is not there."""
    assert vision.missing() == []
    monkeypatch.setattr(vision, "_LIBRARIES", ("numpy", "no_such_library", "no_such.part"))
    assert vision.missing() == ["no_such_library", "no_such.part"]

"""What the converter keeps of errors goes where tests clean up."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from vision.convert import validation


@pytest.fixture(autouse=True)
def temporary_folder(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def hasty_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are measured, but with as few runs as may be."""
    monkeypatch.setattr(validation, "TIMED_S", 0)


@pytest.fixture(autouse=True)
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without it; tests of plans put a fake in its place."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)

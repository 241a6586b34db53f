"""How is the vision service started, and what is missing here if it cannot be?"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from engines.launch import Launch
from engines.spec import SpecError

# What the extra `vision` brings, by the names under which it is imported.
_LIBRARIES: Final = ("PIL", "google.protobuf", "grpc", "numpy", "onnxruntime", "python_multipart")

INSTALL: Final = "pip install 'sluice[vision]'"
"""What brings the libraries."""


def missing() -> list[str]:
    """Return the libraries that the service needs and this environment does not have."""
    return [name for name in _LIBRARIES if not _is_there(name)]


def shipped() -> Path:
    """Return the folder of the models that come with the package."""
    found = find_spec("vision")
    if found is None or not found.submodule_search_locations:
        raise SpecError(["models: the package `vision` is not installed"])
    return Path(found.submodule_search_locations[0]) / "models"


def launch(repository: Path, env: Mapping[str, str]) -> Launch:
    """The service on a repository of models, at a port that it chooses.

    Raises `SpecError` if there is no such folder.
    """
    folder = repository.expanduser()
    if not folder.is_dir():
        raise SpecError([f"models: there is no folder {folder}"])
    argv = (sys.executable, "-m", "vision", "serve", "--repository", str(folder.resolve()))
    return Launch(
        "vision", (*argv, "--port", "0", "--ready-line"), {**env, "PYTHONUNBUFFERED": "1"}
    )


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:  # Of a submodule, where its package is missing.
        return False

"""schemathesis over the OpenAPI page: whatever comes, the answer is one that the page describes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import PATIENCE_S
from tests.support.vision_service import service

pytestmark = pytest.mark.integration

SETTINGS = Path(__file__).with_name("schemathesis.toml")


def test_no_request_is_answered_with_a_500(tmp_path: Path) -> None:
    """Neither requests that fit the page nor those that break it, on any of its routes."""
    program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(SETTINGS), "run"]
    phases = ["--phases", "examples,coverage,fuzzing", "--no-color", "--seed", "1"]
    with service("--no-fetch") as running:
        ended = subprocess.run(
            [*program, f"{running.url}/openapi.json", *phases],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "18 selected" in ended.stdout  # All of the page's routes.

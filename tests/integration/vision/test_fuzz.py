"""schemathesis over the OpenAPI page: whatever comes, the answer is one that the page describes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.process import PATIENCE_S
from tests.support.vision_service import service

pytestmark = pytest.mark.integration

SETTINGS = Path(__file__).with_name("schemathesis.toml")
HOOKS = Path(__file__).with_name("fuzz_hooks.py")


def test_no_request_is_answered_with_a_500(tmp_path: Path) -> None:
    """Neither requests that fit the page nor those that break it, on any of its routes."""
    program = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(SETTINGS), "run"]
    phases = ["--phases", "examples,coverage,fuzzing", "--no-color", "--seed", "1"]
    with service("--no-fetch") as running:
        ended = subprocess.run(
            [*program, f"{running.url}/openapi.json", *phases],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        page = httpx.get(f"{running.url}/metrics", trust_env=False).text
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "18 selected" in ended.stdout  # All of the page's routes.
    reached = {
        line.partition('outcome="')[2].partition('"')[0]
        for line in page.splitlines()
        if line.startswith('sluice_vision_requests_total{model="digits"')
    }
    assert reached >= {"ok", "invalid_tensor", "invalid_base64"}  # Not stopped at the door.

"""NVIDIA's own client of the Open Inference Protocol, in an environment of its own."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.process import PATIENCE_S, ROOT

CACHE = Path(os.environ.get("SLUICE_CACHE", "~/.cache/sluice")).expanduser()
_HERE = ROOT / "tests/integration/vision"


def environment() -> Path:
    """Return the interpreter that has tritonclient; the first call makes it, in about 15 s."""
    wanted = _HERE / "requirements-triton.txt"
    venv = CACHE / f"triton-{hashlib.sha256(wanted.read_bytes()).hexdigest()[:12]}"
    mark = venv / ".complete"
    if not mark.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted]
        subprocess.run([venv / "bin/python", *install], check=True)
        mark.touch()
    return venv / "bin/python"


def told(python: Path, kind: str, address: str, image: Path) -> dict[str, Any]:
    """Run `triton_client.py` against a service and return what it was told."""
    ended = subprocess.run(
        [python, _HERE / "triton_client.py", kind, address, image],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    result: dict[str, Any] = json.loads(ended.stdout)
    return result

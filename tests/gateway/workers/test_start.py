"""The beginning and the end of a gateway of several workers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from gateway.config.spec import Config
from gateway.host import bind
from gateway.workers import start
from gateway.workers.start import run_workers


def config(**server: Any) -> Config:
    return Config.model_validate(
        {
            "server": {"host": "127.0.0.1", "port": 0, "admin": None, **server},
            "clusters": {"c": {"endpoints": [{"url": "http://a:1"}], "max_inflight": 1}},
        }
    )


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_workers_that_cannot_start_end_it_and_nothing_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The wrong arguments, as an example: each worker says so and ends with 2."""
    assert run_workers(config(admin={"port": 0}), ["--no-such-option"], 2) == 2
    assert list(tmp_path.iterdir()) == []
    assert "clusters.c.max_inflight is less than the 2 workers" in caplog.text


@pytest.mark.parametrize("place", ["port", "admin"])
def test_a_port_that_is_taken_is_said_at_once(place: str, caplog: pytest.LogCaptureFixture) -> None:
    with bind("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        server = {"port": port} if place == "port" else {"admin": {"port": port}}
        assert run_workers(config(**server), ["version"], 2) == 1
    assert f"Cannot listen on 127.0.0.1:{port}" in caplog.text


def test_a_folder_with_a_long_name_is_not_used_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket's path has 107 bytes at most."""
    seen: list[str] = []

    async def run(config: Config, arguments: list[str], count: int, folder: str) -> int:
        seen.append(folder)
        return 0

    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setattr(start, "_run", run)
    assert run_workers(config(), [], 2) == 0
    assert len(seen[0]) < 90
    assert not Path(seen[0]).exists()

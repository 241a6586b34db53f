"""`sluice serve` as one process, as the parent of several, and as one of several."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from gateway.cli.root import build
from gateway.cli.serve import Overrides, arguments
from gateway.config.spec import Config
from gateway.config.watch import FileSource
from gateway.workers.seat import Seat

TEXT = "clusters: {c: {endpoints: [{url: 'http://a:1'}], max_inflight: 9}}\nserver: {workers: 3}\n"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What would have been run: nothing is."""
    seen: list[object] = []

    def serve(config: Config, source: FileSource | None, seat: Seat | None) -> int:
        seen.append((config, source, seat))
        return 0

    def run_workers(config: Config, arguments: Sequence[str], count: int) -> int:
        seen.append((list(arguments), count))
        return 5

    for name, function in (("gateway.app", serve), ("gateway.workers.start", run_workers)):
        module = ModuleType(name)
        setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
    return seen


def run(*options: str) -> int:
    return CliRunner().invoke(build(), ["serve", *options]).exit_code


def test_a_file_may_ask_for_several_workers(started: list[object], tmp_path: Path) -> None:
    """They are started with what the command line said; the exit code is the parent's."""
    file = tmp_path / "sluice.yaml"
    file.write_text(TEXT)
    assert run("-c", str(file), "--port", "0", "--access-log", "off") == 5
    said = ["serve", f"--config={file}", "--port=0", "--access-log=off"]
    assert started == [(said, 3)]


def test_the_command_line_wins_over_the_file(started: list[object], tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text(TEXT)
    assert run("-c", str(file), "--workers", "1") == 0
    assert run("--endpoint", "http://a:1", "--workers", "2") == 5
    config, source, seat = started[0]  # type: ignore[misc]  # one process, not the parent
    assert (config.server.workers, source.file, seat) == (1, file, None)
    assert started[1] == (["serve", "--workers=2", "--endpoint=http://a:1"], 2)


def test_a_worker_serves_its_part_and_starts_no_others(
    started: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a reload: each reading of the file is settled for it."""
    own = Seat(2, 4, str(tmp_path), 8123)
    for name, value in own.variable().items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "sluice.yaml"
    file.write_text(TEXT)
    assert run("-c", str(file)) == 0
    assert run("--endpoint", "http://a:1") == 0
    config, source, seat = started[0]  # type: ignore[misc]  # one process, not the parent
    assert seat == own
    assert config == source.load()
    assert (config.server.port, config.clusters["c"].max_inflight) == (8123, 2)
    other, _, _ = started[1]  # type: ignore[misc]  # as above
    assert other.store == f"sqlite:{tmp_path}/state"


def test_arguments_say_what_was_said() -> None:
    overrides = Overrides("h", 1, "p2c", "-", "auto")
    assert arguments(None, ["http://a", "http://b"], overrides) == [
        "serve",
        "--host=h",
        "--port=1",
        "--workers=auto",
        "--balancer=p2c",
        "--access-log=-",
        "--endpoint=http://a",
        "--endpoint=http://b",
    ]

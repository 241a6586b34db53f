"""Which service the options ask for."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.support.process import ROOT
from vision.api.predict import Limits
from vision.app import SHIPPED
from vision.cli import build
from vision.cli.serve import Options, folder_of, grpc_port_of, settings_of
from vision.repository import Control

PLAIN = Options(
    repository=None,
    host="127.0.0.1",
    port=8001,
    grpc_port=None,
    control="poll",
    load=(),
    poll_s=5.0,
    memory_budget_mb=None,
    device=None,
    max_body_mb=32,
    max_image_mb=20,
    max_items=64,
    fetch=True,
    fetch_allow_host=(),
    fetch_allow_cidr=(),
    fetch_port=(),
    drain_delay_s=0.0,
    drain_s=30.0,
    access_log=False,
    ready_line=False,
)


def given(**more: Any) -> Options:
    return dataclasses.replace(PLAIN, **more)


def test_what_is_typed_reaches_the_settings() -> None:
    settings = settings_of(
        given(
            repository=Path("there"),
            control="explicit",
            load=("digits",),
            memory_budget_mb=2,
            max_body_mb=1,
            max_image_mb=3,
            fetch_allow_host=(".example.com",),
            fetch_allow_cidr=("10.1.0.0/16", "fd00::/8"),
            fetch_port=(9000,),
            device="cuda:1",
        )
    )
    assert settings.folder == Path("there")
    assert settings.repository.control is Control.EXPLICIT
    assert settings.repository.load == ("digits",)
    assert settings.repository.memory_budget_bytes == 2 * 2**20
    assert settings.limits == Limits(2**20, 64, 3 * 2**20)
    assert settings.fetch.max_bytes == 3 * 2**20
    assert settings.fetch.rules.hosts == (".example.com",)
    assert [str(one) for one in settings.fetch.rules.networks] == ["10.1.0.0/16", "fd00::/8"]
    assert settings.fetch.rules.ports == {80, 443, 9000}
    assert settings.device == "cuda:1"
    assert not settings_of(given(fetch=False)).fetch.enabled


@pytest.mark.parametrize(
    "more",
    [
        {"load": ("digits",)},
        {"device": "gpu"},
        {"fetch": False, "fetch_allow_host": ("a",)},
        {"fetch": False, "fetch_port": (9000,)},
        {"fetch_allow_cidr": ("10.1.0.1/16",)},
        {"fetch_allow_cidr": ("inside",)},
        {"grpc_port": "x"},
        {"grpc_port": "65536"},
        {"grpc_port": "-1"},
    ],
)
def test_options_that_do_not_go_together(more: dict[str, Any]) -> None:
    with pytest.raises(typer.BadParameter):
        settings_of(given(**more))


@pytest.mark.parametrize(
    ("text", "port", "found"),
    [(None, 8001, 8002), (None, 0, None), (None, 65535, None), ("none", 1, None), ("0", 1, 0)],
)
def test_the_port_for_grpc(text: str | None, port: int, found: int | None) -> None:
    assert grpc_port_of(text, port) == found


def test_the_repository_is_the_given_one_or_here_or_the_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_of(Path("x")) == Path("x")
    assert folder_of(None) == SHIPPED
    (tmp_path / "models").mkdir()
    assert folder_of(None) == Path("models")


def test_help_names_every_option() -> None:
    told = CliRunner().invoke(build(), ["serve", "--help"], terminal_width=200)
    assert told.exit_code == 0
    for field in dataclasses.fields(Options):
        assert f"--{field.name.replace('_', '-')}" in told.output


def test_the_command_line_loads_none_of_the_services_libraries() -> None:
    """`sluice --help` has to answer at once, and without the extra."""
    program = (
        "import sys; from vision.cli import build; build();"
        "print([one for one in ('numpy', 'PIL', 'onnxruntime', 'grpc', 'torch')"
        " if one in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == "[]"


def test_without_the_extra_one_line_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['numpy'] = None; from vision.cli import build;"
        "build()(['serve', '--port', '0'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.strip().endswith("numpy is missing: pip install 'sluice[vision]'")
    assert ended.stderr.count("\n") == 1

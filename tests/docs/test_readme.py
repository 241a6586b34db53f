"""The README's examples do what it says: they are run, as they stand, against `sluice up`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.support.markdown import ROOT, Block, page
from tests.support.process import server, until

README = page("README.md")
ASKING = [
    block
    for block in README.blocks("bash")
    if "kill" not in block.text and "/predict" not in block.text
]
SEEING = [block for block in README.blocks("bash") if "/predict" in block.text]
KILLING = [block for block in README.blocks("bash") if "kill" in block.text]
SHOWN = "http://127.0.0.1:8000"
"""The address in the examples; only this is replaced."""

# No proxy may stand between an example and 127.0.0.1.
ENV = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}


def ready(line: str) -> str | None:
    found = re.search(r"Sluice is ready at (\S+)", line)
    return found[1] if found else None


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """What `make run` starts, on a free port."""
    argv = [sys.executable, "-m", "gateway", "up", "--port", "0"]
    with server(argv, ready, stream="stdout", env={"PYTHONUNBUFFERED": "1"}) as served:
        yield served.url


def run(argv: list[str], gateway: str, code: str) -> str:
    assert SHOWN in code
    command = [*argv, code.replace(SHOWN, gateway)]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are curl's")
@pytest.mark.parametrize("block", ASKING, ids=lambda block: block.text[:60])
def test_a_curl_example(gateway: str, block: Block) -> None:
    """A curl example gets an answer: whole, and from a simulated engine that says so."""
    said: list[str] = []

    def answered() -> bool:  # Held up, a gateway with the defaults refuses for some seconds.
        said.append(run(["bash", "-euo", "pipefail", "-c"], gateway, block.text))
        return '"overloaded"' not in said[-1]

    until(answered, "the gateway has time")
    streams = '"stream": true' in block.text
    text = streamed(said[-1]) if streams else json.loads(said[-1])["generated_text"]
    assert text.startswith("Simulated")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the example is curl's")
def test_the_example_with_an_image(gateway: str) -> None:
    """A seven is seen, and the answer has the fields that the page shows."""
    (block,) = SEEING
    (shown,) = (json.loads(block.text) for block in README.blocks("json"))
    said = json.loads(run(["bash", "-euo", "pipefail", "-c"], gateway, block.text))

    assert said["predictions"][0]["class"] == "7"
    assert (list(said), list(said["predictions"][0])) == (
        list(shown),
        list(shown["predictions"][0]),
    )


def streamed(said: str) -> str:
    """Return the text of a whole stream of chat events."""
    chunks = [line.removeprefix("data: ") for line in said.split("\n\n") if line]
    assert chunks.pop() == "[DONE]"
    deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
    return "".join(delta.get("content", "") for delta in deltas)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on; an example names the ports of what it starts."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


@pytest.mark.skipif(shutil.which("curl") is None, reason="the example is curl's")
def test_the_example_with_a_death(tmp_path: Path) -> None:
    """An engine dies under ten streams; each is whole, all texts are equal, some were resumed."""
    (block,) = KILLING
    ports = dict(zip(("8000", "8101", "8102"), map(str, free_ports(3)), strict=True))
    assert all(port in block.text for port in ports)
    code = re.sub("|".join(ports), lambda found: ports[found[0]], block.text)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    env = {**ENV, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    # In a session of its own, so that nothing that it starts outlives a failure.
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=tmp_path,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        try:
            said, complaints = child.communicate(timeout=120)
            assert child.returncode == 0, complaints
            (log,) = tmp_path.glob("tmp.*/gateway.log")
            until(lambda: '"resumes":1' in log.read_text(), "the log tells of a resume")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)

    count, *series = said.splitlines()
    assert count == "10"
    assert sum(float(line.rpartition(" ")[2]) for line in series if 'result="resumed"' in line) > 0
    answers = [streamed(file.read_text()) for file in tmp_path.glob("tmp.*/*.txt")]
    assert len(answers) == 10
    assert len(set(answers)) == 1


@pytest.mark.parametrize("block", README.blocks("python"), ids=lambda block: block.text[:30])
def test_a_python_example(gateway: str, block: Block) -> None:
    """The SDK example prints an answer with its usage, and then a streamed one."""
    whole, streamed = run([sys.executable, "-c"], gateway, block.text).splitlines()

    assert whole.startswith("Simulated")
    assert "completion_tokens=32" in whole
    assert streamed.startswith("Simulated")


def test_there_are_examples_of_each_kind() -> None:
    """The tests above have something to run."""
    assert (len(ASKING), len(SEEING), len(KILLING)) == (2, 1, 1)
    assert [len(README.blocks(language)) for language in ("python", "yaml")] == [1, 2]


@pytest.mark.parametrize("name", ["README.md", "docs/configuration.md"])
def test_a_configuration_example_is_valid(name: str, tmp_path: Path) -> None:
    """`sluice check` accepts the page's YAML as it stands."""
    (block,) = (block for block in page(name).blocks("yaml") if "clusters:" in block.text)
    file = tmp_path / "sluice.yaml"
    file.write_text(block.text)
    argv = [sys.executable, "-m", "gateway", "check", "-c", str(file)]
    done = subprocess.run(
        argv, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout
    assert "is valid" in done.stdout


def test_make_run_starts_what_the_examples_run_against() -> None:
    """The fixture above and `make run` start the same command, and the README's port is its own."""
    makefile = (ROOT / "Makefile").read_text()

    assert "$(BIN)/sluice up --port $(PORT)" in makefile
    assert f"PORT ?= {SHOWN.rpartition(':')[2]}" in makefile

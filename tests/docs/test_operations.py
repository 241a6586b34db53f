"""The operators' page does what it says: its examples are run against a gateway, in their order."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from gateway.config.server import Admin, Server
from gateway.control.admin import build_admin
from gateway.control.admin_models import EndpointBody
from gateway.host import FORCE_S
from gateway.upstream.endpoint import State
from tests.support.markdown import ROOT, coded, page
from tests.support.process import Served, sim, sluice, until

OPERATIONS = page("docs/operations.md")
SHOWN = "http://127.0.0.1:9090"
"""The listener's address in the examples."""

ENV = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}

FILE = """
server: {{drain_delay_s: 0, admin: {{port: 0}}, max_event_loop_lag_s: 60}}
clusters:
  chat:
    registration: true
    endpoints: [{{url: "http://{engine}"}}]
models:
  llama: {{cluster: chat, upstream_model: sim}}
"""


@dataclass(frozen=True)
class Stage:
    """A gateway with a file, and what its examples' names stand for."""

    gateway: Served
    admin: str
    names: dict[str, str]

    def run(self, code: str) -> list[dict[str, object]]:
        """Run a block, and return the JSON values that it prints."""
        for shown, real in {SHOWN: self.admin, **self.names}.items():
            code = code.replace(shown, real)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            env=ENV,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        decoder, values, text = json.JSONDecoder(), [], done.stdout.strip()
        while text:
            value, end = decoder.raw_decode(text)
            values.append(value)
            text = text[end:].strip()
        return values


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """Run two engines, and a gateway whose file lists the first."""
    with ExitStack() as stack:
        engines = [stack.enter_context(sim("--served-model-name", "sim")) for _ in range(2)]
        first, third = (url.removeprefix("http://") for url in (one.url for one in engines))
        file = folder / "sluice.yaml"
        file.write_text(FILE.format(engine=first))
        gateway = stack.enter_context(sluice("-c", file, model="llama"))
        said = re.search(r"admin API on (\S+)", "".join(gateway.lines))
        assert said is not None
        yield Stage(gateway, said[1], {"gpu-1:8000": first, "gpu-3:8000": third})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One gateway for all examples but the one that ends it."""
    with staged(tmp_path_factory.mktemp("operations")) as found:
        yield found


def example(word: str) -> str:
    """Return the one block of curl lines that has a word in it."""
    (found,) = (block.text for block in OPERATIONS.blocks("bash") if word in block.text)
    return found


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are curl's")


@needs_curl
def test_endpoints_are_listed_with_the_fields_that_the_page_shows(stage: Stage) -> None:
    """The sample has each field that there is, and a listing the same ones in the same order."""
    (sample,) = (json.loads(block.text) for block in OPERATIONS.blocks("json"))
    (listed,) = stage.run("curl -sf http://127.0.0.1:9090/admin/endpoints\n")

    assert "curl -sf http://127.0.0.1:9090/admin/endpoints\n" in [
        block.text for block in OPERATIONS.blocks("bash")
    ]
    assert list(sample["endpoints"][0]) == list(EndpointBody.model_fields)
    assert list(listed["endpoints"][0]) == list(EndpointBody.model_fields)  # type: ignore[index]  # JSON
    EndpointBody.model_validate(sample["endpoints"][0])


@needs_curl
def test_an_engine_is_taken_out_and_let_in_again(stage: Stage) -> None:
    """Drained, it says so until it is undrained."""
    drained, shown, undrained = stage.run(example("/undrain"))

    assert [one["draining"] for one in (drained, shown, undrained)] == [True, True, False]
    assert [one["state"] for one in (drained, shown)] == ["draining", "draining"]


@needs_curl
def test_a_reload_says_what_is_in_effect(stage: Stage) -> None:
    """The file has not changed, so that the first generation stays."""
    reloaded, config = stage.run(example("/admin/reload"))

    assert (reloaded["result"], reloaded["generation"]) == ("unchanged", 1)
    assert (config["generation"], config["last_error"]) == (1, [])


@needs_curl
def test_an_endpoint_registers_and_goes(stage: Stage) -> None:
    """It is there with its lease, and then no more."""
    registered, removed = stage.run(example("-X DELETE"))

    assert registered["id"] == stage.names["gpu-3:8000"]
    assert 0 < float(str(registered["expires_in_s"])) <= 30
    assert removed == {"status": "removed"}
    with httpx.Client(trust_env=False) as http:
        listed = http.get(f"{stage.admin}/admin/endpoints").json()["endpoints"]
    assert [one["id"] for one in listed] == [stage.names["gpu-1:8000"]]


@needs_curl
def test_liveness_is_told(stage: Stage) -> None:
    """The example's answer is that of a gateway that is well."""
    (alive,) = stage.run(example("/livez"))

    assert alive["status"] == "alive"


def test_an_admin_drain_ends_the_process(tmp_path: Path) -> None:
    """As SIGTERM does: readiness says 503 as long as anybody listens, and the exit code is 0."""
    with staged(tmp_path) as stage, httpx.Client(trust_env=False) as http:
        answer = http.post(f"{stage.admin}/admin/drain")
        assert (answer.status_code, answer.json()) == (202, {"status": "draining"})

        def is_gone() -> bool:
            try:
                ready = httpx.get(f"{stage.gateway.url}/readyz", trust_env=False)
            except httpx.TransportError:
                return True
            assert ready.status_code == 503
            return False

        until(is_gone, "the listener is closed")


def test_every_example_is_run() -> None:
    """The tests above find each block of curl lines, and each asks the operators' listener."""
    blocks = [block.text for block in OPERATIONS.blocks("bash")]

    assert len(blocks) == 5
    assert all(SHOWN in block for block in blocks)


class Nothing:
    """Stands in for what the routes would ask; the description needs none of it."""


def test_the_page_lists_every_admin_route() -> None:
    """The table of routes is the app's own, no more and no fewer."""
    nothing: object = Nothing()
    app = build_admin(nothing, nothing, nothing, None, nothing, nothing)  # type: ignore[arg-type]  # nobody asks it
    own = {
        f"{method.upper()} {path}"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    listed = [coded(row[0])[0] for row in OPERATIONS.table("route")]

    assert sorted(listed) == sorted(own)


def test_the_page_names_every_state_and_the_listener_s_address() -> None:
    """The states of an endpoint are those of the code, and the address is the default one."""
    assert set(State) <= set(OPERATIONS.code())
    assert f"http://{Admin().host}:{Admin().port}" == SHOWN


def test_what_a_diff_prints_is_what_it_prints(tmp_path: Path) -> None:
    """`sluice diff` of two files that differ so gives the lines on the page, and says 1."""
    (shown,) = OPERATIONS.blocks("text")
    engines = [{"url": f"http://gpu-{number}:8000"} for number in (1, 2, 3)]
    cluster = {"endpoints": engines[:2], "timeouts": {"idle_s": 30}}
    old = {"server": {"port": 8000}, "clusters": {"chat": cluster}}
    changed = {"endpoints": engines, "timeouts": {"idle_s": 20}}
    new = {"server": {"port": 8080}, "clusters": {"chat": changed}}
    files = [tmp_path / "old.yaml", tmp_path / "new.yaml"]
    for file, config in zip(files, (old, new), strict=True):
        file.write_text(yaml.safe_dump(config))
    argv = [sys.executable, "-m", "gateway", "diff", *map(str, files)]
    done = subprocess.run(
        argv, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.stdout, done.returncode) == (shown.text, 1)


def test_the_listener_s_configuration_is_valid(tmp_path: Path) -> None:
    """The example of `server.admin` is accepted with a token, and refused without one."""
    block = OPERATIONS.blocks("yaml")[0].text
    file = tmp_path / "sluice.yaml"
    file.write_text(block + "clusters:\n  one:\n    endpoints: [{url: 'http://gpu-1:8000'}]\n")
    argv = [sys.executable, "-m", "gateway", "check", "-c", str(file)]
    for token, code in (("secret", 0), ("", 1)):
        env = {**ENV, "SLUICE_ADMIN_TOKEN": token}
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, timeout=60, check=False)
        assert done.returncode == code, done.stdout


def test_kubernetes_waits_long_enough() -> None:
    """The grace period is longer than the delay, the drain and the second for last errors."""
    pod = yaml.safe_load(OPERATIONS.blocks("yaml")[1].text)

    server = Server()
    grace_s = pod["terminationGracePeriodSeconds"]
    assert grace_s > server.drain_delay_s + server.drain_s + FORCE_S
    (container,) = pod["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": 8000}
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": Admin().port}

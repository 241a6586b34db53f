"""The vision page does what it says: its examples are run, and its tables are those of the code."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.core import CounterMetricFamily

from gateway.cli.announce import SEVEN
from scripts.vision_reference import PAGE, reference, with_reference
from tests.support.markdown import ROOT, coded, page
from tests.support.process import server
from vision import errors
from vision.api.http import others
from vision.api.view import Life, View
from vision.config import ModelConfig
from vision.telemetry import Telemetry

VISION = page("docs/vision.md")
SHOWN = "http://127.0.0.1:8000"
ENV = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}


def ready(line: str) -> str | None:
    found = re.search(r"Sluice is ready at (\S+)", line)
    return found[1] if found else None


def service_behind(gateway: str) -> str:
    """The address of the vision service that the gateway knows."""
    listed = httpx.get(f"{gateway}/health", trust_env=False).json()["endpoints"]["list"]
    (address,) = (one["id"] for one in listed if one["cluster"] == "vision")
    return f"http://{address}"


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """What `sluice up` starts, on a free port."""
    argv = [sys.executable, "-m", "gateway", "up", "--port", "0", "--replicas", "1"]
    with server(argv, ready, stream="stdout", env={"PYTHONUNBUFFERED": "1"}) as served:
        yield served.url


@pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are curl's")
def test_the_examples_see_a_seven(gateway: str, tmp_path: Path) -> None:
    """All forms of bodies in turn, in one folder, where the first example leaves its image."""
    *blocks, direct = [block.text for block in VISION.blocks("bash")]
    assert len(blocks) == 5
    answers: list[dict[str, Any]] = []
    for block in blocks:
        assert SHOWN in block
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.replace(SHOWN, gateway)],
            cwd=tmp_path,
            env=ENV,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    *single, several = answers
    assert [one["predictions"][0]["class"] for one in single] == ["7"] * 4
    assert [len(one["predictions"]) for one in single] == [3, 1, 1, 1]
    assert [list(one) for one in several["results"]] == [
        ["predictions"],
        ["error"],
        ["predictions"],
    ]
    assert "http://127.0.0.1:8001/v2/" in direct
    asked = direct.replace("http://127.0.0.1:8001", service_behind(gateway))
    done = subprocess.run(["bash", "-c", asked], env=ENV, capture_output=True, check=True)
    assert json.loads(done.stdout)["outputs"][0]["shape"] == [1, 10]
    (python,) = (block.text.replace(SHOWN, gateway) for block in VISION.blocks("python"))
    argv = [sys.executable, "-c", python]
    done = subprocess.run(argv, env=ENV, cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == b"7\n"
    shown = json.loads(VISION.blocks("json")[0].text)
    assert list(single[0]) == list(shown)
    assert shown["predictions"][0]["class"] == "7"


def test_the_image_is_that_of_sluice_up() -> None:
    """The page and the announcement show the same digit."""
    text = VISION.blocks("bash")[0].text.replace("\\\n", "")
    assert SEVEN.partition(",")[2] in text


def test_the_reference_is_current() -> None:
    """Between its marks stands what scripts/vision_reference.py would write."""
    text = PAGE.read_text()

    assert text == with_reference(text, reference())


def test_configurations_on_the_page_are_valid(tmp_path: Path) -> None:
    """Those of models by the service's own rules, that of the gateway by `sluice check`."""
    for block in VISION.blocks("yaml"):
        if "clusters:" not in block.text:
            ModelConfig.model_validate(yaml.safe_load(block.text))
            continue
        file = tmp_path / "sluice.yaml"
        file.write_text(block.text)
        argv = [sys.executable, "-m", "gateway", "check", "-c", str(file)]
        done = subprocess.run(
            argv, cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout


def raised() -> set[tuple[int, str]]:
    """Return (status, code) of every error that the service's source makes."""
    kinds = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.VisionError)
    }
    found = {(kind.status, kind.default_code) for kind in kinds.values()}
    for path in (ROOT / "vision").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                for each in node.keywords:
                    if each.arg == "code" and isinstance(each.value, ast.Constant):
                        kind = kinds.get(node.func.id, errors.BadInput)
                        found.add((kind.status, str(each.value.value)))
    return found


def test_every_error_is_documented() -> None:
    """The table has every status and code that the source can make, and no other."""
    listed = [(int(row[0]), coded(row[1])[0]) for row in VISION.table("status")]

    assert sorted(listed) == sorted(raised())
    assert [status for status, _ in listed] == sorted(status for status, _ in listed)


class Nothing:
    """Stands in for the repository; the description needs none of it."""


def test_every_route_is_documented() -> None:
    """The table of routes is that of the OpenAPI page, and that page itself."""
    nothing: Any = Nothing()
    paths = others(View(nothing, Life(), "0"), Telemetry(list)).openapi()["paths"]
    own = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    listed = [coded(row[0])[0] for row in VISION.table("route")]

    assert sorted(listed) == sorted(own | {"GET /openapi.json"})


def test_every_metric_is_documented() -> None:
    """With its labels; those of a GPU have one."""
    telemetry = Telemetry(list)
    exposed = {
        family.name + ("_total" if isinstance(family, CounterMetricFamily) else ""): set(
            family._labelnames  # type: ignore[attr-defined]  # it may have no sample to read them from
        )
        for family in telemetry.families()
    }
    listed = {
        coded(row[0])[0]: set(coded(re.sub(r"\(.*?\)", "", row[1])))
        for row in VISION.table("metric")
    }
    gpus = {name: labels for name, labels in listed.items() if name.startswith("sluice_vision_gpu")}
    source = (ROOT / "vision/telemetry.py").read_text()

    assert {name: labels for name, labels in listed.items() if name not in gpus} == {
        name: labels for name, labels in exposed.items() if not name.startswith("sluice_vision_gpu")
    }
    assert set(gpus) == set(re.findall(r'"(sluice_vision_gpu\w+)"', source))
    assert all(labels == {"gpu"} for labels in gpus.values())

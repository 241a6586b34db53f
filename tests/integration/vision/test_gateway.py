"""Real vision services behind a real gateway: one more cluster, with all that clusters have."""

from __future__ import annotations

import base64
import collections
import io
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.support.process import (
    ROOT,
    Served,
    ready_line,
    server,
    sim,
    sluice,
    until,
    wait_for_model,
)

pytestmark = pytest.mark.integration

with np.load(ROOT / "tests/data/digits-held-out.npz") as _held_out:
    DIGITS = list(
        zip(_held_out["images"][30:54], map(str, _held_out["labels"][30:54]), strict=True)
    )

MODELS = ROOT / "vision/models"


def png(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


@dataclass(frozen=True)
class Service:
    """A vision service that a test may kill."""

    url: str
    child: subprocess.Popen[str]

    def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)


@contextmanager
def service(repository: Path = MODELS) -> Iterator[Service]:
    """Run one on a free port; it is killed at the end, if it is not dead by then."""
    argv = [sys.executable, "-m", "vision", "serve", "--repository", str(repository)]
    with subprocess.Popen(
        [*argv, "--port", "0", "--ready-line"], cwd=ROOT, text=True, stdout=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout is not None
            url = ready_line(child.stdout.readline())
            assert url is not None
            yield Service(url, child)
        finally:
            child.kill()


def configure(folder: Path, services: list[Service], engine: Served, **top: Any) -> Path:
    """Write a configuration with the services in one cluster and an engine in another."""
    quick = {"interval_s": 0.2, "timeout_s": 1, "rise": 1}
    file = folder / "sluice.yaml"
    names = {"digits", "digits-fp16", "digits-int8"}
    config = {
        "server": {"admin": {"port": 0}, "route_header": True},
        "clusters": {
            "seeing": {
                "kind": "vision",
                "endpoints": [{"url": one.url} for one in services],
                "health": quick,
                "slow_start_s": 0,
            },
            "talking": {"kind": "llm", "endpoints": [{"url": engine.url}], "health": quick},
        },
        "models": {
            **{name: {"cluster": "seeing"} for name in sorted(names)},
            "seer": {
                "cluster": "seeing",
                "upstream_model": "digits",
                "aliases": ["org/seer v2"],
                "fallbacks": ["digits-int8"],
            },
            "chat": {"cluster": "talking", "upstream_model": "sim"},
        },
        "logging": {"access": str(folder / "access.log")},
        "discovery": {"interval_s": 0.2},
        **top,
    }
    file.write_text(yaml.safe_dump(config))
    return file


@dataclass(frozen=True)
class Stage:
    """A gateway in front of two vision services and a simulated engine."""

    gateway: Served
    http: httpx.Client
    folder: Path


@pytest.fixture(scope="module")
def services() -> Iterator[list[Service]]:
    with ExitStack() as stack:
        yield [stack.enter_context(service()) for _ in range(2)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Served]:
    with sim("--served-model-name", "sim") as served:
        yield served


@pytest.fixture(scope="module")
def stage(
    services: list[Service], engine: Served, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    with (
        sluice("-c", configure(folder, services, engine), model="digits") as gateway,
        httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as http,
    ):
        until(lambda: healthy(http) == 3, "all endpoints are well")
        yield Stage(gateway, http, folder)


def healthy(http: httpx.Client) -> int:
    return int(http.get("/health").json()["endpoints"]["healthy"])


def as_json(http: httpx.Client, model: str, image: bytes) -> httpx.Response:
    text = base64.b64encode(image).decode()
    return http.post("/v1/predict", json={"model": model, "inputs": {"image": text}})


def as_data_url(http: httpx.Client, model: str, image: bytes) -> httpx.Response:
    text = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    return http.post("/predict", json={"inputs": {"image": text}, "model": model})


def as_form(http: httpx.Client, model: str, image: bytes) -> httpx.Response:
    files = {"image": ("digit.png", image, "image/png")}
    return http.post("/v1/predict", data={"model": model, "top_k": "2"}, files=files)


def as_image(http: httpx.Client, model: str, image: bytes) -> httpx.Response:
    params = {"model": model, "top_k": "2"}
    kind = {"content-type": "image/png"}
    return http.post("/predict", params=params, content=image, headers=kind)


@pytest.mark.parametrize("ask", [as_json, as_data_url, as_form, as_image])
@pytest.mark.parametrize("model", ["digits", "org/seer v2", "digits-int8"])
def test_digits_that_no_training_has_seen_are_read(stage: Stage, ask: Any, model: str) -> None:
    """In every form of body, under the client's name, with the request's id as trace."""
    for pixels, label in DIGITS:
        answer = ask(stage.http, model, png(pixels))
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert said["predictions"][0]["class"] == label
        assert said["model"] == model
        assert said["trace_id"] == answer.headers["x-request-id"]
        assert said["latency_ms"] > 0


def test_a_photo_of_megabytes_passes_in_every_form(stage: Stage) -> None:
    """However its bytes are wrapped, it is read as the same image."""
    pixels = np.random.default_rng(1).integers(0, 256, (1300, 1300, 3), np.uint8)
    image = png(pixels)
    assert len(image) > 5_000_000
    said = [
        ask(stage.http, "seer", image).json()["predictions"][0]
        for ask in (as_json, as_data_url, as_form, as_image)
    ]
    assert said == [said[0]] * 4


def test_several_images_are_one_request(stage: Stage) -> None:
    """In their order; one that is no image fails alone."""
    items = [{"image": base64.b64encode(png(pixels)).decode()} for pixels, _ in DIGITS[:3]]
    items[1] = {"image": base64.b64encode(b"no image").decode()}
    said = stage.http.post("/v1/predict", json={"model": "seer", "inputs": items}).json()
    assert said["model"] == "seer"
    assert [("error" in one) for one in said["results"]] == [False, True, False]
    assert said["results"][2]["predictions"][0]["class"] == DIGITS[2][1]


def test_a_trace_is_carried_through(stage: Stage) -> None:
    """A client's own trace and id are those of the service."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    body = {"model": "digits", "inputs": {"image": base64.b64encode(png(DIGITS[0][0])).decode()}}
    fields = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "x-request-id": "mine"}
    answer = stage.http.post("/predict", json=body, headers=fields)
    assert answer.json()["trace_id"] == trace
    assert answer.headers["x-request-id"] == "mine"


def test_the_service_s_refusals_pass(stage: Stage) -> None:
    """Its words and codes, with its status, after one attempt."""
    refused = as_json(stage.http, "digits", b"no image")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_image")
    assert "x-sluice-attempts" not in refused.headers
    for url in ("http://127.0.0.1:22/x.png", "http://169.254.169.254/", "file:///etc/passwd"):
        body = {"model": "digits", "inputs": {"image": url}}
        inside = stage.http.post("/predict", json=body)
        assert (inside.status_code, inside.json()["error"]["code"]) == (400, "url_refused")
    body = {"model": "digits", "version": "9", "inputs": {"image": "AAAA"}}
    unknown = stage.http.post("/predict", json=body)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_each_kind_has_its_routes(stage: Stage) -> None:
    """A model of images does not chat, and the other way round; both are listed with their kind."""
    chat = {"model": "digits", "messages": [{"role": "user", "content": "hi"}]}
    for path, body in (("/v1/chat/completions", chat), ("/predict", {**chat, "model": "chat"})):
        answer = stage.http.post(path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "wrong_route")
    fine = stage.http.post("/v1/chat/completions", json={**chat, "model": "chat", "max_tokens": 2})
    assert fine.status_code == 200
    kinds = {one["id"]: one["kind"] for one in stage.http.get("/v1/models").json()["data"]}
    assert (kinds["seer"], kinds["org/seer v2"], kinds["chat"]) == ("vision", "vision", "llm")


def test_predictions_are_counted_and_logged_without_images(stage: Stage) -> None:
    """Under the route `predict` and the model's own name; no piece of an image is in the log."""
    image = base64.b64encode(png(DIGITS[5][0])).decode()
    stage.http.post("/predict", json={"model": "org/seer v2", "inputs": {"image": image}})
    metrics = stage.http.get("/metrics").text
    assert 'sluice_requests_total{model="seer",outcome="success",route="predict"}' in metrics
    log = stage.folder / "access.log"
    until(lambda: log.exists() and '"model":"org/seer v2"' in log.read_text(), "it is logged")
    text = log.read_text() + "".join(stage.gateway.lines)
    assert image[40:60] not in text
    line = json.loads(next(line for line in text.splitlines() if "org/seer v2" in line))
    assert (line["route"], line["outcome"], line["stream"]) == ("predict", "success", False)


def test_a_service_that_is_killed_costs_nobody_an_answer(engine: Served, tmp_path: Path) -> None:
    """kill -9 for one of two under load: every request is answered, and rightly."""
    with ExitStack() as stack:
        pair = [stack.enter_context(service()) for _ in range(2)]
        file = configure(tmp_path, pair, engine)
        gateway = stack.enter_context(sluice("-c", file, model="digits"))
        probe = stack.enter_context(httpx.Client(base_url=gateway.url, trust_env=False))
        until(lambda: healthy(probe) == 3, "all endpoints are well")
        answers: collections.Counter[int] = collections.Counter()
        over = threading.Event()

        def keep_asking(number: int) -> None:
            ask = (as_json, as_form, as_image)[number % 3]
            with httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as http:
                while not over.is_set():
                    pixels, label = DIGITS[number % len(DIGITS)]
                    answer = ask(http, "digits", png(pixels))
                    well = answer.status_code == 200
                    answers[answer.status_code] += 1
                    assert not well or answer.json()["predictions"][0]["class"] == label

        threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: answers[200] > 100, "both serve")
        pair[0].kill()
        at = answers.total()
        until(lambda: answers.total() > at + 300, "the other one goes on")
        over.set()
        for thread in threads:
            thread.join()
        assert set(answers) == {200}
        until(lambda: healthy(probe) == 2, "the dead one is out")


def test_policies_apply(services: list[Service], engine: Served, tmp_path: Path) -> None:
    """A split by model, seen in the route header; a mirror that tells how like the copies were."""
    policies = {
        "precision": {
            "match": {"models": ["digits"], "routes": ["predict"]},
            "split": {
                "by": "request",
                "arms": [
                    {"name": "fp32", "model": "digits"},
                    {
                        "name": "int8",
                        "model": "digits-int8",
                        "override": {"body": {"parameters": {"top_k": 1}}},
                    },
                ],
                "metrics": ["success_rate", "latency"],
            },
        },
        "shadow": {
            "match": {"models": ["seer"]},
            "mirror": {"to": {"model": "digits-fp16"}, "max_concurrency": 64},
        },
        "talk": {"match": {"percent": 100}, "route": {"cluster": "talking"}, "order": 9},
    }
    for name, policy in policies.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, **policy}))
    names = [str(tmp_path / f"{name}.yaml") for name in policies]
    file = configure(tmp_path, services, engine, policies=names)
    with (
        sluice("-c", file, model="digits") as gateway,
        httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as http,
    ):
        until(lambda: healthy(http) == 3, "all endpoints are well")
        arms: collections.Counter[str] = collections.Counter()
        for pixels, label in DIGITS * 2:
            answer = as_json(http, "digits", png(pixels))
            arm = re.search(r"arm=(\w+)", answer.headers["x-sluice-route"])
            assert arm is not None
            arms[arm[1]] += 1
            said = answer.json()
            assert (said["model"], said["predictions"][0]["class"]) == ("digits", label)
            assert len(said["predictions"]) == (1 if arm[1] == "int8" else 3)
        assert min(arms["fp32"], arms["int8"]) > 5

        turns = itertools.cycle(itertools.product((as_json, as_form, as_image), DIGITS[:8]))
        found = re.search(r"admin API on (\S+)", "".join(gateway.lines))
        assert found is not None
        admin = found[1]

        def compared() -> dict[str, Any]:
            """Ask once more, for where the machine is busy copies yield."""
            ask, (pixels, _) = next(turns)
            assert ask(http, "seer", png(pixels)).status_code == 200
            shown = httpx.get(f"{admin}/admin/policies/shadow", trust_env=False).json()
            rows = (shown.get("mirror") or {}).get("rows", [])
            return {row["metric"]: row for row in rows}

        until(lambda: compared().get("top1", {}).get("n", 0) >= 20, "copies are compared")
        rows = compared()
        assert rows["top1"]["mean"] == 1.0
        assert rows["failed"]["mean"] == 0.0
        shown = http.post("/v1/chat/completions", json={"model": "chat", "messages": []})
        assert shown.headers["x-sluice-route"].startswith("policy=talk")


def test_a_vision_service_is_found_by_discovery(services: list[Service], engine: Served) -> None:
    """Without a file: what endpoints list says what they are, beside a language model's engine."""
    urls = [services[0].url, engine.url, services[1].url]
    arguments = [text for url in urls for text in ("--endpoint", url)]
    with (
        sluice(*arguments, model="digits") as gateway,
        httpx.Client(base_url=gateway.url, trust_env=False, timeout=30) as http,
    ):
        wait_for_model(gateway.url, "sim")
        pixels, label = DIGITS[3]
        answer = as_image(http, "digits", png(pixels))
        assert answer.json()["predictions"][0]["class"] == label
        wrong = http.post("/v1/completions", json={"model": "digits", "prompt": "x"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "wrong_route")
        fine = http.post("/v1/completions", json={"model": "sim", "prompt": "x", "max_tokens": 1})
        assert fine.status_code == 200


def announced(line: str) -> str | None:
    found = re.search(r"Sluice is ready at (\S+)", line)
    return found[1] if found else None


def test_up_starts_the_vision_service_too() -> None:
    """The line that it prints can be pasted, and answers with a seven."""
    argv = [sys.executable, "-m", "gateway", "up", "--port", "0", "--replicas", "1"]
    with server(argv, announced, stream="stdout", env={"PYTHONUNBUFFERED": "1"}) as served:
        until(lambda: any("Ctrl-C" in line for line in served.lines), "all is announced")
        (line,) = [line for line in served.lines if line.startswith("curl") and "predict" in line]
        words = shlex.split(line)
        assert words[:3] == ["curl", f"{served.url}/v1/predict", "-d"]
        kind = {"content-type": "application/x-www-form-urlencoded"}  # As curl says of `-d`.
        answer = httpx.post(words[1], content=words[3], headers=kind, trust_env=False)
        (best, *_) = answer.json()["predictions"]
        assert best["class"] == "7"
        assert best["confidence"] > 0.9


def test_up_ends_when_the_vision_service_dies() -> None:
    """With its name and the way it ended."""
    argv = [sys.executable, "-m", "gateway", "up", "--port", "0", "--replicas", "1"]
    with subprocess.Popen(
        argv,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as child:
        try:
            assert child.stdout is not None
            lines = []
            for line in child.stdout:
                lines.append(line)
                if "Ctrl-C stops" in line:
                    break
            pids = subprocess.run(
                ["ps", "-o", "pid=,args=", "--ppid", str(child.pid)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            (pid,) = [int(row.split()[0]) for row in pids.splitlines() if "-m vision" in row]
            os.kill(pid, signal.SIGKILL)
            rest, _ = child.communicate(timeout=30)
            assert child.returncode == 1
            assert "vision ended (SIGKILL)" in rest
        finally:
            child.kill()

"""The service over HTTP, as clients meet it: tritonclient, httpx and what no client should send."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support import triton
from tests.support.process import until
from tests.support.vision_service import Service, digit, service, text
from vision.images import ImageLimits, decode

pytestmark = pytest.mark.integration

PNG, LABEL = digit(0)


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service("--max-body-mb", "1") as found:
        yield found


@pytest.fixture(scope="module")
def http(running: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    image = tmp_path_factory.mktemp("triton") / "image.json"
    pixels = np.asarray(decode(PNG, ImageLimits())) / 255
    image.write_text(json.dumps(pixels.ravel().tolist()))
    with service("--control", "explicit", "--load", "digits") as found:
        address = found.url.removeprefix("http://")
        yield triton.told(triton.environment(), "http", address, image)


class TestTritonsClient:
    def test_it_finds_the_service_and_the_model_ready(self, told: dict[str, Any]) -> None:
        assert all(told[key] for key in ("live", "ready", "model_ready", "version_ready"))
        (image,) = told["metadata"]["inputs"]
        assert image == {"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}

    def test_the_model_knows_the_digit(self, told: dict[str, Any]) -> None:
        assert str(np.argmax(told["logits"][0])) == LABEL
        assert told["id"] == "mine"

    def test_bytes_and_json_say_the_same(self, told: dict[str, Any]) -> None:
        np.testing.assert_allclose(told["as_json"], told["logits"], rtol=1e-5)
        np.testing.assert_allclose(told["two"], told["logits"] * 2, rtol=1e-5)
        np.testing.assert_allclose(told["json_output"], told["two"], rtol=1e-5)

    @pytest.mark.parametrize(
        ("case", "status"),
        [
            ("wrong_shape", "400"),
            ("unknown_model", "404"),
            ("unknown_version", "404"),
            ("load_unknown", "404"),
        ],
    )
    def test_errors_have_their_status(self, told: dict[str, Any], case: str, status: str) -> None:
        assert told[case][0] == status

    def test_models_are_unloaded_and_loaded_by_request(self, told: dict[str, Any]) -> None:
        assert (told["after_unload"], told["after_load"]) == (False, True)


class TestPredict:
    @pytest.mark.parametrize("model", ["digits", "digits-fp16", "digits-int8"])
    def test_every_precision_knows_the_digit(self, http: httpx.Client, model: str) -> None:
        body = {"model": model, "inputs": {"image": text(PNG)}, "parameters": {"top_k": 2}}
        answer = http.post("/v1/predict", json=body).raise_for_status().json()
        assert answer["predictions"][0]["class"] == LABEL
        assert len(answer["predictions"]) == 2
        assert answer["predictions"][0]["confidence"] > 0.5
        assert (answer["model"], answer["version"]) == (model, "1")

    def test_a_form_of_curls(self, http: httpx.Client) -> None:
        files = [("image", ("a.png", PNG)), ("image", ("b.png", digit(1)[0]))]
        answer = http.post("/predict", data={"model": "digits"}, files=files).json()
        classes = [one["predictions"][0]["class"] for one in answer["results"]]
        assert classes == [LABEL, digit(1)[1]]

    def test_an_image_as_the_body(self, http: httpx.Client) -> None:
        answer = http.post(
            "/v1/predict?model=digits&top_k=1", content=PNG, headers={"content-type": "image/png"}
        )
        assert [one["class"] for one in answer.json()["predictions"]] == [LABEL]

    def test_what_curl_says_of_d_is_read_as_json(self, http: httpx.Client) -> None:
        body = json.dumps({"model": "digits", "inputs": {"image": text(PNG)}})
        urlencoded = {"content-type": "application/x-www-form-urlencoded"}
        assert http.post("/v1/predict", content=body, headers=urlencoded).status_code == 200

    def test_a_bad_item_fails_alone(self, http: httpx.Client) -> None:
        items = [{"image": text(PNG)}, {"image": text(PNG[:40])}, {"image": "http://10.0.0.1/"}]
        answer = http.post("/v1/predict", json={"model": "digits", "inputs": items})
        first, second, third = answer.json()["results"]
        assert answer.status_code == 200
        assert first["predictions"][0]["class"] == LABEL
        assert (second["error"]["code"], second["error"]["param"]) == (
            "invalid_image",
            "inputs[1].image",
        )
        assert third["error"]["code"] == "url_refused"

    def test_when_all_items_fail_so_does_the_request(self, http: httpx.Client) -> None:
        items = [{"image": "!"}, {"image": text(b"no image")}]
        answer = http.post("/v1/predict", json={"model": "digits", "inputs": items})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_base64"
        assert len(answer.json()["results"]) == 2

    def test_ids_come_back(self, http: httpx.Client) -> None:
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        answer = http.post(
            "/v1/predict",
            json={"model": "digits", "inputs": {"image": text(PNG)}},
            headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-request-id": "mine"},
        )
        assert (answer.json()["trace_id"], answer.headers["x-request-id"]) == (trace, "mine")


JSON = {"content-type": "application/json"}
GOOD = {"image": text(PNG)}
NAN = '{"model": "digits", "inputs": {"image": [[[NaN]]]}}'
ROW = [[[0.5] * 8] * 8]
SHORT = [[[0.5] * 7] * 8]
CASES: dict[str, tuple[int, str, Any]] = {
    "no JSON": (400, "invalid_json", "{"),
    "not a number": (400, "invalid_json", NAN),
    "no object": (400, "invalid_request", "[]"),
    "no model": (400, "missing_model", {"inputs": GOOD}),
    "no inputs": (400, "invalid_request", {"model": "digits"}),
    "a field too many": (400, "invalid_request", {"model": "digits", "input": GOOD}),
    "unknown model": (404, "model_not_found", {"model": "x", "inputs": GOOD}),
    "unknown version": (404, "model_not_found", {"model": "digits", "version": 9, "inputs": GOOD}),
    "no version": (400, "invalid_request", {"model": "digits", "version": "a", "inputs": GOOD}),
    "top_k of 0": (
        400,
        "invalid_request",
        {"model": "digits", "inputs": GOOD, "parameters": {"top_k": 0}},
    ),
    "no image": (400, "invalid_image", {"model": "digits", "inputs": {"image": text(b"hello")}}),
    "no bytes": (400, "invalid_image", {"model": "digits", "inputs": {"image": ""}}),
    "no base64": (400, "invalid_base64", {"model": "digits", "inputs": {"image": "***"}}),
    "a file": (400, "url_refused", {"model": "digits", "inputs": {"image": "file:///etc/passwd"}}),
    "metadata": (
        400,
        "url_refused",
        {"model": "digits", "inputs": {"image": "http://169.254.169.254/latest"}},
    ),
    "loopback": (400, "url_refused", {"model": "digits", "inputs": {"image": "http://[::1]/"}}),
    "wrong shape": (400, "invalid_tensor", {"model": "digits", "inputs": {"image": SHORT}}),
    "wrong tensor": (400, "invalid_tensor", {"model": "digits", "inputs": {"pixels": ROW}}),
    "an overflow": (
        400,
        "invalid_value",
        {"model": "digits", "inputs": {"image": [[[1e308] * 8] * 8]}},
    ),
    "65 items": (413, "request_too_large", {"model": "digits", "inputs": [GOOD] * 65}),
    "too deep": (400, "invalid_json", '{"model": "digits", "inputs": ' + "[" * 100_000),
    "too large": (413, "request_too_large", " " * (2**20 + 1)),
}


class TestBadInput:
    @pytest.mark.parametrize("case", CASES)
    def test_it_is_a_clear_4xx(self, http: httpx.Client, case: str) -> None:
        status, code, body = CASES[case]
        content = body if isinstance(body, str) else json.dumps(body)
        answer = http.post("/v1/predict", content=content, headers=JSON)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.json()["error"]["message"]

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/v1/predict", 405),
            ("DELETE", "/health", 405),
            ("GET", "/nothing", 404),
            ("GET", "/v2/nothing", 404),
            ("POST", "/v2/models/digits/load/infer", 404),
            ("POST", "/v2/repository/models/digits/load", 400),
        ],
    )
    def test_wrong_routes_and_methods(
        self, http: httpx.Client, method: str, path: str, status: int
    ) -> None:
        answer = http.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]
        assert ("allow" in answer.headers) == (status == 405)

    def test_a_content_type_that_nobody_reads(self, http: httpx.Client) -> None:
        for kind in ("text/plain", "application/xml"):
            answer = http.post("/v1/predict", content="x", headers={"content-type": kind})
            assert answer.status_code == 415

    def test_a_compressed_body(self, http: httpx.Client) -> None:
        answer = http.post("/v1/predict", content="x", headers={**JSON, "content-encoding": "gzip"})
        assert answer.status_code == 415

    def test_a_body_without_length_meets_the_same_cap(self, http: httpx.Client) -> None:
        answer = http.post("/v1/predict", content=iter([b" " * 2**19] * 3), headers=JSON)
        assert answer.status_code == 413

    def test_a_deadline_that_is_over(self, http: httpx.Client) -> None:
        answer = http.post(
            "/v1/predict",
            json={"model": "digits", "inputs": GOOD},
            headers={"x-request-timeout-ms": "0"},
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")

    def test_after_all_of_it_the_service_is_well(self, http: httpx.Client) -> None:
        assert http.get("/health").json()["status"] == "ok"


class TestOperations:
    def test_health_and_models(self, http: httpx.Client) -> None:
        health = http.get("/health").json()
        assert health["models_loaded"] == 3
        assert health["gpu_available"] is False
        assert health["uptime_seconds"] > 0
        listed = http.get("/v1/models").json()["data"]
        assert [one["id"] for one in listed] == ["digits", "digits-fp16", "digits-int8"]
        assert {one["owned_by"] for one in listed} == {"sluice-vision"}

    def test_metrics_know_each_stage_and_no_made_up_model(self, http: httpx.Client) -> None:
        http.post("/v1/predict", json={"model": "digits", "inputs": GOOD}).raise_for_status()
        http.post("/v1/predict", json={"model": "made-up", "inputs": GOOD})
        page = http.get("/metrics").text
        for stage in ("decode", "preprocess", "queue", "execute", "postprocess"):
            labels = f'model="digits",stage="{stage}",version="1"'
            count = page.partition(f"sluice_vision_stage_seconds_count{{{labels}}} ")[2]
            assert float(count.partition("\n")[0]) > 0
        assert "made-up" not in page
        assert 'sluice_vision_model_ready{model="digits",version="1"} 1.0' in page


def test_a_client_that_leaves_takes_its_request_along(running: Service) -> None:
    """A connection that closes amid its body is no error in the log, and nothing hangs."""
    host, _, port = running.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\n{")
    assert httpx.get(f"{running.url}/health", trust_env=False).status_code == 200


def test_on_sigterm_requests_end_and_health_says_so() -> None:
    """For as long as the delay lasts it still serves, but says that others should be asked."""
    with (
        service("--drain-delay-s", "2") as found,
        ThreadPoolExecutor() as pool,
        httpx.Client(base_url=found.url, trust_env=False) as client,
    ):
        body = {"model": "digits", "inputs": [GOOD] * 64}
        answers = [pool.submit(client.post, "/v1/predict", json=body) for _ in range(8)]
        os.kill(found.served.pid, signal.SIGTERM)
        until(lambda: client.get("/health").status_code == 503, "it is draining")
        assert client.get("/health").json()["status"] == "draining"
        assert client.post("/v1/predict", json=body).status_code == 200
        assert {answer.result().status_code for answer in answers} == {200}
        # It ends by itself; a second signal, which leaving this block sends, would end it at once.
        os.waitid(os.P_PID, found.served.pid, os.WEXITED | os.WNOWAIT)


def test_a_port_that_is_taken_is_one_clear_line(running: Service) -> None:
    port = running.url.rpartition(":")[2]
    argv = [sys.executable, "-m", "vision", "serve", "--port", port, "--grpc-port", "none"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert (
        ended.stderr.strip()
        .splitlines()[-1]
        .startswith(f"sluice vision serve: Cannot listen on 127.0.0.1:{port}")
    )

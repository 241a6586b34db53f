"""tritonclient's gRPC client against a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support import triton
from tests.support.vision_service import digit, service
from vision.images import ImageLimits, decode

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    image = tmp_path_factory.mktemp("triton") / "image.json"
    pixels = np.asarray(decode(digit(0)[0], ImageLimits())) / 255
    image.write_text(json.dumps(pixels.ravel().tolist()))
    with service("--control", "explicit", "--load", "digits") as running:
        yield triton.told(triton.environment(), "grpc", running.grpc, image)


def test_it_is_alive_and_ready(told: dict[str, Any]) -> None:
    assert all(told[key] for key in ("live", "ready", "model_ready", "version_ready"))
    assert told["server"]["name"] == "sluice-vision"


def test_metadata_describe_the_tensors_with_the_batch_axis(told: dict[str, Any]) -> None:
    (image,) = told["metadata"]["inputs"]
    assert image == {"name": "image", "datatype": "FP32", "shape": ["-1", "1", "8", "8"]}
    assert told["metadata"]["versions"] == ["1"]


def test_the_model_knows_the_digit(told: dict[str, Any]) -> None:
    assert str(np.argmax(told["logits"][0])) == digit(0)[1]
    assert told["id"] == "mine"


def test_two_rows_come_back_as_two(told: dict[str, Any]) -> None:
    np.testing.assert_allclose(told["two"], told["logits"] * 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("wrong_shape", "INVALID_ARGUMENT"),
        ("unknown_model", "NOT_FOUND"),
        ("unknown_version", "NOT_FOUND"),
        ("load_unknown", "NOT_FOUND"),
    ],
)
def test_errors_have_grpc_codes(told: dict[str, Any], case: str, code: str) -> None:
    assert told[case][0] == f"StatusCode.{code}"


def test_models_are_unloaded_and_loaded_by_request(told: dict[str, Any]) -> None:
    assert (told["after_unload"], told["after_load"]) == (False, True)


def test_the_index_says_why_a_model_is_not_there(told: dict[str, Any]) -> None:
    by_name = {entry["name"]: entry for entry in told["index"]["models"]}
    assert by_name["digits"]["state"] == "READY"
    assert by_name["digits-int8"]["state"] == "UNAVAILABLE"
    assert "not loaded" in by_name["digits-int8"]["reason"]

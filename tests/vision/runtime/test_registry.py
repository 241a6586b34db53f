"""Choice by file and order, and what happens when the first choice cannot."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support.fake_cuda import FakeCuda
from tests.support.fake_tensorrt import plan
from tests.support.onnx_models import write_digits
from vision.config import Instances, ModelConfig
from vision.errors import LoadError, MissingLibrary
from vision.runtime.registry import RUNTIMES, choose, load


def _config(*runtimes: str) -> ModelConfig:
    return ModelConfig.model_validate(
        {"runtimes": runtimes, "instances": {"device": "cpu"}} if runtimes else {}
    )


def test_every_configurable_runtime_is_there_under_its_name() -> None:
    assert set(RUNTIMES) == {"tensorrt", "onnx", "torch"}
    assert all(runtime.name == name for name, runtime in RUNTIMES.items())


def test_only_files_that_are_there_in_the_configured_order(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "model.pt2").touch()
    chosen = choose(tmp_path, _config("torch", "tensorrt", "onnx"))
    assert [(runtime.name, file.name) for runtime, file in chosen] == [
        ("torch", "model.pt2"),
        ("onnx", "model.onnx"),
    ]


def test_the_default_order_is_plan_onnx_pt2(tmp_path: Path) -> None:
    for name in ("model.pt2", "model.onnx", "model.plan"):
        (tmp_path / name).touch()
    assert [file.name for _, file in choose(tmp_path, ModelConfig())] == [
        "model.plan",
        "model.onnx",
        "model.pt2",
    ]


def test_a_file_that_cannot_be_loaded_is_logged_and_the_next_one_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model.plan").write_bytes(b"built for another machine")
    write_digits(tmp_path / "model.onnx")
    with caplog.at_level(logging.WARNING):
        loaded = load(tmp_path, _config("tensorrt", "onnx"))
    assert loaded.runtime == "onnx"
    assert "not loaded with tensorrt: " in caplog.text
    assert "model.plan" in caplog.text


def test_if_none_can_be_loaded_every_file_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"built for another machine")
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(LoadError) as refused:
        load(tmp_path, _config("tensorrt", "onnx"))
    assert not isinstance(refused.value, MissingLibrary)
    assert f"{tmp_path / 'model.plan'}: " in str(refused.value)
    assert f"{tmp_path / 'model.onnx'}: " in str(refused.value)


def test_if_only_libraries_are_missing_that_is_the_error(tmp_path: Path) -> None:
    write_digits(tmp_path / "model.onnx")
    with pytest.raises(MissingLibrary, match="onnxruntime-gpu"):
        load(tmp_path, ModelConfig(instances=Instances(device="cuda")))


def test_an_empty_folder_names_the_files_that_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"looked for model\.onnx, model\.pt2"):
        load(tmp_path, _config("onnx", "torch"))


@pytest.mark.parametrize(("devices", "runtime"), [(1, "tensorrt"), (0, "onnx")])
def test_one_folder_serves_its_plan_where_there_is_a_gpu_and_onnx_elsewhere(
    fake_cuda: FakeCuda, tmp_path: Path, devices: int, runtime: str
) -> None:
    fake_cuda.devices = devices
    write_digits(tmp_path / "model.onnx")
    said = plan({"image": (-1, 1, 8, 8)}, {"logits": (-1, 10)}, [{"image": (1, 4, 8)}])
    (tmp_path / "model.plan").write_bytes(said)
    loaded = load(tmp_path, ModelConfig())
    assert loaded.runtime == runtime
    loaded.close()

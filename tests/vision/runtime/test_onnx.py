"""ONNX Runtime on real files, and on a stand-in for the build with CUDA that is not here."""

from __future__ import annotations

import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.support.onnx_models import write, write_digits, write_with_weights_at
from vision.config import Batching, Instances, ModelConfig, Tensor
from vision.errors import LoadError, MissingLibrary
from vision.runtime.onnx import OnnxRuntime
from vision.tensors import DataType, TensorSpec


def _config(device: str = "cpu", **rest: Any) -> ModelConfig:
    return ModelConfig(instances=Instances(device=device), **rest)


def test_a_file_says_what_it_takes_and_gives(tmp_path: Path) -> None:
    file = write_digits(tmp_path / "model.onnx")
    loaded = OnnxRuntime().load(file, _config())
    assert loaded.inputs == (TensorSpec("image", DataType.FP32, (1, 8, 8)),)
    assert loaded.outputs == (TensorSpec("logits", DataType.FP32, (10,)),)
    assert (loaded.runtime, loaded.device, loaded.max_batch) == ("onnx", "cpu", 32)
    assert loaded.memory_bytes == file.stat().st_size


def test_a_batch_gives_the_rows_that_each_image_gives_alone(tmp_path: Path) -> None:
    loaded = OnnxRuntime().load(write_digits(tmp_path / "model.onnx"), _config())
    instance = loaded.instance()
    images = instance.allocate(DataType.FP32, (5, 1, 8, 8))
    images[:] = np.random.default_rng(1).random(images.shape)
    together = instance.run({"image": images})["logits"]
    alone = [instance.run({"image": images[row : row + 1]})["logits"][0] for row in range(5)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-5, atol=1e-6)
    instance.close()
    loaded.close()


def test_what_fails_in_a_run_is_raised_and_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """By an index of a client that the model's table has not."""
    file = write(
        tmp_path / "model.onnx",
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        {"x": ["batch"]},
        {"y": ["batch"]},
        initializers=[helper.make_tensor("table", TensorProto.INT64, (4,), [0] * 4)],
        dtype=TensorProto.INT64,
    )
    instance = OnnxRuntime().load(file, _config()).instance()
    with pytest.raises(Exception, match="out of data bounds"):
        instance.run({"x": np.array([9])})
    assert capfd.readouterr() == ("", "")


def test_outputs_outlive_the_next_run(tmp_path: Path) -> None:
    instance = OnnxRuntime().load(write_digits(tmp_path / "model.onnx"), _config()).instance()
    first = instance.run(MappingProxyType({"image": np.ones((1, 1, 8, 8), np.float32)}))["logits"]
    kept = first.copy()
    instance.run({"image": np.zeros((1, 1, 8, 8), np.float32)})
    np.testing.assert_array_equal(first, kept)


def test_instances_share_weights_and_run_side_by_side(tmp_path: Path) -> None:
    loaded = OnnxRuntime().load(write_digits(tmp_path / "model.onnx"), _config())
    images = np.random.default_rng(2).random((4, 1, 8, 8), np.float32)
    wanted = loaded.instance().run({"image": images})["logits"]
    with ThreadPoolExecutor(4) as threads:
        instances = [loaded.instance() for _ in range(4)]
        runs = [threads.submit(one.run, {"image": images}) for one in instances for _ in range(50)]
        for run in runs:
            np.testing.assert_array_equal(run.result()["logits"], wanted)


def test_several_threads_for_one_execution_give_the_same(tmp_path: Path) -> None:
    file = write_digits(tmp_path / "model.onnx")
    images = np.random.default_rng(2).random((32, 1, 8, 8), np.float32)
    one = OnnxRuntime().load(file, _config()).instance()
    config = ModelConfig(instances=Instances(device="cpu", threads=2))
    two = OnnxRuntime().load(file, config).instance()
    np.testing.assert_allclose(
        one.run({"image": images})["logits"], two.run({"image": images})["logits"], rtol=1e-5
    )


def test_only_the_outputs_that_are_wanted_are_computed(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Abs", ["x"], ["b"])]
    file = write(tmp_path / "model.onnx", nodes, {"x": ["n", 2]}, {"a": ["n", 2], "b": ["n", 2]})
    config = _config(outputs=(Tensor(name="b", shape=(2,)),))
    outputs = OnnxRuntime().load(file, config).instance().run({"x": -np.ones((1, 2), np.float32)})
    assert outputs.keys() == {"b"}
    assert outputs["b"].tolist() == [[1, 1]]


def test_a_built_in_batch_of_one_is_served_one_by_one(tmp_path: Path) -> None:
    loaded = OnnxRuntime().load(write_digits(tmp_path / "model.onnx", batch=1), _config())
    assert loaded.max_batch == 1


def test_a_built_in_batch_of_several_is_refused(tmp_path: Path) -> None:
    file = write_digits(tmp_path / "model.onnx", batch=4)
    with pytest.raises(LoadError, match="image has a batch of 4 built in"):
        OnnxRuntime().load(file, _config())


def test_the_configured_batch_is_the_limit(tmp_path: Path) -> None:
    file = write_digits(tmp_path / "model.onnx")
    config = _config(batching=Batching(max_batch=7))
    assert OnnxRuntime().load(file, config).max_batch == 7


def test_half_precision_stays_as_the_file_has_it(tmp_path: Path) -> None:
    file = write(
        tmp_path / "model.onnx",
        [helper.make_node("Neg", ["x"], ["y"])],
        {"x": ["n", "m"]},
        {"y": ["n", "m"]},
        dtype=TensorProto.FLOAT16,
    )
    loaded = OnnxRuntime().load(file, _config())
    assert loaded.inputs == (TensorSpec("x", DataType.FP16, (None,)),)
    instance = loaded.instance()
    assert instance.run({"x": np.ones((1, 3), np.float16)})["y"].dtype == np.float16


def test_a_type_that_no_request_can_carry_is_refused(tmp_path: Path) -> None:
    file = write(
        tmp_path / "model.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": ["n", 2]},
        {"y": ["n", 2]},
        dtype=TensorProto.STRING,
    )
    with pytest.raises(LoadError, match=r"x is tensor\(string\)"):
        OnnxRuntime().load(file, _config())


@pytest.mark.parametrize("bad", ["not a model", "an opset of the future", "no such file"])
def test_a_file_that_cannot_be_read_says_why_in_one_line(tmp_path: Path, bad: str) -> None:
    file = tmp_path / "model.onnx"
    if bad == "not a model":
        file.write_bytes(b"GIF89a")
    elif bad == "an opset of the future":
        node = helper.make_node("Neg", ["x"], ["y"])
        write(file, [node], {"x": ["n", 2]}, {"y": ["n", 2]}, opset=99)
    with pytest.raises(LoadError) as refused:
        OnnxRuntime().load(file, _config())
    said = str(refused.value)
    assert said.startswith(f"{file}: [ONNXRuntimeError]")
    assert "\n" not in said


def test_weights_beside_the_file_are_loaded_and_counted(tmp_path: Path) -> None:
    file = write_with_weights_at(tmp_path / "model.onnx", "model.onnx.data")
    (tmp_path / "model.onnx.data").write_bytes(np.full((4, 4), 2, np.float32).tobytes())
    loaded = OnnxRuntime().load(file, _config())
    outputs = loaded.instance().run({"x": np.ones((1, 4), np.float32)})
    assert outputs["y"].tolist() == [[8, 8, 8, 8]]
    assert loaded.memory_bytes == file.stat().st_size + 64


@pytest.mark.parametrize("location", ["../secret", "sub/../../secret", "link", "absolute"])
def test_weights_outside_of_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    folder = tmp_path / "1"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to("../secret")
    where = str(secret) if location == "absolute" else location
    file = write_with_weights_at(folder / "model.onnx", where)
    with pytest.raises(LoadError, match="External data path"):
        OnnxRuntime().load(file, _config())


def test_what_config_yaml_contradicts_is_refused(tmp_path: Path) -> None:
    file = write_digits(tmp_path / "model.onnx")
    config = _config(inputs=(Tensor(name="image", shape=(3, 8, 8)),))
    with pytest.raises(LoadError, match=r"input image is \[1, 8, 8\]"):
        OnnxRuntime().load(file, config)


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingLibrary, match=r"pip install 'sluice\[vision\]'"):
        OnnxRuntime().load(write_digits(tmp_path / "model.onnx"), _config())


def test_cuda_without_a_build_for_it_names_the_package(tmp_path: Path) -> None:
    with pytest.raises(MissingLibrary, match="pip install onnxruntime-gpu"):
        OnnxRuntime().load(write_digits(tmp_path / "model.onnx"), _config("cuda"))


class _GpuBuild:
    """onnxruntime-gpu: the real library with a CUDA provider that starts or does not."""

    SessionOptions = onnxruntime.SessionOptions

    def __init__(self, starts: bool) -> None:
        self.starts = starts
        self.asked: list[Any] = []
        self.options: Any = None
        self.falls_back = True
        self.preloads = 0

    def preload_dlls(self) -> None:
        self.preloads += 1

    def disable_fallback(self) -> None:
        self.falls_back = False

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, path: str, options: Any, providers: list[Any]) -> Any:  # noqa: N802 - the library's
        self.asked = providers
        self.options = options
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        session.disable_fallback = self.disable_fallback
        if self.starts:
            session.get_providers = self.get_available_providers
        return session


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> _GpuBuild:
    build = _GpuBuild(starts=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", build)  # type: ignore[arg-type]
    return build


@pytest.mark.parametrize(("device", "number"), [("auto", "0"), ("cuda", "0"), ("cuda:1", "1")])
def test_cuda_is_used_where_it_is(
    tmp_path: Path, gpu_build: _GpuBuild, device: str, number: str
) -> None:
    loaded = OnnxRuntime().load(write_digits(tmp_path / "model.onnx"), _config(device))
    assert loaded.device == f"cuda:{number}"
    assert gpu_build.asked == [
        ("CUDAExecutionProvider", {"device_id": number}),
        "CPUExecutionProvider",
    ]


def test_the_cpu_is_used_where_it_is_asked_for(tmp_path: Path, gpu_build: _GpuBuild) -> None:
    OnnxRuntime().load(write_digits(tmp_path / "model.onnx"), _config("cpu"))
    assert gpu_build.asked == ["CPUExecutionProvider"]


def test_libraries_that_pip_brought_are_opened_once_and_only_for_cuda(
    tmp_path: Path, gpu_build: _GpuBuild
) -> None:
    file = write_digits(tmp_path / "model.onnx")
    OnnxRuntime().load(file, _config("cpu"))
    assert gpu_build.preloads == 0
    for device in ("auto", "cuda"):
        OnnxRuntime().load(file, _config(device))
    assert gpu_build.preloads == 1


def test_auto_that_does_not_get_cuda_says_so(
    tmp_path: Path, gpu_build: _GpuBuild, caplog: pytest.LogCaptureFixture
) -> None:
    gpu_build.starts = False
    with caplog.at_level(logging.WARNING):
        loaded = OnnxRuntime().load(write_digits(tmp_path / "model.onnx"), _config("auto"))
    assert loaded.device == "cpu"
    assert "could not start CUDA: it runs on the CPU" in caplog.text


def test_cuda_that_does_not_start_is_an_error(tmp_path: Path, gpu_build: _GpuBuild) -> None:
    gpu_build.starts = False
    with pytest.raises(MissingLibrary, match="found no CUDA device"):
        OnnxRuntime().load(write_digits(tmp_path / "model.onnx"), _config("cuda"))


def test_a_failing_call_does_not_move_the_model_to_the_cpu(
    tmp_path: Path, gpu_build: _GpuBuild
) -> None:
    OnnxRuntime().load(write_digits(tmp_path / "model.onnx"), _config("cuda"))
    assert not gpu_build.falls_back


@pytest.mark.parametrize(("threads", "wanted"), [(None, 1), (3, 3)])
def test_threads_are_one_unless_configured_and_sleep_when_idle(
    tmp_path: Path, gpu_build: _GpuBuild, threads: int | None, wanted: int
) -> None:
    config = ModelConfig(instances=Instances(device="cpu", threads=threads))
    OnnxRuntime().load(write_digits(tmp_path / "model.onnx"), config)
    assert gpu_build.options.intra_op_num_threads == wanted
    spinning = gpu_build.options.get_session_config_entry("session.intra_op.allow_spinning")
    assert spinning == "0"
    assert gpu_build.options.get_session_config_entry("session.x64quantprecision") == "1"

"""Plans on a fake GPU: what they take and give, and each reason not to load one."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_cuda import FakeCuda, cudaError_t
from tests.support.fake_tensorrt import Runtime, plan
from vision.config import Batching, Instances, ModelConfig, Tensor
from vision.errors import LoadError, MissingLibrary
from vision.runtime.tensorrt import TensorRtRuntime
from vision.tensors import DataType, TensorSpec

PROFILE = {"x": (1, 4, 8)}


def _config(device: str = "auto", **rest: Any) -> ModelConfig:
    return ModelConfig(instances=Instances(device=device, count=2), **rest)


def _file(folder: Path, *profiles: dict[str, Any], **rest: Any) -> Path:
    """x [batch, 4] → y [batch, 2], for the profiles, else the one from 1 to 8."""
    file = folder / "model.plan"
    said = {"inputs": {"x": (-1, 4)}, "outputs": {"y": (-1, 2)}, "scratch": 64} | rest
    file.write_bytes(plan(profiles=profiles or (PROFILE,), **said))
    return file


def test_a_plan_says_what_it_takes_and_gives(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    file = _file(tmp_path)
    loaded = TensorRtRuntime().load(file, _config("cuda:1"))
    assert loaded.inputs == (TensorSpec("x", DataType.FP32, (4,)),)
    assert loaded.outputs == (TensorSpec("y", DataType.FP32, (2,)),)
    assert (loaded.runtime, loaded.device, loaded.max_batch) == ("tensorrt", "cuda:1", 8)
    # The plan itself, and for each instance its scratch memory, 8 inputs and 8 outputs.
    assert loaded.memory_bytes == file.stat().st_size + 2 * (64 + 8 * 4 * 4 + 8 * 2 * 4)
    loaded.close()


def test_the_configured_batch_is_the_limit(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    loaded = TensorRtRuntime().load(_file(tmp_path), _config(batching=Batching(max_batch=5)))
    assert loaded.max_batch == 5


def test_the_largest_profile_is_the_limit(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    file = _file(tmp_path, {"x": (1, 1, 1)}, {"x": (2, 8, 16)})
    assert TensorRtRuntime().load(file, _config()).max_batch == 16


def test_a_built_in_batch_of_one_is_served_one_by_one(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    file = tmp_path / "model.plan"
    file.write_bytes(plan({"x": (1, 4)}, {"y": (1, 2)}, scratch=1))
    assert TensorRtRuntime().load(file, _config()).max_batch == 1


def test_every_type_of_tensors_is_read(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    names = {
        "HALF": DataType.FP16,
        "FLOAT": DataType.FP32,
        "INT8": DataType.INT8,
        "INT32": DataType.INT32,
        "INT64": DataType.INT64,
        "BOOL": DataType.BOOL,
        "UINT8": DataType.UINT8,
    }
    for theirs, ours in names.items():
        loaded = TensorRtRuntime().load(_file(tmp_path, dtypes={"x": theirs}), _config())
        assert loaded.inputs[0].dtype is ours


def test_config_yaml_makes_sizes_definite(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    file = _file(
        tmp_path,
        {"x": ((1, 1), (4, 8), (8, 16))},
        inputs={"x": (-1, -1)},
        outputs={"y": (-1, 2)},
    )
    assert TensorRtRuntime().load(file, _config()).inputs[0].shape == (None,)
    config = _config(inputs=(Tensor(name="x", shape=(8,)),))
    assert TensorRtRuntime().load(file, config).inputs[0].shape == (8,)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"dtypes": {"x": "BF16"}}, "x is DataType.BF16, which is no type"),
        ({"formats": {"y": "CHW32"}}, "y is vectorized"),
        ({"shape_tensors": ["x"]}, "x holds a shape"),
        ({"data_dependent": ["y"], "outputs": {"y": (-1, -1)}}, "shape of y depends on the values"),
        ({"outputs": {"y": (3, 2)}}, "y has a batch of 3 built in"),
        ({"outputs": {"y": (1, 2)}}, "no row for each row"),
        ({"contexts": 0}, "makes no execution context"),
    ],
)
def test_a_plan_that_does_not_fit_says_why(
    fake_cuda: FakeCuda, tmp_path: Path, said: dict[str, Any], why: str
) -> None:
    file = _file(tmp_path, **said)
    with pytest.raises(LoadError, match=why) as refused:
        TensorRtRuntime().load(file, _config())
    assert str(refused.value).startswith(f"{file}: ")


def test_what_config_yaml_contradicts_is_refused(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"input x is FP32, config\.yaml says FP16"):
        TensorRtRuntime().load(
            _file(tmp_path),
            _config(inputs=(Tensor(name="x", shape=(4,), dtype=DataType.FP16),)),
        )


def test_a_plan_of_another_version_gives_tensorrt_s_reason_and_the_way_out(
    fake_cuda: FakeCuda, tmp_path: Path
) -> None:
    file = tmp_path / "model.plan"
    file.write_bytes(b"ftrt of 8.6")
    with pytest.raises(LoadError) as refused:
        TensorRtRuntime().load(file, _config())
    said = str(refused.value)
    assert "Version tag does not match." in said
    assert "build it there with `sluice vision convert`" in said
    assert "\n" not in said


def test_a_machine_without_cuda_says_so(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    fake_cuda.devices = 0
    with pytest.raises(MissingLibrary, match="no CUDA device or no driver"):
        TensorRtRuntime().load(_file(tmp_path), _config())


def test_a_device_that_is_not_there_is_refused(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no device cuda:2, only 2 in all"):
        TensorRtRuntime().load(_file(tmp_path), _config("cuda:2"))


def test_a_driver_that_fails_otherwise_is_reported(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    fake_cuda.fail("cudaGetDeviceCount", cudaError_t.cudaErrorMemoryAllocation)
    with pytest.raises(LoadError, match="cudaErrorMemoryAllocation"):
        TensorRtRuntime().load(_file(tmp_path), _config())


def test_a_stream_that_cannot_be_made_is_reported(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    fake_cuda.fail("cudaStreamCreateWithFlags", cudaError_t.cudaErrorMemoryAllocation)
    with pytest.raises(LoadError, match="cudaErrorMemoryAllocation"):
        TensorRtRuntime().load(_file(tmp_path), _config())


def test_a_runtime_that_does_not_start_is_reported(
    fake_cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Runtime, logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(Runtime, "__init__", refuse)
    with pytest.raises(LoadError, match="factory function returned nullptr"):
        TensorRtRuntime().load(_file(tmp_path), _config())


def test_a_file_that_cannot_be_read_is_reported(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="No such file"):
        TensorRtRuntime().load(tmp_path / "model.plan", _config())


def test_a_plan_is_never_run_on_the_cpu(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="CUDA only"):
        TensorRtRuntime().load(_file(tmp_path), _config("cpu"))


@pytest.mark.parametrize("module", ["tensorrt", "cuda.bindings"])
def test_a_missing_library_names_the_extra(
    fake_cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingLibrary, match=r"pip install 'sluice\[vision-tensorrt\]'"):
        TensorRtRuntime().load(_file(tmp_path), _config())


def test_a_closed_plan_makes_no_instances(fake_cuda: FakeCuda, tmp_path: Path) -> None:
    loaded = TensorRtRuntime().load(_file(tmp_path), _config())
    loaded.close()
    with pytest.raises(LoadError, match="closed"):
        loaded.instance()


def test_the_log_keeps_the_first_error_else_the_last_warning(fake_cuda: FakeCuda) -> None:
    messages = import_module("vision.runtime.engine").Messages()
    severity = messages.Severity
    assert messages.why() == "no reason"
    messages.log(severity.INFO, "chatter")
    messages.log(severity.WARNING, "odd")
    assert messages.why() == "odd"
    messages.log(severity.ERROR, "the\ncause")
    messages.log(severity.INTERNAL_ERROR, "what follows from it")
    assert messages.why() == "the cause"
    assert messages.why() == "odd"

"""The shipped digits on a real GPU, by each runtime: skipped, with the reason, where there is none.

Run alone with `pytest -m gpu tests/vision/runtime/test_gpu.py`. What it needs beside a driver is
checked before anything heavy is imported.
"""

from __future__ import annotations

import ctypes
import logging
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vision.config import Batching, Instances, ModelConfig
from vision.runtime.base import Instance, Loaded, Runtime
from vision.runtime.onnx import OnnxRuntime
from vision.runtime.tensorrt import TensorRtRuntime
from vision.runtime.torch import TorchRuntime
from vision.tensors import Array, DataType

MODELS = Path(__file__).resolve().parents[3] / "vision" / "models"
DIGITS = MODELS / "digits" / "1" / "model.onnx"
SIZES = (1, 2, 3, 4, 5, 8, 13, 16, 3, 1, 16)


def _reason() -> str | None:
    """Why there is no GPU, asked of the driver itself; None if there is one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no CUDA driver (libcuda.so.1) on this machine"
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "a CUDA driver, but no device"
    return None


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(_reason() is not None, reason=str(_reason())),
    # Libraries for GPUs warn of much that is not ours, such as capabilities they were built for.
    pytest.mark.filterwarnings("default"),
]


def _need(*modules: str) -> None:
    for name in modules:
        try:
            missing = find_spec(name) is None
        except ModuleNotFoundError:
            missing = True
        if missing:
            pytest.skip(f"{name} is not installed")


def _config(**instances: Any) -> ModelConfig:
    return ModelConfig(
        batching=Batching(max_batch=16, preferred=(4, 8)),
        instances=Instances(device="cuda", count=2, **instances),
    )


def _images(rows: int) -> Array:
    return np.random.default_rng(rows).random((rows, 1, 8, 8), np.float32)


def _on_the_cpu(images: Array) -> Array:
    """What the shipped file answers on the CPU."""
    _need("onnxruntime")
    loaded = OnnxRuntime().load(DIGITS, ModelConfig(instances=Instances(device="cpu")))
    (name,) = (spec.name for spec in loaded.inputs)
    (array,) = loaded.instance().run({name: images}).values()
    return array


def _compare(loaded: Loaded, tolerance: float) -> None:
    """Two instances, all sizes, from pinned and from plain memory: the CPU's answers."""
    (spec,) = loaded.inputs
    instances = [loaded.instance(), loaded.instance()]
    pinned = [one.allocate(DataType.FP32, (16, *_images(1).shape[1:])) for one in instances]
    try:
        for rows in SIZES:
            images = _images(rows)
            wanted = _on_the_cpu(images)
            for instance, buffer in zip(instances, pinned, strict=True):
                buffer[:rows] = images
                for given in (buffer[:rows], images):
                    _check(instance, {spec.name: given}, wanted, tolerance)
    finally:
        del pinned
        for instance in instances:
            instance.close()
        loaded.close()


def _check(instance: Instance, inputs: dict[str, Array], wanted: Array, tolerance: float) -> None:
    (found,) = instance.run(inputs).values()
    np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=tolerance)


def _load(runtime: Runtime, file: Path, **instances: Any) -> Loaded:
    loaded = runtime.load(file, _config(**instances))
    assert loaded.device == "cuda:0"
    assert loaded.max_batch == 16
    return loaded


def test_onnx_runtime_answers_on_cuda_as_on_the_cpu() -> None:
    _need("onnxruntime")
    if "CUDAExecutionProvider" not in import_module("onnxruntime").get_available_providers():
        pytest.skip("this onnxruntime is built without CUDA: onnxruntime-gpu is not installed")
    _compare(_load(OnnxRuntime(), DIGITS), 1e-2)  # Tensor cores compute in TF32.


def _exported(folder: Path) -> Path:
    """An untrained network of the shipped kind of images."""
    torch = import_module("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * 64, 10),
    ).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "model.pt2")
    return folder / "model.pt2"


@pytest.mark.parametrize(("half", "tolerance"), [(True, 2e-2), (False, 2e-3)])
def test_torch_answers_on_cuda_as_on_the_cpu(
    tmp_path: Path, half: bool, tolerance: float, caplog: pytest.LogCaptureFixture
) -> None:
    _need("torch")
    if not import_module("torch").cuda.is_available():
        pytest.skip("this torch is built without CUDA")
    file = _exported(tmp_path)
    on_cpu = TorchRuntime().load(file, ModelConfig(instances=Instances(device="cpu"))).instance()
    loaded = _load(TorchRuntime(), file, half=half)
    instance = loaded.instance()
    (spec,) = loaded.inputs
    with caplog.at_level(logging.WARNING):
        for rows in SIZES * 2:
            inputs = {spec.name: _images(rows)}
            (wanted,) = on_cpu.run(inputs).values()
            _check(instance, inputs, wanted, tolerance)
    assert "no CUDA graph" not in caplog.text
    instance.close()
    loaded.close()


def test_tensorrt_builds_a_plan_and_answers_as_the_cpu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _need("tensorrt", "cuda.bindings")
    from vision.convert.options import PlanOptions, Profile  # noqa: PLC0415 - they need TensorRT
    from vision.convert.plan import build  # noqa: PLC0415
    from vision.convert.progress import Silent  # noqa: PLC0415

    source = OnnxRuntime().load(DIGITS, ModelConfig(instances=Instances(device="cpu")))
    (spec,) = source.inputs
    shape = (1, 8, 8)
    profile = Profile(spec.name, (1, *shape), (8, *shape), (16, *shape))
    build(DIGITS, tmp_path / "model.plan", [{spec.name: profile}], PlanOptions(), Silent())
    with caplog.at_level(logging.WARNING):
        _compare(_load(TensorRtRuntime(), tmp_path / "model.plan"), 1e-2)
    assert "no CUDA graph" not in caplog.text

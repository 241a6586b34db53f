"""Plans are built with TensorRT's own types, profiles and caches; by a strict fake."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from onnx import helper

from tests.support import fake_trt_builder
from tests.support.fake_cuda import FakeCuda, cudaError_t
from tests.support.onnx_models import write, write_digits
from vision.configs import read_config
from vision.convert import planning
from vision.convert.failures import ConversionError
from vision.convert.options import Options, PlanOptions, parse_profile, profiles_for
from vision.convert.pipeline import convert
from vision.convert.progress import Silent
from vision.errors import MissingLibrary
from vision.tensors import DataType, TensorSpec

IMAGE = (TensorSpec("image", DataType.FP32, (1, 8, 8)),)


@pytest.fixture(params=["10.16.1.11", "11.4.0.106"])
def trt(request: pytest.FixtureRequest) -> Iterator[Any]:
    with fake_trt_builder.installed(FakeCuda(), request.param) as module:
        yield module


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "m.onnx")


class Recorded(Silent):
    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    def open(self, name: str, parent: str | None, total: int) -> None:
        self.said.append(("open", name, parent, total))

    def move(self, name: str, done: int) -> None:
        self.said.append(("move", name, done))

    def close(self, name: str) -> None:
        self.said.append(("close", name))


def build(model: Path, options: PlanOptions, steps: Silent | None = None) -> Path:
    target = model.with_suffix(".plan")
    profiles = profiles_for(IMAGE, 8, options.profiles)
    assert planning.build(model, target, profiles, options, steps or Silent()) is None
    return target


def test_default_profile_is_every_batch_up_to_the_largest(trt: Any, model: Path) -> None:
    assert build(model, PlanOptions()).read_bytes().startswith(b"fake plan")
    (profile,) = trt.config.profiles
    assert profile.shapes == {"image": ((1, 1, 8, 8), (8, 1, 8, 8), (8, 1, 8, 8))}
    assert trt.config.builder_optimization_level == 3
    assert trt.config.pools == {}


def test_level_workspace_and_profiles_are_passed_on(trt: Any, model: Path) -> None:
    profiles = ("image:1x1x8x8,2x1x8x8,4x1x8x8", "image:4x1x8x8,8x1x8x8,16x1x8x8")
    given = PlanOptions(
        level=5, workspace_bytes=2**30, profiles=tuple(map(parse_profile, profiles))
    )
    build(model, given)
    assert trt.config.builder_optimization_level == 5
    assert trt.config.pools == {trt.MemoryPoolType.WORKSPACE: 2**30}
    assert [one.shapes["image"][2][0] for one in trt.config.profiles] == [4, 16]


def test_timing_cache_is_read_and_grows(trt: Any, model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    build(model, PlanOptions(timing_cache=cache))
    assert cache.read_bytes() == b"+timings"
    build(model, PlanOptions(timing_cache=cache))
    assert cache.read_bytes() == b"+timings+timings"
    assert [one.name for one in cache.parent.iterdir()] == ["cache"]


def test_cache_of_another_gpu_is_replaced(trt: Any, model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_bytes(b"other GPU's")
    build(model, PlanOptions(timing_cache=cache))
    assert cache.read_bytes() == b"+timings"


def test_phases_are_shown_within_each_other(trt: Any, model: Path) -> None:
    steps = Recorded()
    build(model, PlanOptions(), steps)
    assert steps.said == [
        ("open", "Building", None, 1),
        ("open", "Tactics", "Building", 3),
        ("move", "Tactics", 1),
        ("move", "Tactics", 2),
        ("move", "Tactics", 3),
        ("close", "Tactics"),
        ("move", "Building", 1),
        ("close", "Building"),
    ]


def test_interrupt_ends_the_build_outside_of_tensorrt(trt: Any, model: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    asked: list[int] = []

    def press(step: int) -> None:
        asked.append(step)
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    trt.between_steps = press
    with pytest.raises(KeyboardInterrupt):
        build(model, PlanOptions())
    assert asked == [0, 1]
    assert signal.getsignal(signal.SIGINT) is before
    assert not model.with_suffix(".plan").exists()


def test_what_the_parser_does_not_know_is_said_in_a_line(trt: Any, tmp_path: Path) -> None:
    node = helper.make_node("NonZero", ["image"], ["y"])
    file = write(tmp_path / "m.onnx", [node], {"image": ["n", 1, 8, 8]}, {"y": ["n", "m"]})
    with pytest.raises(ConversionError, match="does not read the model: In node 0: NonZero: not"):
        build(file, PlanOptions())


def test_failed_build_says_tensorrts_reason(trt: Any, model: Path) -> None:
    profiles: list[Any] = [{}]
    with pytest.raises(ConversionError, match="does not build the plan: Network has dynamic"):
        planning.build(model, model.with_suffix(".plan"), profiles, PlanOptions(), Silent())


def test_refused_profile_is_named(trt: Any, model: Path) -> None:
    trt.refuses_profiles = True
    with pytest.raises(ConversionError, match="does not take the profile of image"):
        build(model, PlanOptions())


def test_converted_model_has_its_plan_beside_it_and_it_is_compared(
    trt: Any, tmp_path: Path
) -> None:
    done = convert(Options(model="digits", output=tmp_path / "d", max_batch=2), Silent())
    assert {one.name for one in done.folder.iterdir()} == {
        "model.onnx",
        "model.plan",
        "report.json",
        "REPORT.md",
    }
    assert done.report.plan["built"] is True
    assert read_config(tmp_path / "d", 1).batching.preferred == (2,)
    assert done.report.plan["validation"]["samples"] > 0
    assert all(line.keys() == {"batch", "source", "onnx", "plan"} for line in done.report.latency)


def test_plan_for_smaller_batches_is_compared_and_timed_within_them(
    trt: Any, tmp_path: Path
) -> None:
    plan = PlanOptions(profiles=(parse_profile("image:1x1x8x8,2x1x8x8,2x1x8x8"),))
    done = convert(Options("digits", tmp_path / "d", max_batch=8, plan=plan), Silent())
    assert [line["plan"] is None for line in done.report.latency] == [False, False, True, True]
    assert "| 8 | " in (done.folder / "REPORT.md").read_text()


def test_without_a_device_it_says_so() -> None:
    with fake_trt_builder.installed(FakeCuda(devices=0)):
        assert "no CUDA device" in (planning.missing() or "")


def test_broken_driver_is_said() -> None:
    cuda = FakeCuda()
    cuda.fail("cudaGetDeviceCount", cudaError_t.cudaErrorMemoryAllocation)
    with fake_trt_builder.installed(cuda):
        assert "CUDA cannot be used: cudaErrorMemoryAllocation" in (planning.missing() or "")


def test_without_tensorrt_it_names_the_extra(tmp_path: Path) -> None:
    lacking = planning.build(tmp_path, tmp_path, [], PlanOptions(), Silent())
    assert lacking is not None
    assert "TensorRT is not installed" in lacking
    assert "sluice[vision-tensorrt]" in lacking
    with pytest.raises(MissingLibrary, match="TensorRT is not installed"):
        planning.build(tmp_path, tmp_path, [], PlanOptions(build=True), Silent())

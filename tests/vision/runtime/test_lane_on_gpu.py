"""A lane's threads and buffers on TensorRT instances: real threads, a fake GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.fake_cuda import FakeCuda
from tests.support.fake_tensorrt import plan
from vision.config import Batching, Instances, ModelConfig
from vision.lane import Lane
from vision.runtime.tensorrt import TensorRtRuntime
from vision.tensors import Array


class _Deaf:
    """An observer that keeps nothing."""

    def started(self, rows: int, queued_s: Sequence[float]) -> None: ...
    def executed(self, rows: int, execute_s: float) -> None: ...
    def waiting(self, rows: int) -> None: ...


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
async def test_every_client_gets_its_own_rows(
    fake_cuda: FakeCuda, tmp_path: Path, device: str
) -> None:
    file = tmp_path / "model.plan"
    file.write_bytes(plan({"x": (-1, 4)}, {"y": (-1, 2)}, [{"x": (1, 8, 16)}], scratch=64))
    batching = Batching(max_batch=16, preferred=(4, 8), queue=1000)
    config = ModelConfig(batching=batching, instances=Instances(count=2, device=device))
    loaded = TensorRtRuntime().load(file, config)
    lane = Lane(loaded, batching, 2, _Deaf())
    await lane.start()
    await lane.warm([1, 4, 8, 16], {"x": np.zeros((1, 4), np.float32)}, 1)

    async def client(value: int) -> Array:
        rows = np.full((1 + value % 3, 4), value, np.float32)
        return (await lane.infer({"x": rows}))["y"]

    answers = await asyncio.gather(*(client(value) for value in range(200)))
    await lane.close()
    loaded.close()
    for value, answer in enumerate(answers):
        assert answer.tolist() == [[4 * value, 8 * value]] * (1 + value % 3)
    assert fake_cuda.called("cudaGraphLaunch") > 0

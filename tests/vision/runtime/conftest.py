"""Fixtures of the runtimes' tests: a CUDA machine that is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fake_cuda import FakeCuda
from tests.support.fake_tensorrt import installed


@pytest.fixture
def fake_cuda() -> Iterator[FakeCuda]:
    """Two devices; at the test's end nothing of them may be held."""
    cuda = FakeCuda(devices=2)
    with installed(cuda):
        yield cuda
        assert cuda.leaks() == []

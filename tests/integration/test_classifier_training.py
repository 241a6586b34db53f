"""The script that trained the example classifier still makes one that says the same."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from gateway.plan.classify import onnx_run
from gateway.plan.features import features
from scripts.train_example_classifier import OUT, SEED, bodies, train
from tests.support.process import ROOT

pytestmark = pytest.mark.integration


def test_the_script_still_makes_the_file(tmp_path: Path) -> None:
    """Other versions of the libraries may give other bytes, but no other answers."""
    made = tmp_path / "made.onnx"
    made.write_bytes(train())
    rows = [features(body) for body, _ in bodies(Random(SEED + 2), 300)]
    ours, theirs = onnx_run(ROOT / OUT), onnx_run(made)
    assert [ours(row) for row in rows] == [theirs(row) for row in rows]

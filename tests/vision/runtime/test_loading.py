"""Batch axes, and the agreement of a file with its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from vision.config import Tensor
from vision.errors import LoadError
from vision.runtime.loading import agreed, batch_limit, ordinal, reason, split_batch
from vision.tensors import DataType, TensorSpec

FILE = Path("digits/1/model.onnx")
IMAGE = TensorSpec("image", DataType.FP32, (1, None, None))
LOGITS = TensorSpec("logits", DataType.FP32, (10,))


def test_a_reason_is_the_first_line_that_says_something() -> None:
    assert reason(ValueError("\n  the cause \nstack\nstack")) == "the cause"
    assert reason(ValueError()) == "ValueError"


@pytest.mark.parametrize(("device", "number"), [("auto", 0), ("cuda", 0), ("cuda:3", 3)])
def test_a_device_without_a_number_is_the_first(device: str, number: int) -> None:
    assert ordinal(device) == number


def test_the_first_axis_is_the_batch() -> None:
    assert split_batch(FILE, "image", [None, 3, None]) == (None, (3, None))
    assert split_batch(FILE, "image", [1, 10]) == (1, (10,))


def test_a_tensor_without_axes_is_refused() -> None:
    with pytest.raises(LoadError, match=r"model\.onnx: image has no batch axis"):
        split_batch(FILE, "image", [])


def test_a_built_in_batch_of_several_is_refused() -> None:
    with pytest.raises(LoadError, match="image has a batch of 8 built in"):
        split_batch(FILE, "image", [8, 10])


def test_a_built_in_batch_of_one_limits_the_model_to_it() -> None:
    assert batch_limit(FILE, [None, None], [None], 32) == 32
    assert batch_limit(FILE, [None, 1], [None], 32) == 1
    assert batch_limit(FILE, [1], [1], 32) == 1


def test_an_output_that_is_one_row_for_any_batch_is_refused() -> None:
    with pytest.raises(LoadError, match="no row for each row"):
        batch_limit(FILE, [None], [None, 1], 32)


def test_without_a_configuration_it_is_the_file_s_own() -> None:
    assert agreed(FILE, "input", [IMAGE, LOGITS], ()) == (IMAGE, LOGITS)


def test_the_configuration_orders_and_makes_sizes_definite() -> None:
    wanted = (
        Tensor(name="logits", shape=(-1,)),
        Tensor(name="image", shape=(1, 8, -1)),
    )
    assert agreed(FILE, "input", [IMAGE, LOGITS], wanted) == (
        LOGITS,
        TensorSpec("image", DataType.FP32, (1, 8, None)),
    )


def test_outputs_may_be_left_out_but_inputs_not() -> None:
    wanted = (Tensor(name="logits", shape=(10,)),)
    assert agreed(FILE, "output", [IMAGE, LOGITS], wanted) == (LOGITS,)
    with pytest.raises(LoadError, match=r"inputs that config\.yaml leaves out: image"):
        agreed(FILE, "input", [IMAGE, LOGITS], wanted)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Tensor(name="pixels", shape=(1,)), "no input is called pixels; it has image"),
        (
            Tensor(name="image", shape=(1, 8, 8), dtype=DataType.FP16),
            "image is FP32, config.yaml says FP16",
        ),
        (
            Tensor(name="image", shape=(3, 8, 8)),
            "image is [1, -1, -1], config.yaml says [3, 8, 8]",
        ),
        (Tensor(name="image", shape=(1, 8)), "image is [1, -1, -1], config.yaml says [1, 8]"),
    ],
)
def test_a_contradiction_names_file_and_both_sides(wanted: Tensor, why: str) -> None:
    with pytest.raises(LoadError) as refused:
        agreed(FILE, "input", [IMAGE], (wanted,))
    assert str(refused.value).startswith(f"{FILE}: ")
    assert why in str(refused.value)

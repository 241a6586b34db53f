"""Rows of several items are copied once into one array, and each item gets its own answer back."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.errors import ExecutionFailed
from vision.stacking import HELD, LINE, SHAPES, Stack, execute, shape_key, split
from vision.tensors import Array, Arrays, DataType, TensorSpec

IMAGE = TensorSpec("image", DataType.FP32, (None, None))
SCALE = TensorSpec("scale", DataType.INT64, ())
SPECS = (IMAGE, SCALE)


class Memory:
    """Allocates, and remembers what."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, dtype: DataType, shape: tuple[int, ...]) -> Array:
        self.shapes.append(shape)
        return np.empty(shape, dtype.numpy)


def item(rows: int, side: int = 2, first: float = 0.0) -> dict[str, Array]:
    """Distinct values, counted from `first`."""
    values = np.arange(rows * side * side, dtype=np.float32) + np.float32(first)
    return {"image": values.reshape(rows, side, side), "scale": np.full(rows, int(first))}


def test_the_key_is_the_shape_of_a_row_in_the_order_of_the_specs() -> None:
    """Whatever the order of the request's inputs and its rows."""
    one, two = item(1), dict(reversed(item(3).items()))
    assert shape_key(SPECS, one) == shape_key(SPECS, two) == ((2, 2), ())
    assert shape_key(SPECS, item(1, side=3)) != shape_key(SPECS, one)


@given(
    rows=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    side=st.sampled_from([1, 3, 40]),
)
def test_rows_stand_in_the_order_of_the_items(rows: list[int], side: int) -> None:
    """Small ones and large ones, which are copied in different ways."""
    items = [item(count, side, 100.0 * at) for at, count in enumerate(rows)]
    batch = Stack(SPECS, Memory(), 32).stack(items, sum(rows))
    for name in ("image", "scale"):
        np.testing.assert_array_equal(batch[name], np.concatenate([one[name] for one in items]))
        assert batch[name].dtype == items[0][name].dtype
        assert batch[name].flags.c_contiguous


@pytest.mark.parametrize("side", [2, 40])
def test_items_that_are_not_contiguous_are_copied_right(side: int) -> None:
    """Transposed images, say."""
    items = [item(1, side, 0.0), item(1, side, 9.0)]
    for one in items:
        one["image"] = one["image"].swapaxes(1, 2)
    assert (side * side > HELD) == (side == 40)
    batch = Stack(SPECS, Memory(), 8).stack(items, 2)
    np.testing.assert_array_equal(batch["image"], np.concatenate([one["image"] for one in items]))


def test_a_lone_item_is_not_copied() -> None:
    """Unless it is not contiguous."""
    stack = Stack(SPECS, memory := Memory(), 8)
    lone = item(3)
    assert stack.stack([lone], 3)["image"] is lone["image"]
    turned = lone["image"].swapaxes(1, 2)
    copied = stack.stack([{**lone, "image": turned}], 3)["image"]
    assert copied.flags.c_contiguous
    np.testing.assert_array_equal(copied, turned)
    assert memory.shapes == []


def test_a_buffer_is_used_again_and_grows_by_powers_of_two() -> None:
    """Up to max_batch, and as the instance allocates it."""
    stack = Stack((IMAGE,), memory := Memory(), 6)
    first = stack.stack([item(1)] * 3, 3)["image"]
    again = stack.stack([item(1)] * 4, 4)["image"]
    assert np.shares_memory(first, again)
    stack.stack([item(1)] * 5, 5)
    stack.stack([item(1)] * 2, 2)
    assert memory.shapes == [(4, 2, 2), (6, 2, 2)]


def test_buffers_of_few_shapes_are_kept() -> None:
    """The one unused for longest goes."""
    stack = Stack((IMAGE,), memory := Memory(), 2)
    for side in range(1, SHAPES + 1):
        stack.stack([item(1, side)] * 2, 2)
    stack.stack([item(1, 1)] * 2, 2)
    assert len(memory.shapes) == SHAPES
    stack.stack([item(1, 99)] * 2, 2)
    stack.stack([item(1, 1)] * 2, 2)
    assert len(memory.shapes) == SHAPES + 1
    stack.stack([item(1, 2)] * 2, 2)
    assert len(memory.shapes) == SHAPES + 2


def test_each_item_gets_its_rows_of_every_output() -> None:
    """In memory that the next run does not touch."""
    outputs = {"a": np.arange(6).reshape(6, 1), "b": np.arange(6.0)}
    parts = split(outputs, [1, 3, 2], 6)
    outputs["a"][:] = -1
    assert [part["a"].ravel().tolist() for part in parts] == [[0], [1, 2, 3], [4, 5]]
    assert [part["b"].tolist() for part in parts] == [[0], [1, 2, 3], [4, 5]]
    (whole,) = split(outputs, [6], 6)
    assert whole["b"].tolist() == outputs["b"].tolist()
    assert not np.shares_memory(whole["b"], outputs["b"])


@pytest.mark.parametrize("shape", [(), (5,), (1, 6)])
def test_an_output_without_the_rows_first_is_said_to_be_one(shape: tuple[int, ...]) -> None:
    """Its name, its shape, and how many rows there should be."""
    with pytest.raises(ExecutionFailed, match=r"'y' has the shape \[.*\].* 6 rows"):
        split({"y": np.zeros(shape)}, [6], 6)


def double(inputs: Arrays) -> dict[str, Array]:
    """A model that cannot take 13, and says so at length."""
    if (inputs["image"] == 13).any():
        raise RuntimeError("13 is not allowed\n  in /usr/lib/internal.cc:42")
    return {"y": inputs["image"] * 2}


def test_a_batch_runs_once() -> None:
    """One call of the model for all items."""
    sizes: list[int] = []

    def run(inputs: Arrays) -> dict[str, Array]:
        sizes.append(len(inputs["image"]))
        return double(inputs)

    items = [item(2, 1, 1.0), item(1, 1, 5.0)]
    answers = execute(run, Stack((IMAGE,), Memory(), 8), items, [2, 1])
    assert [_values(answer) for answer in answers] == [[2, 4], [10]]
    assert sizes == [3]


def test_a_bad_item_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Its mates have their answers; it has the first line, and the log has the rest."""
    items = [item(1, 1, value) for value in (1.0, 13.0, 2.0)]
    with caplog.at_level(logging.WARNING):
        answers = execute(double, Stack((IMAGE,), Memory(), 8), items, [1, 1, 1])
    assert _values(answers[0]) == [2]
    assert _values(answers[2]) == [4]
    assert isinstance(answers[1], ExecutionFailed)
    assert answers[1].message == "The model failed on this input: 13 is not allowed"
    assert "internal.cc:42" in caplog.text


def test_a_lone_item_is_not_run_again() -> None:
    """It would fail again."""
    calls: list[Arrays] = []

    def run(inputs: Arrays) -> dict[str, Array]:
        calls.append(inputs)
        raise ValueError

    (answer,) = execute(run, Stack((IMAGE,), Memory(), 8), [item(1)], [1])
    assert isinstance(answer, ExecutionFailed)
    assert answer.message == "The model failed on this input: ValueError"
    assert len(calls) == 1


def test_a_library_that_talks_too_much_is_cut_short() -> None:
    """One line may be very long."""

    def run(inputs: Arrays) -> dict[str, Array]:
        raise RuntimeError("x" * 9000)

    (answer,) = execute(run, Stack((IMAGE,), Memory(), 8), [item(1)], [1])
    assert isinstance(answer, ExecutionFailed)
    assert len(answer.message) < LINE + 50


def test_a_model_whose_outputs_are_no_rows_says_so_to_each() -> None:
    """The reason is the model's, so it is not wrapped into another one."""
    items = [item(1), item(2)]
    answers = execute(
        lambda inputs: {"y": np.zeros(9)}, Stack((IMAGE,), Memory(), 8), items, [1, 2]
    )
    assert [str(answer) for answer in answers] == [
        f"The model's output 'y' has the shape [9], which does not begin with the batch's {rows} "
        "rows."
        for rows in (1, 2)
    ]


def test_numbers_that_are_not_finite_pass() -> None:
    """Whether they are an error is not for the lane to say."""
    (answer,) = execute(
        lambda inputs: {"y": np.array([np.nan])}, Stack((IMAGE,), Memory(), 8), [item(1)], [1]
    )
    assert isinstance(answer, dict)
    assert np.isnan(answer["y"]).all()


def _values(answer: object) -> list[float]:
    assert isinstance(answer, dict)
    values: list[float] = answer["y"].ravel().tolist()
    return values

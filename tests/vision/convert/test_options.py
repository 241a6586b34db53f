"""Profiles and inputs as an operator types them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.convert.failures import ConversionError
from vision.convert.options import Profile, parse_input, parse_profile, profiles_for
from vision.tensors import DataType, TensorSpec

IMAGE = TensorSpec("image", DataType.FP32, (3, 224, 224))
IDS = TensorSpec("ids", DataType.INT64, (None,))


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("image:3x224x224", IMAGE),
        ("ids:?:int64", IDS),
        ("x:7:FP16", TensorSpec("x", DataType.FP16, (7,))),
    ],
)
def test_inputs_are_name_sizes_and_type(text: str, spec: TensorSpec) -> None:
    assert parse_input(text) == spec


@pytest.mark.parametrize("text", ["image", "image:3xx", "image:3:FP7", ":3", "a:3:FP32:4"])
def test_other_inputs_are_refused_in_a_line(text: str) -> None:
    with pytest.raises(ConversionError, match=f"^--input {text}: "):
        parse_input(text)


def test_profile_is_three_shapes_or_one_for_all() -> None:
    assert parse_profile("a:1x2,4x2,8x2") == Profile("a", (1, 2), (4, 2), (8, 2))
    assert parse_profile("a:b:4x2") == Profile("a:b", (4, 2), (4, 2), (4, 2))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple), st.integers(0, 3))
def test_profiles_round_trip(least: tuple[int, ...], more: int) -> None:
    shapes = [tuple(size + more * step for size in least) for step in range(3)]
    text = ",".join("x".join(map(str, shape)) for shape in shapes)
    assert parse_profile(f"in:{text}") == Profile("in", *shapes)


@pytest.mark.parametrize(
    "text",
    ["1x2", "a:", "a:1x2,3x4", "a:1x2,2,3x2", "a:4x2,2x2,8x2", "a:0x2,1x2,1x2", "a:1xb", ":1x2"],
)
def test_other_profiles_are_refused_in_a_line(text: str) -> None:
    with pytest.raises(ConversionError, match=r"^--profile .*: "):
        parse_profile(text)


def test_without_profiles_there_is_one_tuned_for_full_batches() -> None:
    (only,) = profiles_for([IMAGE], 32, [])
    rest = (3, 224, 224)
    assert only == {"image": Profile("image", (1, *rest), (32, *rest), (32, *rest))}


def test_second_profile_of_an_input_is_the_second_profile() -> None:
    mask = TensorSpec("mask", DataType.INT64, (None,))
    given_ones = [
        parse_profile("ids:1x8,4x8,8x8"),
        parse_profile("ids:1x128,4x128,8x128"),
        parse_profile("mask:1x8,4x8,8x8"),
        parse_profile("mask:1x128,4x128,8x128"),
    ]
    first, second = profiles_for([IDS, mask], 8, given_ones)
    assert (first["ids"].most, first["mask"].most) == ((8, 8), (8, 8))
    assert (second["ids"].most, second["mask"].most) == ((8, 128), (8, 128))


def test_inputs_without_a_profile_take_the_batches_of_the_others() -> None:
    (only,) = profiles_for([IDS, IMAGE], 32, [parse_profile("ids:1x8,4x8,6x8")])
    assert [
        shape[0] for shape in (only["image"].least, only["image"].usual, only["image"].most)
    ] == [
        1,
        4,
        6,
    ]


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        ("other:1x2", "no input has this name; there is image"),
        ("image:1x3x224", "the model's input is batchx3x224x224"),
        ("image:1x3x100x100,1x3x200x200,1x3x224x224", "the model's input"),
    ],
)
def test_profiles_that_do_not_fit_the_model_are_refused(profile: str, why: str) -> None:
    with pytest.raises(ConversionError, match=why):
        profiles_for([IMAGE], 32, [parse_profile(profile)])


def test_some_profile_takes_a_lone_request() -> None:
    with pytest.raises(ConversionError, match="none takes a batch of 1"):
        profiles_for([IMAGE], 32, [parse_profile("image:4x3x224x224")])


def test_free_axis_wants_a_profile() -> None:
    with pytest.raises(ConversionError, match=r"ids is batchx\?: say how long .* --profile ids:"):
        profiles_for([IDS], 8, [])

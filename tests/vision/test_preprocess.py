"""Sizes, centres, padding, layouts and types of a model's rows."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.pictures import noise
from vision.config import Preprocessing
from vision.errors import BadInput, ConfigError
from vision.preprocess import Preprocessor
from vision.tensors import DataType, TensorSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def spec(*shape: int | None, dtype: str = "FP32") -> TensorSpec:
    return TensorSpec("pixels", DataType(dtype), shape)


def made(shape: TensorSpec, **config: Any) -> Preprocessor:
    return Preprocessor(Preprocessing.model_validate(config), shape)


def plain(image: Image.Image, config: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The same arithmetic in float64, step by step, as the config's words say it."""
    values = np.asarray(image.convert("L" if config.get("color") == "gray" else "RGB"))
    values = values.astype(np.float64)
    values = values[:, :, None] if values.ndim == 2 else values
    if config.get("color") == "bgr":
        values = values[:, :, ::-1]
    values = values * config.get("scale", 1 / 255)
    values = (values - np.array(config.get("mean", 0.0))) / np.array(config.get("std", 1.0))
    return values if config.get("layout") == "hwc" else values.transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("color", "layout", "scaling", "dtype"),
    [
        *itertools.product(
            ("rgb", "bgr", "gray"),
            ("chw", "hwc"),
            ({}, {"mean": MEAN, "std": STD}, {"mean": (0.5,) * 3}, {"scale": 1.0}),
            ("FP16", "FP32", "FP64"),
        )
    ],
)
def test_the_arithmetic_is_scale_then_mean_and_std_for_each_channel(
    color: str, layout: str, scaling: dict[str, Any], dtype: str
) -> None:
    channels = 1 if color == "gray" else 3
    config: dict[str, Any] = {"color": color, "layout": layout}
    config |= {
        key: value[:channels] if isinstance(value, tuple) else value
        for key, value in scaling.items()
    }
    shape = (channels, 6, 5) if layout == "chw" else (6, 5, channels)
    image = noise(5, 6)
    row, _ = made(spec(*shape, dtype=dtype), **config).row(image)
    assert row.shape == shape
    assert row.dtype == DataType(dtype).numpy
    assert row.flags.c_contiguous
    tolerance = {"FP16": 2e-3, "FP32": 1e-6, "FP64": 1e-12}[dtype]
    expected = plain(image, config)
    assert np.allclose(row.astype(np.float64), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["UINT8", "INT16", "INT32", "INT64"])
def test_integers_stay_as_they_are(dtype: str) -> None:
    image = noise(5, 6)
    row, _ = made(spec(6, 5, 3, dtype=dtype), layout="hwc", scale=1).row(image)
    assert row.dtype == DataType(dtype).numpy
    assert np.array_equal(row, np.asarray(image))
    row[:] = 0  # The caller's own: the image does not change with it.
    assert np.asarray(image).any()


def test_grey_models_may_have_no_channel_axis() -> None:
    for layout in ("chw", "hwc"):
        row, _ = made(spec(8, 8), color="gray", layout=layout).row(noise(8, 8))
        assert row.shape == (8, 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_any_mode_becomes_the_model_s_colour(mode: str) -> None:
    image = noise(8, 8, mode)
    row, _ = made(spec(8, 8, 3, dtype="UINT8"), layout="hwc", scale=1).row(image)
    assert np.array_equal(row, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("size", "shorter", "expected"),
    [
        ((640, 427), 256, (383, 256)),  # 256 * 640 / 427 = 383.7: rounded down
        ((427, 640), 256, (256, 383)),
        ((256, 256), 256, (256, 256)),
        ((300, 256), 256, (300, 256)),
        ((10, 7), 256, (365, 256)),
    ],
)
def test_the_shorter_side_gets_the_size_and_the_longer_is_rounded_down(
    size: tuple[int, int], shorter: int, expected: tuple[int, int]
) -> None:
    resize = {"size": (shorter, shorter), "mode": "shortest"}
    row, geometry = made(spec(3, None, None), resize=resize).row(Image.new("RGB", size))
    assert row.shape == (3, expected[1], expected[0])
    assert (geometry.scale_x, geometry.scale_y) == (expected[0] / size[0], expected[1] / size[1])


@pytest.mark.parametrize(
    ("rounding", "size", "left"),
    [
        # torchvision: round half to even, and half of what is missing rounded down
        ("torchvision", 10, 0),
        ("torchvision", 11, 0),
        ("torchvision", 12, 1),
        ("torchvision", 13, 2),
        ("torchvision", 15, 2),
        ("torchvision", 9, 0),
        ("torchvision", 7, -1),
        ("torchvision", 5, -2),
        # transformers: always down
        ("transformers", 10, 0),
        ("transformers", 11, 0),
        ("transformers", 12, 1),
        ("transformers", 13, 1),
        ("transformers", 15, 2),
        ("transformers", 9, -1),
        ("transformers", 7, -2),
        ("transformers", 5, -3),
    ],
)
def test_the_centre_is_where_the_reference_has_it(rounding: str, size: int, left: int) -> None:
    """Negative: so much is padded before, with zeros."""
    ramp = Image.fromarray(np.arange(1, size + 1, dtype=np.uint8)[None, :].repeat(10, 0))
    config = {"color": "gray", "crop": (10, 10), "rounding": rounding, "scale": 1}
    row, geometry = made(spec(1, 10, 10), **config).row(ramp)
    wanted = [column + 1 if 0 <= column < size else 0 for column in range(left, left + 10)]
    assert row[0, 0].tolist() == wanted
    assert (geometry.offset_x, geometry.offset_y) == (-left, 0)


@pytest.mark.parametrize(
    ("size", "inner", "offset"),
    [
        ((640, 480), (64, 48), (0, 8)),
        ((480, 640), (48, 64), (8, 0)),
        ((64, 64), (64, 64), (0, 0)),
        ((1000, 3), (64, 1), (0, 31)),
        ((100_000, 1), (64, 1), (0, 31)),
    ],
)
def test_letterbox_keeps_the_aspect_and_pads_around(
    size: tuple[int, int], inner: tuple[int, int], offset: tuple[int, int]
) -> None:
    resize = {"size": (64, 64), "mode": "letterbox"}
    config = {"resize": resize, "scale": 1, "layout": "hwc"}
    row, geometry = made(spec(64, 64, 3, dtype="UINT8"), **config).row(
        Image.new("RGB", size, "white")
    )
    white = np.zeros((64, 64), bool)
    white[offset[1] : offset[1] + inner[1], offset[0] : offset[0] + inner[0]] = True
    assert (row[white] == 255).all()
    assert (row[~white] == 114).all()
    assert (geometry.offset_x, geometry.offset_y) == offset


BOXED = st.tuples(st.integers(20, 300), st.integers(20, 300))


@given(
    BOXED, st.sampled_from(["exact", "shortest", "letterbox"]), st.sampled_from([None, (48, 40)])
)
def test_boxes_of_the_input_map_back_to_the_original(
    size: tuple[int, int], mode: str, crop: tuple[int, int] | None
) -> None:
    """Where the image's middle lies in the input, the geometry finds the middle again."""
    config = {"resize": {"size": (64, 56), "mode": mode}, "crop": crop}
    row, geometry = made(spec(3, None, None), **config).row(Image.new("RGB", size))
    height, width = row.shape[1:]
    centre = np.array([[width / 2, height / 2] * 2])
    x, y, *_ = geometry.to_original(centre)[0]
    assert abs(x - size[0] / 2) <= 1 / geometry.scale_x  # A pixel of the input: roundings.
    assert abs(y - size[1] / 2) <= 1 / geometry.scale_y
    outside = geometry.to_original(np.array([[-1e4, -1e4, 1e4, 1e4]]))[0]
    assert outside.tolist() == [0, 0, *size]


def test_a_thin_image_does_not_grow_without_bound() -> None:
    resize = {"size": (256, 256), "mode": "shortest"}
    step = made(spec(3, 224, 224), resize=resize, crop=(224, 224))
    with pytest.raises(BadInput) as caught:
        step.row(Image.new("L", (1, 1_000_000)))
    assert caught.value.code == "image_too_large"
    assert step.row(Image.new("L", (1, 200)))[0].shape == (3, 224, 224)


def test_an_image_of_another_size_is_refused_where_nothing_resizes() -> None:
    step = made(spec(1, 8, 8), color="gray")
    assert step.row(Image.new("L", (8, 8)))[0].shape == (1, 8, 8)
    with pytest.raises(BadInput) as caught:
        step.row(Image.new("L", (8, 9)))
    assert caught.value.code == "invalid_image"
    assert "8 x 9" in caught.value.message


@pytest.mark.parametrize(
    ("shape", "config", "said"),
    [
        (spec(3, 224, 224), {"color": "gray"}, "3 channels"),
        (spec(1, 8, 8), {}, "1 channels"),
        (spec(224, 224, 3), {}, "224 channels"),
        (spec(10), {}, "shape"),
        (spec(2, 3, 4, 5), {}, "shape"),
        (spec(8, 8), {}, "shape"),
        (spec(3, 8, 8), {"resize": {"size": (9, 8)}}, "9 x 8"),
        (spec(3, 8, 8), {"crop": (8, 9)}, "8 x 9"),
        (spec(3, 8, 8), {"resize": {"size": (8, 8), "mode": "shortest"}}, "crop"),
        (spec(3, 8, 8, dtype="UINT8"), {}, "scale: 1"),
        (spec(3, 8, 8, dtype="UINT8"), {"scale": 1, "mean": MEAN}, "scale: 1"),
        (spec(3, 8, 8, dtype="INT8"), {"scale": 1}, "INT8"),
        (spec(3, 8, 8, dtype="BOOL"), {"scale": 1}, "BOOL"),
    ],
)
def test_a_configuration_that_cannot_feed_the_input_says_so(
    shape: TensorSpec, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        made(shape, **config)


def test_how_large_a_row_is_can_be_asked() -> None:
    assert made(spec(3, 224, 200)).pixels == 44_800
    assert made(spec(3, None, 200)).pixels == float("inf")

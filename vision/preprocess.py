"""How does an image become a row of the model's input?

    colour ──► resize ──► crop ──► scale * x, (x - mean) / std, layout, dtype

Resizing is Pillow's on 8-bit pixels, as in torchvision and transformers, so that the result is
theirs; the arithmetic behind it is one multiplication and one addition. 224 x 224 RGB to a float32
row costs 130 µs behind the resize.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from vision.config import Preprocessing
from vision.errors import BadInput, ConfigError
from vision.geometry import Geometry
from vision.tensors import Array, DataType, TensorSpec

_MODES: Final = {"rgb": "RGB", "bgr": "RGB", "gray": "L"}
_FILTERS: Final = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# `shortest` would make 256 x 16,777,000 pixels of 1 x 65,535. With 16 million, images of
# 244 : 1 still become 256 pixels high.
_MAX_RESIZED_PIXELS: Final = 16_000_000
_FLOATS: Final = (DataType.FP16, DataType.FP32, DataType.FP64)


class Preprocessor:
    """One model's way from images to rows; it holds no state of a request, threads may share it."""

    __slots__ = (
        "_config",
        "_factor",
        "_filter",
        "_height",
        "_mode",
        "_shift",
        "_spec",
        "_width",
        "input",
        "pixels",
    )

    def __init__(self, config: Preprocessing, spec: TensorSpec) -> None:
        """Raise `ConfigError` if what the configuration makes cannot be what the input takes."""
        self._config = config
        self._spec = spec
        self.input = spec.name
        self._mode = _MODES[config.color]
        self._filter = _FILTERS[config.resize.filter] if config.resize else Image.Resampling.BOX
        channels, self._height, self._width = _sizes(config, spec)
        if channels not in (None, config.channels):
            raise _wrong(spec, f"it has {channels} channels, `color` gives {config.channels}")
        self._check_size()
        self.pixels = (self._height or math.inf) * (self._width or math.inf)
        """Of a row, infinity if images of any size are: what its arithmetic costs."""
        mean = np.array(config.mean or (0.0,) * config.channels)
        std = np.array(config.std or (1.0,) * config.channels)
        factor, shift = config.scale / std, -mean / std
        if spec.dtype not in _FLOATS:
            if spec.dtype in (DataType.BOOL, DataType.INT8):
                raise _wrong(spec, f"{spec.dtype} does not hold the values 0 to 255")
            if (factor != 1).any() or shift.any():
                raise _wrong(spec, f"{spec.dtype} needs `scale: 1` and neither mean nor std")
        # One number for all channels is broadcast for nothing; FP64 keeps the config's digits.
        work = np.float64 if spec.dtype is DataType.FP64 else np.float32
        self._factor = None if (factor == 1).all() else _channelwise(factor, work)
        self._shift = None if not shift.any() else _channelwise(shift, work)

    def row(self, image: Image.Image) -> tuple[Array, Geometry]:
        """Return the row (the spec's shape and type, no batch axis) and where the image lies in it.

        Raises `BadInput` (`invalid_image`, `image_too_large`) for an image whose size or shape the
        model does not take.
        """
        coloured = image if image.mode == self._mode else image.convert(self._mode)
        laid, geometry = self._lay(coloured)
        if (self._height not in (None, laid.height)) or (self._width not in (None, laid.width)):
            raise BadInput(
                f"The image has {laid.width} x {laid.height} pixels; the model takes "
                f"{self._width or 'any'} x {self._height or 'any'} and does not resize.",
                code="invalid_image",
            )
        return self._values(np.asarray(laid)), geometry

    def _lay(self, image: Image.Image) -> tuple[Image.Image, Geometry]:
        resize, crop = self._config.resize, self._config.crop
        width, height = image.size
        target = width, height
        if resize is not None:
            target = _resized(resize.mode, resize.size, width, height)
            if resize.mode == "shortest" and target[0] * target[1] > _MAX_RESIZED_PIXELS:
                raise BadInput(
                    f"The image is too elongated: {width} x {height} pixels would become "
                    f"{target[0]} x {target[1]}.",
                    code="image_too_large",
                )
        laid = image if target == image.size else image.resize(target, self._filter)
        left = top = 0
        if resize is not None and resize.mode == "letterbox":
            left, top = (resize.size[1] - target[0]) // 2, (resize.size[0] - target[1]) // 2
            grey = resize.pad if self._mode == "L" else (resize.pad,) * 3
            canvas = Image.new(self._mode, (resize.size[1], resize.size[0]), grey)
            canvas.paste(laid, (left, top))
            laid = canvas
        if crop is not None and (laid.height, laid.width) != crop:
            centre = _CENTRES[self._config.rounding]
            cut_x, cut_y = centre(laid.width, crop[1]), centre(laid.height, crop[0])
            # Pillow fills with 0 what lies outside, as the references do.
            laid = laid.crop((cut_x, cut_y, cut_x + crop[1], cut_y + crop[0]))
            left, top = left - cut_x, top - cut_y
        return laid, Geometry(width, height, target[0] / width, target[1] / height, left, top)

    def _values(self, pixels: Array) -> Array:
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if self._config.color == "bgr":
            pixels = pixels[:, :, ::-1]
        chw = self._config.layout == "chw"
        if chw:
            pixels = pixels.transpose(2, 0, 1)
        dtype = self._spec.dtype.numpy
        scaled = self._factor is not None or self._shift is not None
        row = np.array(pixels, np.float32 if scaled and dtype == np.float16 else dtype, order="C")
        # The inner loop has to be long: of hwc it runs over a line, not over three channels.
        flat = row if chw else row.reshape(row.shape[0], -1)
        if self._factor is not None:
            flat *= _along(self._factor, flat.shape, chw)
        if self._shift is not None:
            flat += _along(self._shift, flat.shape, chw)
        if row.ndim != len(self._spec.shape):
            row = row.reshape(row.shape[1:] if chw else row.shape[:2])
        return row.astype(dtype, copy=False)

    def _check_size(self) -> None:
        """A size that the configuration fixes has to be the input's."""
        resize, crop = self._config.resize, self._config.crop
        if crop is not None:
            made: tuple[int, int] | None = crop
        elif resize is None:
            made = None
        elif resize.mode == "shortest":
            if self._height is not None and self._width is not None:
                raise _wrong(self._spec, "`shortest` makes images of any shape: add a `crop`")
            made = None
        else:
            made = resize.size
        if made is not None and (
            self._height not in (None, made[0]) or self._width not in (None, made[1])
        ):
            raise _wrong(
                self._spec,
                f"it takes {self._height or 'any'} x {self._width or 'any'} (height x width), "
                f"resize and crop make {made[0]} x {made[1]}",
            )


def _channelwise(values: Array, dtype: npt.DTypeLike) -> Array:
    distinct = values[:1] if (values == values[0]).all() else values
    return distinct.astype(dtype)


def _along(values: Array, shape: tuple[int, ...], chw: bool) -> Array:
    """Lay one value for each channel so that it broadcasts over [c, h, w] or [h, w * c]."""
    if values.size == 1:
        return values
    return values[:, None, None] if chw else np.tile(values, shape[1] // values.size)


def _wrong(spec: TensorSpec, why: str) -> ConfigError:
    return ConfigError(f"preprocessing: input {spec.name!r}: {why}")


def _sizes(config: Preprocessing, spec: TensorSpec) -> tuple[int | None, int | None, int | None]:
    """Return channels, height and width of the input; None for any."""
    shape = spec.shape
    if len(shape) == 2 and config.channels == 1:
        return 1, shape[0], shape[1]
    if len(shape) != 3:
        raise _wrong(spec, f"the shape {list(shape)} is not one of images without a batch axis")
    if config.layout == "chw":
        return shape[0], shape[1], shape[2]
    return shape[2], shape[0], shape[1]


def _resized(mode: str, size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """Return the width and height to resize to.

    `shortest` is torchvision's `Resize(int)` and transformers' `shortest_edge`: the longer side is
    rounded down. `letterbox` is Ultralytics': rounded, and never empty.
    """
    if mode == "exact":
        return size[1], size[0]
    if mode == "shortest":
        shorter = size[0]
        if width <= height:
            return shorter, int(shorter * height / width)
        return int(shorter * width / height), shorter
    ratio = min(size[0] / height, size[1] / width)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def _torchvision_centre(size: int, crop: int) -> int:
    """Where `torchvision.transforms.functional.center_crop` begins; negative is padding."""
    return round((size - crop) / 2) if size >= crop else -((crop - size) // 2)


def _transformers_centre(size: int, crop: int) -> int:
    """Where `transformers.image_transforms.center_crop` begins; negative is padding."""
    return (size - crop) // 2


_CENTRES: Final = {"torchvision": _torchvision_centre, "transformers": _transformers_centre}

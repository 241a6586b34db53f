"""What does a Hugging Face image processor do to an image, in the words of our `config.yaml`?

Read from its `preprocessor_config.json` alone: the processors themselves want torchvision.
Pure: values only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from vision.config import Preprocessing, Resize

Filter = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
_FILTERS: Mapping[int, Filter] = {  # PIL.Image.Resampling
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
CONVNEXT_CROP = 224 / 256
"""Transformers' default of `crop_pct`."""
CONVNEXT_UNCROPPED = 384
"""From this size on ConvNeXT's processor does not crop (transformers)."""
_KIND = re.compile(r"(\w*?)(imageprocessor|featureextractor)")
_BY_THE_SHORTER_SIDE = frozenset(
    {"bit", "chineseclip", "clip", "mobilenetv1", "mobilenetv2", "siglip"}
)
"""Whose `size`, if it is one number, is the shorter side's; of the others both sides'."""
_UNLIKE_VIT = frozenset({"imagegpt", "levit", "perceiver", "poolformer", "textnet"})
"""Whose code resizes, crops or encodes in a way of its own that the keys do not say."""


class UnknownProcessorError(Exception):
    """The processor does something that `config.yaml` has no words for; the message says what."""


def preprocessing(processor: Mapping[str, Any], name: str | None = None) -> Preprocessing:
    """Say what the processor does. `name` is the input that it feeds.

    Left out keys have the defaults of transformers' ViT processor, or ConvNeXT's if it is that one.
    Raises `UnknownProcessorError`.
    """
    kind = str(processor.get("image_processor_type", processor.get("feature_extractor_type", "")))
    named = _KIND.match(kind.lower())
    family = "" if named is None else named[1]
    if family in _UNLIKE_VIT:
        raise UnknownProcessorError(f"own way ({kind})")
    if family in _BY_THE_SHORTER_SIDE and isinstance(edge := processor.get("size"), int):
        processor = {**processor, "size": {"shortest_edge": edge}}
    convnext = family == "convnext"
    resize, crop = (_convnext if convnext else _plain)(processor, _filter(processor, convnext))
    for key in ("do_pad", "do_flip_channel_order", "do_thumbnail", "do_align_long_axis"):
        if processor.get(key):
            raise UnknownProcessorError(key)
    if processor.get("rescale_offset"):
        raise UnknownProcessorError("rescale_offset")
    normalize = processor.get("do_normalize", True)
    std = processor.get("image_std", (0.5, 0.5, 0.5))
    if family == "efficientnet" and processor.get("include_top", True):
        if not normalize:
            raise UnknownProcessorError("include_top")
        std = tuple(one * one for one in std)  # It divides by it a second time.
    try:
        return Preprocessing(
            input=name,
            resize=resize,
            crop=crop,
            scale=processor.get("rescale_factor", 1 / 255)
            if processor.get("do_rescale", True)
            else 1.0,
            mean=processor.get("image_mean", (0.5, 0.5, 0.5)) if normalize else (),
            std=std if normalize else (),
            rounding="transformers",
        )
    except ValidationError as error:
        raise UnknownProcessorError(error.errors()[0]["msg"]) from error


def image_size(made: Preprocessing, fallback: tuple[int, int]) -> tuple[int, int]:
    """Height and width of what it makes; `fallback` if it makes images of any size."""
    if made.crop is not None:
        return made.crop
    if made.resize is not None and made.resize.mode == "exact":
        return made.resize.size
    return fallback


def _plain(processor: Mapping[str, Any], chosen: Filter) -> tuple[Resize | None, Any]:
    """Resize to `size`, then cut `crop_size` out of the middle: ViT, DeiT, CLIP, Bit and others."""
    resize = None
    if processor.get("do_resize", True):
        size = processor.get("size", {"height": 224, "width": 224})
        if isinstance(size, int):
            size = {"height": size, "width": size}
        if set(size) == {"shortest_edge"}:
            edge = size["shortest_edge"]
            resize = Resize(size=(edge, edge), mode="shortest", filter=chosen)
        else:
            resize = Resize(size=_pair(size, "size"), mode="exact", filter=chosen)
    crop = None
    if processor.get("do_center_crop", False):
        crop = _pair(processor.get("crop_size", 224), "crop_size")
    return resize, crop


def _convnext(processor: Mapping[str, Any], chosen: Filter) -> tuple[Resize | None, Any]:
    """Under 384: the shorter side to size / crop_pct, then the middle. Else straight to the size.

    ResNets on the hub use this one, too.
    """
    size = processor.get("size", {"shortest_edge": CONVNEXT_UNCROPPED})
    edge = size if isinstance(size, int) else size.get("shortest_edge")
    if not isinstance(edge, int):
        raise UnknownProcessorError(f"size {size}")
    if not processor.get("do_resize", True):
        return None, None
    if edge >= CONVNEXT_UNCROPPED:
        return Resize(size=(edge, edge), mode="exact", filter=chosen), None
    # A null stands in old files of processors that had no such key.
    wide = int(edge / (processor.get("crop_pct") or CONVNEXT_CROP))
    return Resize(size=(wide, wide), mode="shortest", filter=chosen), (edge, edge)


def _filter(processor: Mapping[str, Any], convnext: bool) -> Filter:
    number = processor.get("resample", 3 if convnext else 2)
    if number not in _FILTERS:
        raise UnknownProcessorError(f"resample {number}")
    return _FILTERS[number]


def _pair(size: Any, key: str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return size["height"], size["width"]
    raise UnknownProcessorError(f"{key} {size}")

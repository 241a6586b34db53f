"""Where in the original image does a point of the model's input lie?

Pure: values only.
"""

from __future__ import annotations

from dataclasses import dataclass

from vision.tensors import Array


@dataclass(frozen=True, slots=True)
class Geometry:
    """How an image was laid into the model's input: `input = original * scale + offset`.

    `width` and `height` are the original's pixels, after EXIF rotation. A negative offset is what
    a crop cut off, a positive one is padding.
    """

    width: int
    height: int
    scale_x: float = 1.0
    scale_y: float = 1.0
    offset_x: float = 0.0
    offset_y: float = 0.0

    def to_original(self, boxes: Array) -> Array:
        """Map boxes [n, 4] of x1, y1, x2, y2 in the input's pixels; clipped to the original."""
        offset = (self.offset_x, self.offset_y) * 2
        scale = (self.scale_x, self.scale_y) * 2
        mapped: Array = (boxes - offset) / scale
        return mapped.clip(0, (self.width, self.height) * 2)

"""What does an image file show, and may it be decoded at all?

    bytes ──► open_image (header: format, pixels) ──► finish (pixels, EXIF rotation)

Nothing is decoded before its size is known to be under the cap. What is taken: JPEG, PNG, WebP, GIF
and BMP. Of a GIF or an animation it is the first frame. Not taken, though Pillow can: TIFF and
AVIF (whole codecs for files that predictions are hardly asked for), EPS and what else runs
programs. Colour profiles are ignored and an alpha channel is dropped, as torchvision's and
transformers' `convert("RGB")` do. JPEG's draft mode, which decodes to a fraction of the size, would
be faster for photographs, but its pixels are not the reference's.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import (  # The plugins register themselves; without them Pillow would load all of its own.
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from vision.errors import BadInput, TooLarge

FORMATS: Final = (
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
)
_ORIENTATION: Final = 0x0112
# Where Pillow looks for it; most images have none of these, and asking costs as much as decoding.
_EXIF: Final = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Each scan of a progressive JPEG costs a pass over all pixels; encoders write about ten, and what
# fuzzers write takes minutes. So many are decoded, of large images only the fewer ones.
_MAX_SCANS: Final = 100
_MIN_SCANS: Final = 20
_MAX_PASSED_PIXELS: Final = 10**9
# The longest that JPEG can say. A PNG of 1 x 50,000,000 pixels has 200 kB, and took 18 s and 1.9 GB
# to resize.
_MAX_SIDE: Final = 65_535
_JPEG: Final = b"\xff\xd8"
_SCAN, _END = b"\xda", b"\xd9"
# In coded data FF is followed by 00 or a restart's number.
_MARKER: Final = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_NOT_AN_IMAGE: Final = "The data is not a JPEG, PNG, WebP, GIF or BMP image that can be decoded."


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Caps of one image: its file's bytes, and its pixels when decoded. A side has 65,535 at most.

    50 million pixels are the largest single photographs, and 150 MB when decoded, twice that while
    they are turned or converted, in each decoding thread. Over 178 million Pillow refuses itself.
    """

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """Return the image upright and with its pixels; seconds for the largest: not on an event loop.

    Raises `BadInput` (`invalid_image`, `image_too_large`) or `TooLarge`.
    """
    return finish(open_image(data, limits))


def open_image(data: bytes, limits: ImageLimits) -> ImageFile.ImageFile:
    """Read the header, and refuse what is over the caps; 10 to 30 µs, whatever the image's size.

    Raises like `decode`.
    """
    if not data:
        raise BadInput("The image has no bytes.", code="invalid_image")
    if len(data) > limits.max_bytes:
        raise TooLarge(f"The image has {len(data)} bytes; at most {limits.max_bytes} are read.")
    # Pillow's WebP decoder allocates two canvases when it opens: the size is looked at before.
    width, height = _webp_size(data)
    _check_pixels(width, height, limits)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadInput(
            f"The image has too many pixels; at most {limits.max_pixels} are decoded.",
            code="image_too_large",
        ) from None
    except Exception as error:  # Hostile bytes: each of Pillow's parsers raises what it likes.
        raise BadInput(_NOT_AN_IMAGE, code="invalid_image") from error
    _check_pixels(image.width, image.height, limits)
    # By the first bytes: Pillow calls some JPEGs MPO.
    if data.startswith(_JPEG) and _has_endless_scans(data, image):
        raise BadInput(_NOT_AN_IMAGE, code="invalid_image")
    return image


def finish(image: ImageFile.ImageFile) -> Image.Image:
    """Decode an opened image and turn it upright.

    16-bit grey becomes 8-bit by its high byte (Pillow's `convert` would clip it to white). Other
    modes stay. Raises `BadInput` (`invalid_image`).
    """
    try:
        image.load()
    except Exception as error:  # As above; truncated files end here.
        raise BadInput(_NOT_AN_IMAGE, code="invalid_image") from error
    turn = _UPRIGHT.get(_orientation(image))
    upright = image if turn is None else image.transpose(turn)
    # Bytes of transparency make `convert` warn; alpha is dropped in any case.
    upright.info.pop("transparency", None)
    if upright.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    return upright


def _orientation(image: ImageFile.ImageFile) -> int:
    if _EXIF.isdisjoint(image.info):
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # A camera's broken EXIF does not make the picture less valid.
        return 1


def _has_endless_scans(data: bytes, image: Image.Image) -> bool:
    """Say whether a JPEG has more scans than any encoder writes; T.81, annex B."""
    affordable = _MAX_PASSED_PIXELS // max(1, image.width * image.height)
    most = min(_MAX_SCANS, max(_MIN_SCANS, affordable))
    # Most files end here. A phone's may have the bytes by chance, in a film behind the picture.
    if data.count(b"\xff" + _SCAN) <= most:
        return False
    position, scans = len(_JPEG), 0
    while (marker := _MARKER.search(data, position)) and marker[1] != _END:
        scans += marker[1] == _SCAN
        if scans > most:
            return True
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return False


def _check_pixels(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise BadInput(
            f"The image has {width} x {height} pixels; at most {limits.max_pixels} are decoded.",
            code="image_too_large",
        )
    if max(width, height) > _MAX_SIDE:
        raise BadInput(
            f"The image has {width} x {height} pixels; a side has at most {_MAX_SIDE}.",
            code="image_too_large",
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return a WebP's canvas, (0, 0) for anything else.

    The offsets are those of RFC 9649: VP8X (24-bit sizes less one), VP8L (14 bits each, less one),
    VP8 (14 bits each behind the start code).
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return (0, 0)
    match data[12:16]:
        case b"VP8X":
            width, height = data[24:27], data[27:30]
            return (int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1)
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        case b"VP8 ":
            width, height = data[26:28], data[28:30]
            return (
                int.from_bytes(width, "little") & 0x3FFF,
                int.from_bytes(height, "little") & 0x3FFF,
            )
        case _:
            return (0, 0)

"""What do one request's inputs become?

    JSON "inputs", files of a form, a body ──► Source ──► Decoder.rows ──► arrays, rows first

A source that is wrong carries its refusal: it is raised when its turn comes, so that a bad item of
a list fails alone.
"""

from __future__ import annotations

import asyncio
import binascii
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from PIL.ImageFile import ImageFile

from vision import values
from vision.errors import BadInput, TooLarge
from vision.fetch import Fetcher
from vision.geometry import Geometry
from vision.images import ImageLimits, finish, open_image
from vision.preprocess import Preprocessor
from vision.tensors import Arrays, TensorSpec

# Up to here decoding costs less on the event loop than the way to a thread and back, which is 50 µs
# for nothing and 100 µs in fact. Measured with the preprocessing, CPU on the loop and through a
# thread: 84 and 177 µs for 8 x 8 pixels as PNG, 111 and 243 for 32 x 32, 210 and 336 for 64 x 64.
# Beyond it the loop would stand still too long for the others.
_INLINE_BYTES: Final = 8192
_INLINE_SIDE: Final = 64
_INLINE_PIXELS: Final = _INLINE_SIDE**2
_INLINE_VALUES: Final = 4096

_IMAGE: Final = "image"
_TOLERATED: Final = str.maketrans("-_", "+/", " \t\r\n")


@dataclass(frozen=True, slots=True)
class Source:
    """One item as it came: an image unless another field is set.

    `param` is its path in the request (`inputs[2]`). `image` is a file's bytes, or their base64 as
    text; `tensors` are JSON values by input name.
    """

    param: str
    image: bytes | str = b""
    url: str | None = None
    tensors: Mapping[str, object] | None = None
    refusal: BadInput | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """One item's rows, always one of them, and the seconds that its stages took."""

    arrays: Arrays
    geometry: Geometry | None = None
    fetch_s: float = 0.0
    decode_s: float = 0.0
    preprocess_s: float = 0.0


def read_inputs(inputs: object, max_items: int) -> tuple[list[Source], bool]:
    """Read the JSON value of `inputs`: an item or a list of items; True if it was a list.

    Raises `BadInput` only for what is neither, and `TooLarge` before the first of too many items is
    looked at: a body of 32 MiB has room for 16 million of them, a refusal each.
    """
    if isinstance(inputs, dict):
        return [_source(inputs, "inputs")], False
    if isinstance(inputs, list) and inputs:
        if len(inputs) > max_items:
            raise TooLarge(f"A request may have {max_items} items.", param="inputs")
        return [_source(item, f"inputs[{index}]") for index, item in enumerate(inputs)], True
    raise BadInput(
        "inputs: has to be an object, or a list of objects that is not empty.", param="inputs"
    )


def _source(item: object, param: str) -> Source:
    if not isinstance(item, dict) or not item:
        return _refused("has to be an object with `image` or with tensors by name", param)
    image = item.get(_IMAGE)
    if not isinstance(image, str):
        return Source(param, tensors=item)
    param = f"{param}.{_IMAGE}"
    if len(item) > 1:
        return _refused("an image has nothing beside it", param)
    scheme, colon, rest = image.partition(":")
    if not colon:
        return Source(param, image=image)
    if scheme.lower() != "data":
        return Source(param, url=image)
    return _data_url(rest, param)


def _data_url(rest: str, param: str) -> Source:
    """RFC 2397. Of the media type only that it is an image's is looked at: the bytes tell."""
    media, comma, data = rest.partition(",")
    kind, *parameters = media.lower().split(";")
    if not comma or (kind and not kind.startswith("image/") and kind != "application/octet-stream"):
        return _refused("is not a data URL of an image", param)
    if parameters and parameters[-1].strip() == "base64":
        return Source(
            param, image=unquote_to_bytes(data).decode("latin-1") if "%" in data else data
        )
    return Source(param, image=unquote_to_bytes(data))


def _refused(why: str, param: str) -> Source:
    return Source(param, refusal=BadInput(f"{param}: {why}.", param=param))


def read_base64(text: str, limits: ImageLimits) -> bytes:
    """Return the bytes of RFC 4648 base64, also with its URL-safe letters and across lines.

    The padding has to be there. Raises `BadInput` (`invalid_base64`), `TooLarge` before anything is
    decoded.
    """
    # Line ends are a character or two in 76.
    if len(text) * 3 // 4 > limits.max_bytes + limits.max_bytes // 16:
        raise TooLarge(f"The image has more than {limits.max_bytes} bytes.")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # Not ASCII, too. Perhaps it is only written in another way.
        pass
    try:
        return binascii.a2b_base64(text.translate(_TOLERATED), strict_mode=True)
    except ValueError as error:
        raise BadInput(
            "The image is neither valid base64 with its padding, nor a data URL, nor a URL.",
            code="invalid_base64",
        ) from error


class Decoder:
    """Turns sources into rows: fetches, decodes and preprocesses, large images in its threads."""

    def __init__(
        self,
        limits: ImageLimits,
        fetcher: Fetcher,
        threads: int,
        *,
        monotonic: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._limits = limits
        self._fetcher = fetcher
        self._monotonic = monotonic
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def rows(
        self, source: Source, inputs: Sequence[TensorSpec], preprocessor: Preprocessor | None
    ) -> Decoded:
        """Return the source's row for each input of the model.

        Raises `BadInput` or `TooLarge` with the source's `param`.
        """
        try:
            return await self._rows(source, inputs, preprocessor)
        except (BadInput, TooLarge) as refusal:
            refusal.param = refusal.param or source.param
            raise

    def close(self) -> None:
        """End the threads; what they have begun is finished first."""
        self._threads.shutdown()

    async def _rows(
        self, source: Source, inputs: Sequence[TensorSpec], preprocessor: Preprocessor | None
    ) -> Decoded:
        if source.refusal is not None:
            raise source.refusal
        if source.tensors is not None:
            return await self._tensors(source.tensors, inputs, source.param)
        if preprocessor is None:
            raise BadInput(
                "The model takes tensors by name, no images: "
                f"{', '.join(spec.name for spec in inputs)}.",
                code="unsupported_input",
            )
        others = [spec.name for spec in inputs if spec.name != preprocessor.input]
        if others:
            raise BadInput(
                f"Beside the image the model needs {', '.join(others)}: send all as tensors.",
                code="unsupported_input",
            )
        started = self._monotonic()
        image = source.image if source.url is None else await self._fetcher.get(source.url)
        fetch_s = self._monotonic() - started
        if len(image) > _INLINE_BYTES or preprocessor.pixels > _INLINE_PIXELS:
            return await self._in_thread(self._decode, image, preprocessor, fetch_s)
        started = self._monotonic()
        opened = self._open(image)
        open_s = self._monotonic() - started
        # By sides, for a thin image grows long if its shorter side is resized.
        if max(opened.size) > _INLINE_SIDE:
            return await self._in_thread(self._finish, opened, preprocessor, fetch_s, open_s)
        return self._finish(opened, preprocessor, fetch_s, open_s)

    async def _in_thread(self, step: Callable[..., Decoded], *args: object) -> Decoded:
        return await asyncio.get_running_loop().run_in_executor(self._threads, step, *args)

    async def _tensors(
        self, tensors: Mapping[str, object], inputs: Sequence[TensorSpec], param: str
    ) -> Decoded:
        def read() -> Decoded:
            started = self._monotonic()
            arrays = values.read_row(tensors, inputs, param)
            return Decoded(arrays, decode_s=self._monotonic() - started)

        large = any(values.guess_count(value) > _INLINE_VALUES for value in tensors.values())
        return await self._in_thread(read) if large else read()

    def _decode(self, image: bytes | str, preprocessor: Preprocessor, fetch_s: float) -> Decoded:
        started = self._monotonic()
        opened = self._open(image)
        return self._finish(opened, preprocessor, fetch_s, self._monotonic() - started)

    def _open(self, image: bytes | str) -> ImageFile:
        data = image if isinstance(image, bytes) else read_base64(image, self._limits)
        return open_image(data, self._limits)

    def _finish(
        self, opened: ImageFile, preprocessor: Preprocessor, fetch_s: float, open_s: float
    ) -> Decoded:
        started = self._monotonic()
        image = finish(opened)
        decoded = self._monotonic()
        row, geometry = preprocessor.row(image)
        ended = self._monotonic()
        return Decoded(
            {preprocessor.input: row[None]},
            geometry,
            fetch_s,
            decode_s=open_s + decoded - started,
            preprocess_s=ended - decoded,
        )

"""Which fields and files does a `multipart/form-data` body hold?

The body is read as it comes; nothing of it is kept twice, and nothing goes to a disk. The number
of parts is bounded, and so is all that a field may say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from vision.errors import BadInput, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELDS = 16
MAX_FIELD_BYTES = 1024
"""Of a field that is no file: names and numbers."""

FILE = "image"
"""The field whose parts are images."""
TEXTS = frozenset({"model", "version", "top_k"})
"""The other fields of a prediction. Some clients say a file name of these, too."""


@dataclass(slots=True)
class Form:
    """What the body held."""

    fields: dict[str, str] = field(default_factory=dict)
    images: list[bytes] = field(default_factory=list)


def boundary_of(content_type: bytes) -> bytes:
    """Return what separates the parts; raises `BadInput` if the content type does not say."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary or len(boundary) > 200:
        raise BadInput("The content type multipart/form-data has to name its boundary.")
    return boundary


async def read_form(
    parts: AsyncIterator[bytes], boundary: bytes, max_images: int, max_image_bytes: int
) -> Form:
    """Read the whole body. Raises `BadInput` if it is no form, `TooLarge` over a cap."""
    reading = _Reading(max_images, max_image_bytes)
    try:
        parser = MultipartParser(boundary, reading.callbacks())
        async for part in parts:
            parser.write(part)
        parser.finalize()
    except FormParserError as error:
        raise BadInput(f"The form cannot be read: {error}.") from None
    if not reading.ended:
        raise BadInput("The form breaks off before its last boundary.")
    return reading.form


class _Reading:
    """The parser's callbacks; it knows nothing of parts' meaning."""

    def __init__(self, max_images: int, max_image_bytes: int) -> None:
        self.form = Form()
        self.ended = False
        self._max_images = max_images
        self._max_image_bytes = max_image_bytes
        self._name = b""
        self._value = b""
        self._disposition = b""
        self._field = ""
        self._content = bytearray()
        self._cap = MAX_FIELD_BYTES

    def callbacks(self) -> MultipartCallbacks:
        """Return them under the parser's names."""
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._disposition = b""
        self._content = bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _headers_end(self) -> None:
        options = parse_options_header(self._disposition)[1]
        name = options.get(b"name", b"")
        self._field = name.decode("utf-8", "replace")
        if not name:
            raise BadInput("A part of the form has no name.")
        if b"filename" in options and self._field not in {FILE, *TEXTS}:
            raise BadInput(f"Files go in the field `{FILE}`.", param=self._field[:64])
        if self._field == FILE:
            if len(self.form.images) >= self._max_images:
                raise TooLarge(f"A request may have {self._max_images} images.", param=FILE)
            self._cap = self._max_image_bytes
        else:
            if self._field in self.form.fields:
                raise BadInput("A field of the form is there twice.", param=self._field[:64])
            if len(self.form.fields) >= MAX_FIELDS:
                raise TooLarge(f"A form may have {MAX_FIELDS} fields.")
            self._cap = MAX_FIELD_BYTES

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content += memoryview(data)[start:end]
        if len(self._content) > self._cap:
            raise TooLarge(f"The field is over {self._cap} bytes.", param=self._field[:64])

    def _part_end(self) -> None:
        if self._field == FILE:
            self.form.images.append(bytes(self._content))
            return
        try:
            self.form.fields[self._field] = self._content.decode()
        except UnicodeDecodeError:
            raise BadInput("A field is not UTF-8.", param=self._field[:64]) from None

    def _end(self) -> None:
        self.ended = True

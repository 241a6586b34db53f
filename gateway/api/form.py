"""Which model does a multipart form ask for, as soon as its bytes say so?

Pure. Forms carry audio of many megabytes, so the search takes what has come so far and says
whether more is needed; a file's content is skipped by its delimiter, never looked into.
"""

from __future__ import annotations

import re

from gateway.errors import GatewayError, bad_request

MAX_PART_HEAD_BYTES = 8 * 1024
"""Starlette's own parser stops at 8 KiB of part headers as well."""

_BOUNDARY = re.compile(
    rb'multipart/form-data\s*;(?:.*;)?\s*boundary\s*=\s*(?:"([^"\r\n]{1,70})"|([^\s;"]{1,70}))',
    re.IGNORECASE | re.DOTALL,
)
_BOUNDARIES = re.compile(rb";\s*boundary\s*(\*[^=]*)?=", re.IGNORECASE)
# Parameters before `name` are skipped with their quoted values: a file's name may say anything.
_BEFORE_NAME = (
    rb'\r\ncontent-disposition[ \t]*:[^;\r\n]*(?:;[^;"\r\n]*(?:"(?:[^"\\\r\n]|\\.)*"[^;"\r\n]*)?)*?'
    rb";[ \t]*name"
)
_NAME = re.compile(_BEFORE_NAME + rb'=("?)model\1[ \t]*(?:;|\r\n|$)', re.IGNORECASE)
# Spellings that some parsers read as a plain name, and others do not: RFC 2231's, blanks, escapes.
_ODD_NAME = re.compile(_BEFORE_NAME + rb'(?:\*|[ \t]|=[ \t]|="[^"\r\n]*\\)', re.IGNORECASE)


def boundary_of(content_type: bytes) -> bytes:
    """Return the boundary of a form. Raises `GatewayError` 400 if there is none."""
    match = _BOUNDARY.match(content_type)
    if match is None:
        raise bad_request("The request needs a multipart/form-data body with a boundary.")
    return match.group(1) or match.group(2)


def only_boundary_of(content_type: bytes) -> bytes:
    """Return the boundary of a form that names it once, in one way; else raises as above."""
    if _BOUNDARIES.findall(content_type) != [b""]:
        raise bad_request("The request needs a multipart/form-data body with one boundary.")
    return boundary_of(content_type)


class ModelSearch:
    """Looks for the `model` field while a form comes; each byte is looked at once."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"--" + boundary
        self._at = 0  # Behind the delimiter that the part looked at begins with.
        self._searched = 0  # Where the next search for that part's end begins.
        self.ended = False
        """Whether the form's own end has been seen."""
        self.odd = False
        """Whether a part has a name that may be read in two ways."""

    def find(self, data: bytes | bytearray, *, whole: bool) -> tuple[int, int] | None:
        """Return the span of the field's value; `data` is all that has come so far.

        None means that more bytes are needed. Raises `GatewayError` 400 when `whole` says that
        no more will come and there is no `model`, or when the form is malformed.
        """
        delimiter = self._delimiter
        if len(data) >= len(delimiter) and not data.startswith(delimiter):
            raise bad_request("The form does not begin with its boundary.")
        self._at = self._at or len(delimiter)
        while (end := self._end_of_part(data)) >= 0:
            head_end = data.find(b"\r\n\r\n", self._at)
            begin, self._at = self._at, end + 2 + len(delimiter)
            if _NAME.search(data, begin, head_end):
                return _checked(data, head_end + 4, end)
            self.odd = self.odd or _ODD_NAME.search(data, begin, head_end) is not None
        if whole:
            raise _no_model()
        return None

    def find_another(self, data: bytes) -> bool:
        """Say whether a whole form has one more, after `find` has found the first."""
        try:
            return self.find(data, whole=True) is not None
        except GatewayError:
            return False

    def _end_of_part(self, data: bytes | bytearray) -> int:
        """Return the offset of the delimiter after the part looked at, -1 if it has not come."""
        at = self._at
        if data[at : at + 2] == b"--":
            self.ended = True
            raise _no_model()
        head_end = data.find(b"\r\n\r\n", at)
        if head_end < 0:
            if len(data) - at > MAX_PART_HEAD_BYTES:
                raise bad_request("A part of the form has too large a head.")
            return -1
        mark = b"\r\n" + self._delimiter
        end = data.find(mark, max(head_end + 2, self._searched))
        if end < 0:
            self._searched = len(data) - len(mark) + 1
        return end


def find_model(data: bytes, boundary: bytes) -> tuple[int, int]:
    """Return the span of the `model` field's value in a form that has as much as that.

    Raises `GatewayError` 400 when there is none.
    """
    span = ModelSearch(boundary).find(data, whole=True)
    assert span is not None  # noqa: S101  `whole` makes it raise instead
    return span


def only_model(data: bytes, boundary: bytes) -> tuple[int, int]:
    """Return the span of the one `model` field of a whole form.

    Of two, gateway and endpoint might take one each. Raises `GatewayError` 400.
    """
    search = ModelSearch(boundary)
    span = search.find(data, whole=True)
    assert span is not None  # noqa: S101  as above
    if search.find_another(data):
        raise bad_request("The form has more than one `model`.", "model")
    if search.odd:
        raise bad_request("The name of a part of the form can be read in two ways.")
    if not search.ended:
        raise bad_request("The form does not end with its boundary.")
    return span


def _checked(data: bytes | bytearray, start: int, end: int) -> tuple[int, int]:
    value = data[start:end] if end > start else b""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise bad_request("The form's `model` is not valid UTF-8.", "model") from None
    if not text or not text.isprintable():
        raise bad_request("The form's `model` is empty or not printable.", "model")
    return start, end


def _no_model() -> Exception:
    return bad_request("The request needs a `model` field.", "model")

"""Which values does a JSON body hold, or what is wrong with it?

Pure. Of a key that stands twice in an object the last value holds, as in msgspec; the gateway has
refused such bodies before. Nesting is capped by msgspec at the interpreter's recursion limit.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from vision.errors import BadInput

T = TypeVar("T")

_AT = re.compile(r" - at `\$\.?(?P<path>.*)`$")


def read_json(decoder: msgspec.json.Decoder[T], body: bytes | memoryview) -> T:
    """Return what `body` says; raises `BadInput` naming the field, never quoting a value."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise wrong_field(str(error)) from None
    except msgspec.DecodeError as error:
        raise BadInput(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    except UnicodeDecodeError:
        raise BadInput("The body is not UTF-8.", code="invalid_json") from None
    except RecursionError:
        raise BadInput("The body is nested too deep.", code="invalid_json") from None


def wrong_field(complaint: str) -> BadInput:
    """Return the error for msgspec's words: "Expected `str`, got `int` - at `$.inputs[0].name`"."""
    match = _AT.search(complaint)
    if match is None:
        return BadInput(f"{complaint}.")
    param = match["path"] or None
    what = complaint[: match.start()]
    return BadInput(f"`{param}`: {what}." if param else f"{what}.", param=param)


def version_of(version: str | int | None, param: str = "version") -> int | None:
    """Return a model's version as a number, None for the newest; raises `BadInput`."""
    if version is None or version == "":
        return None
    if isinstance(version, str):
        if not (version.isascii() and version.isdigit() and len(version) <= 18):
            raise BadInput("A version is a positive whole number.", param=param)
        version = int(version)
    if not 0 < version < 10**18:
        raise BadInput("A version is a positive whole number.", param=param)
    return version


def top_k_of(text: str) -> int:
    """Return `top_k` as it stands in a form or a query; raises `BadInput`."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9) or int(text) < 1:
        raise BadInput("top_k has to be a positive whole number.", param="top_k")
    return int(text)

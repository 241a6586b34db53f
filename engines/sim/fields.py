"""Does a JSON body hold what a route needs, and what would pydantic say if not?

A reader collects every fault before it raises, as pydantic does, and words them as vLLM 0.32 shows
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from engines.sim import errors
from engines.sim.errors import ApiError

_MISSING = ("missing", "Field required")
_NOT_AN_OBJECT = (
    "model_attributes_type",
    "Input should be a valid dictionary or object to extract fields from",
)


def decode_object(body: bytes, content_type: str) -> dict[str, Any]:
    """Return the JSON object in `body`; ApiError 400 for anything else (vLLM never answers 415
    or 422).
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise errors.invalid(
            ["Unsupported Media Type: Only 'application/json' is allowed"], param=None
        )
    if not body:
        raise errors.invalid([_line("body", *_MISSING, None)], "body")
    value = _decode(body)
    if not isinstance(value, dict):
        raise errors.invalid([_line("body", *_NOT_AN_OBJECT, value)], "body")
    return value


def _decode(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # the standard library decides, and words the error: it is what the real server uses
    try:
        return json.loads(body)
    except json.JSONDecodeError as error:
        where = f"body.{error.pos}"
        detail = {
            "type": "json_invalid",
            "loc": where,
            "msg": "JSON decode error",
            "input": "<dict of 0 items>",
            "ctx": {"error": error.msg},
        }
        raise errors.invalid([repr(detail)], where) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise errors.bad_request("There was an error parsing the body") from error


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return f"<dict of {len(value)} items>"
    if isinstance(value, list):
        return f"<list of {len(value)} items>"
    return str(value)


def _line(where: str, kind: str, message: str, value: object) -> str:
    return repr({"type": kind, "loc": where, "msg": message, "input": _shown(value)})


def _integer_fault(value: object) -> tuple[str, str]:
    message = "Input should be a valid integer"
    if isinstance(value, float):
        return "int_from_float", f"{message}, got a number with a fractional part"
    if isinstance(value, str):
        return "int_parsing", f"{message}, unable to parse string as an integer"
    return "int_type", message


class Fields:
    """Typed access to one object's members; faults gather until `check` raises them."""

    __slots__ = ("_lines", "_param", "_values", "_where")

    def __init__(self, values: Mapping[str, Any], where: str = "body") -> None:
        self._values = values
        self._where = where
        self._lines: list[str] = []
        self._param: str | None = None

    def check(self) -> None:
        """Raise ApiError 400 if any read so far found a fault."""
        if self._lines:
            raise errors.invalid(self._lines, self._param)

    def fault(self, name: str, kind: str, message: str, value: object) -> None:
        """Note a fault of the member `name`."""
        self.note(name, _line(f"{self._where}.{name}", kind, message, value))

    def note(self, name: str, line: str) -> None:
        """Note a fault in the caller's own words."""
        self._param = self._param or f"{self._where}.{name}"
        self._lines.append(line)

    def raw(self, name: str) -> Any:
        """Return the member as it is; None when absent."""
        return self._values.get(name)

    def required(self, name: str) -> Any:
        """Return the member; a fault when it is absent."""
        if name not in self._values:
            self.fault(name, *_MISSING, dict(self._values))
            return None
        return self._values[name]

    def integer(self, name: str) -> int | None:
        """Return a whole number; None when absent or null. Numeric strings count, as in
        pydantic's lax mode.
        """
        value = self._values.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        if isinstance(value, bool):
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str):
            try:
                return int(value)
            except ValueError:
                pass  # reported below, as for every other type
        self.fault(name, *_integer_fault(value), value)
        return None

    def number(self, name: str) -> float | None:
        """Return a number as a float; None when absent or null."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, (int, float)):
            return float(value)
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                message = "Input should be a valid number, unable to parse string as a number"
                self.fault(name, "float_parsing", message, value)
                return None
        self.fault(name, "float_type", "Input should be a valid number", value)
        return None

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a boolean; `default` when absent or null."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        self.fault(name, "bool_type", "Input should be a valid boolean", value)
        return default

    def text(self, name: str) -> str | None:
        """Return a string; None when absent or null."""
        value = self._values.get(name)
        if value is None or isinstance(value, str):
            return value
        self.fault(name, "string_type", "Input should be a valid string", value)
        return None

    def array(self, name: str) -> list[Any] | None:
        """Return a list; None when absent or null."""
        value = self._values.get(name)
        if value is None or isinstance(value, list):
            return value
        self.fault(name, "list_type", "Input should be a valid list", value)
        return None

    def object(self, name: str) -> dict[str, Any] | None:
        """Return an object; None when absent or null."""
        value = self._values.get(name)
        if value is None or isinstance(value, dict):
            return value
        self.fault(name, "dict_type", "Input should be a valid dictionary", value)
        return None

    def stops(self, name: str) -> tuple[str, ...]:
        """Return the stop strings, given as one string or a list of up to four."""
        value = self._values.get(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return (value,) if value else ()
        if isinstance(value, list) and len(value) <= 4 and all(isinstance(v, str) for v in value):
            return tuple(stop for stop in value if stop)
        self.fault(name, "string_type", "Input should be a valid string", value)
        if isinstance(value, list) and len(value) > 4:
            detail = {
                "type": "too_long",
                "loc": f"{self._where}.{name}",
                "msg": f"List should have at most 4 items after validation, not {len(value)}",
                "input": _shown(value),
                "ctx": {"field_type": "List", "max_length": 4, "actual_length": len(value)},
            }
            self.note(name, repr(detail))
        return ()


def as_api_error(where: str, message: str, value: object) -> ApiError:
    """Return the error of one nested value that is wrong (`where` like
    `body.messages.0.content`).
    """
    return errors.invalid([_line(where, "value_error", message, value)], where)

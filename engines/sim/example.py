"""Which JSON text satisfies a JSON Schema?

Covers what tool parameters and response formats use: types, enum, const, properties, items, numeric
and length bounds, `$ref` into the schema, anyOf/oneOf/allOf. `pattern` is not covered. Free strings
say that they are simulated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from engines.sim import errors

_DEPTH = 12
"""Deeper optional members are left out; a recursive schema would never end otherwise."""

_WORD = "simulated"
_BY_FORMAT = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "simulated@example.com",
    "uri": "https://example.com/simulated",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def json_text(schema: Mapping[str, Any] | None, key: str) -> str:
    """Return compact JSON valid against `schema`, the same for equal schema and `key`.

    None means any object. ApiError 400 for a type that JSON Schema does not have.
    """
    if schema is None:
        value: object = {_WORD: True, "answer": "No model ran."}
    else:
        value = _Example(schema, key).value(schema, 0)
    return msgspec.json.encode(value).decode()


class _Example:
    __slots__ = ("_root", "_state")

    def __init__(self, root: Mapping[str, Any], key: str) -> None:
        self._root = root
        digest = blake2b(key.encode("utf-8", "replace"), digest_size=8).digest()
        self._state = int.from_bytes(digest, "big")

    def _pick(self, count: int) -> int:
        self._state, picked = divmod(self._state, count)
        self._state = self._state or 0x9E3779B97F4A7C15
        return picked

    def value(self, schema: Any, depth: int) -> object:
        if not isinstance(schema, Mapping):
            return _WORD
        schema = self._resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][self._pick(len(schema["enum"]))]
        options = schema.get("anyOf") or schema.get("oneOf")
        if options:
            # Beyond the depth limit, take what ends soonest: scalars before containers.
            ordered = sorted(options, key=_is_container) if depth > _DEPTH else options
            at = 0 if depth > _DEPTH else self._pick(len(ordered))
            return self.value(ordered[at], depth + 1)
        kind = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kind, list):
            kind = kind[self._pick(len(kind))]
        return self._of_type(str(kind), schema, depth)

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        for _ in range(_DEPTH):
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                break
            schema = self._target(reference)
        merged = dict(schema)
        for part in merged.pop("allOf", ()):
            inner = dict(self._resolved(part))
            properties = {**merged.get("properties", {}), **inner.pop("properties", {})}
            required = [*merged.get("required", ()), *inner.pop("required", ())]
            merged |= inner
            if properties:
                merged |= {"properties": properties, "required": required}
        return merged

    def _target(self, reference: str) -> Mapping[str, Any]:
        target: Any = self._root
        for step in reference.removeprefix("#").strip("/").split("/"):
            if step:
                target = target.get(step) if isinstance(target, Mapping) else None
        if not isinstance(target, Mapping):
            raise errors.bad_request(f"Grammar error: Unresolvable $ref: {reference}")
        return target

    def _of_type(self, kind: str, schema: Mapping[str, Any], depth: int) -> object:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                least = int(schema.get("minItems", 0 if depth > _DEPTH else 1))
                count = min(least, int(schema.get("maxItems", least)))
                return [self.value(schema.get("items", {}), depth + 1) for _ in range(count)]
            case "string":
                return _string(schema)
            case "integer" | "number":
                return _number(schema, whole=kind == "integer")
            case "boolean":
                return bool(self._pick(2))
            case "null":
                return None
            case _:
                raise errors.bad_request(f"Grammar error: Invalid type: {kind}")

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, object]:
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        return {
            name: self.value(inner, depth + 1)
            for name, inner in properties.items()
            if name in required or depth <= _DEPTH // 2
        }


def _is_container(schema: Any) -> bool:
    return isinstance(schema, Mapping) and (
        schema.get("type") in ("object", "array") or "$ref" in schema
    )


def _string(schema: Mapping[str, Any]) -> str:
    text = _BY_FORMAT.get(str(schema.get("format")), _WORD)
    least = int(schema.get("minLength", 0))
    text += "." * (least - len(text))
    return text[: int(schema.get("maxLength", len(text)))]


def _number(schema: Mapping[str, Any], *, whole: bool) -> float:
    step = schema.get("multipleOf", 1)
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + (1 if whole else 0.5)
    if high is None and "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"] - (1 if whole else 0.5)
    start: float = low if low is not None else (min(1, high) if high is not None else 1)
    value = math.ceil(start / step) * step if whole or "multipleOf" in schema else start
    return int(value) if whole else value

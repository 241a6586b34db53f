"""What may a file hold whose values are a pydantic model, as JSON Schema for editors and people?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from gateway.config.conflicts import Loc

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = {
    "title": "Interpolated",
    "description": "Taken from the environment when the file is read: ${NAME} or "
    "${NAME:-default}. $${ is a literal ${.",
    "type": "string",
    "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^{}]*)?\}",
}
_BOUNDS = {
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
}
"""What pydantic calls a bound that was laid over a type with a check of its own: no JSON Schema."""
_LABELS = ("title", "description", "default", "examples")


def schema_of(model: type[BaseModel], title: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a file, as JSON values.

    A `${NAME}` may stand wherever something other than free text is asked for.
    """
    made: dict[str, Any] = _open(model.model_json_schema())
    made.setdefault("$defs", {})["Interpolated"] = _REFERENCE
    return {"$schema": _DIALECT, **made, "title": title}


def keys_at(model: type[BaseModel], loc: Loc) -> list[str]:
    """Return the keys that the mapping at `loc` may have, none if there is no such place."""
    root = model.model_json_schema()
    node: Mapping[str, Any] = root
    for step in loc:
        node = _resolve(node, root)
        node = (
            node.get("items", {})
            if isinstance(step, int)
            else node.get("properties", {}).get(step, node.get("additionalProperties")) or {}
        )
    return list(_resolve(node, root).get("properties", {}))


def _open(node: Any) -> Any:
    if isinstance(node, list):
        return [_open(item) for item in node]
    if not isinstance(node, dict):
        return node
    opened = {
        key if isinstance(value, dict) else _BOUNDS.get(key, key): value
        if key in _LABELS
        else _open(value)
        for key, value in node.items()
    }
    if opened.get("type") in ("integer", "number", "boolean") or {"enum", "const"} & opened.keys():
        labels = {key: opened.pop(key) for key in _LABELS if key in opened}
        return {**labels, "anyOf": [opened, {"$ref": "#/$defs/Interpolated"}]}
    return opened


def _resolve(node: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference, or the alternative that is not null."""
    choices = [choice for choice in node.get("anyOf", ()) if choice.get("type") != "null"]
    if choices:
        return _resolve(choices[0], root)
    if "$ref" in node:
        name = str(node["$ref"]).rpartition("/")[2]
        return _resolve(root["$defs"][name], root)
    return node

"""What may a configuration file hold, as JSON Schema for editors and for people?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.config.conflicts import Loc
from gateway.config.spec import Config

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = {
    "title": "Interpolated",
    "description": "Taken from the environment when the file is read: ${NAME} or "
    "${NAME:-default}. $${ is a literal ${.",
    "type": "string",
    "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^{}]*)?\}",
}
_LABELS = ("title", "description", "default", "examples")


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file, as JSON values."""
    made: dict[str, Any] = _open(Config.model_json_schema())
    made["$defs"]["Interpolated"] = _REFERENCE
    return {"$schema": _DIALECT, **made, "title": "Sluice configuration"}


def known_keys(loc: Loc) -> list[str]:
    """Return the keys that the mapping at `loc` may have, none if there is no such place."""
    root = Config.model_json_schema()
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
    """Let a `${NAME}` stand wherever the schema asks for something other than free text."""
    if isinstance(node, list):
        return [_open(item) for item in node]
    if not isinstance(node, dict):
        return node
    opened = {key: value if key in _LABELS else _open(value) for key, value in node.items()}
    if opened.get("type") in ("integer", "number", "boolean") or {"enum", "const"} & opened.keys():
        labels = {key: opened.pop(key) for key in _LABELS if key in opened}
        return {**labels, "anyOf": [opened, {"$ref": "#/$defs/Interpolated"}]}
    return opened


def _resolve(node: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a reference, or the alternative that is not null."""
    for choice in node.get("anyOf", ()):
        if choice.get("type") != "null":
            return _resolve(choice, root)
    if "$ref" in node:
        name = str(node["$ref"]).rpartition("/")[2]
        return _resolve(root["$defs"][name], root)
    return node

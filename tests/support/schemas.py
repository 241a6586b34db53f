"""What stands in a JSON Schema, wherever it stands?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def properties(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of every object in a schema."""
    if isinstance(node, dict):
        yield from node.get("properties", {}).items()
        for value in node.values():
            yield from properties(value)


def references(node: Any) -> Iterator[str]:
    """Every reference."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)

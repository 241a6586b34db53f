"""Which keys may a configuration file have: the tables of docs/configuration.md, from the schema.

python scripts/config_reference.py           write the page's tables anew
python scripts/config_reference.py --check   exit with 1 if they are not current
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.config.schema import schema

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
MARK = "<!-- From here on written by scripts/config_reference.py. -->\n"

Node = Mapping[str, Any]

_BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))


def reference(root: Node) -> str:
    """Return the Markdown of every section of a configuration file, outermost first.

    Sections are named by their place in a file: `clusters.<name>.endpoints[]`.
    """
    parts = []
    for place, node in _sections(root, root, ""):
        title = f"`{place}`" if place else "The file"
        about = node["description"] if place else "One mapping with these keys."
        rows = [_row(key, value, node, root) for key, value in node["properties"].items()]
        head = "| key | value | default | meaning |\n|---|---|---|---|"
        parts.append("\n".join([f"## {title}\n\n{about}\n\n{head}", *rows]))
    return "\n\n".join(parts) + "\n"


def with_reference(page: str, tables: str) -> str:
    """Return `page` with everything after its mark replaced. Raises `ValueError` without a mark."""
    before, mark, _ = page.partition(MARK)
    if not mark:
        raise ValueError(f"the page has no line {MARK!r}")
    return f"{before}{mark}\n{tables}"


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` compare it; return the exit code."""
    page = PAGE.read_text()
    wanted = with_reference(page, reference(schema()))
    if arguments == ["--check"]:
        if page != wanted:
            sys.stderr.write(f"{PAGE.name} is not current: run scripts/config_reference.py\n")
        return int(page != wanted)
    PAGE.write_text(wanted)
    return 0


def _sections(node: Node, root: Node, place: str) -> Iterator[tuple[str, Node]]:
    """Yield (place, object schema) of `node` and of the objects in it, depth first."""
    yield place, node
    for key, value in node["properties"].items():
        inner = f"{place}.{key}" if place else key
        target = _choices(value, root)[0]
        if target.get("type") == "array":
            inner, target = f"{inner}[]", _choices(target["items"], root)[0]
        elif isinstance(target.get("additionalProperties"), dict):
            inner = f"{inner}.<name>"
            target = _choices(target["additionalProperties"], root)[0]
        if "properties" in target:
            yield from _sections(target, root, inner)


def _choices(node: Node, root: Node) -> list[Node]:
    """Return what may stand at `node`, references followed; `${NAME}` goes without saying."""
    if "anyOf" in node:
        return [found for one in node["anyOf"] for found in _choices(one, root)]
    if "$ref" not in node:
        return [node]
    name = node["$ref"].rpartition("/")[2]
    return [] if name == "Interpolated" else [root["$defs"][name]]


def _row(key: str, value: Node, section: Node, root: Node) -> str:
    kinds = " or ".join(_kind(one, root) for one in _choices(value, root))
    default = "required" if key in section.get("required", ()) else _default(value, root)
    text = value.get("description") or _choices(value, root)[0]["description"]
    return f"| `{key}` | {kinds} | {default} | {text} |"


def _kind(node: Node, root: Node) -> str:
    """Say in a few words what a value is."""
    if "enum" in node or "const" in node:
        return ", ".join(f"`{one}`" for one in node.get("enum", [node.get("const")]))
    kind = str(node["type"])
    if kind == "array":
        return f"list of {_kind(_choices(node['items'], root)[0], root)}s"
    if isinstance(node.get("additionalProperties"), dict):
        return "mapping from names"
    if kind == "object":
        return "section"
    words = {"string": "text", "boolean": "true or false", "null": "nothing"}.get(kind, kind)
    bounds = [f"{sign} {node[name]:g}" for name, sign in _BOUNDS if name in node]
    return " ".join([words, ", ".join(bounds)]).strip()


def _default(value: Node, root: Node) -> str:
    default = value.get("default")
    if default is None:
        return "none"
    if "properties" in _choices(value, root)[0]:
        return "its own defaults"
    return "empty" if default in ([], {}) else f"`{json.dumps(default)}`"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

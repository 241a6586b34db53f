"""Which keys may a model's config.yaml have: the tables of docs/vision.md, from the code.

python scripts/vision_reference.py           write the page's tables anew
python scripts/vision_reference.py --check   exit with 1 if they are not current
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vision import config

PAGE = Path(__file__).resolve().parent.parent / "docs" / "vision.md"
BEGIN = "<!-- From here on written by scripts/vision_reference.py. -->\n"
END = "<!-- Up to here. -->\n"

Node = Mapping[str, Any]

SECTIONS: Final[Mapping[str, type[config.Spec]]] = {
    "The file": config.ModelConfig,
    "`inputs[]` and `outputs[]`": config.Tensor,
    "`preprocessing`": config.Preprocessing,
    "`preprocessing.resize`": config.Resize,
    "`postprocessing` of the kind `classification`": config.Classification,
    "`postprocessing` of the kind `detection`": config.Detection,
    "`postprocessing` of the kind `embedding`": config.Embedding,
    "`postprocessing` of the kind `raw`": config.Raw,
    "`batching`": config.Batching,
    "`instances`": config.Instances,
    "`versions`": config.Versions,
    "`warmup`": config.WarmUp,
}
_BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
_WORDS = {"string": "text", "boolean": "true or false", "null": "nothing"}


def reference() -> str:
    """Return the Markdown of every section."""
    parts = []
    for title, section in SECTIONS.items():
        schema = section.model_json_schema()
        rows = [
            _row(key, value, schema) for key, value in schema["properties"].items() if key != "kind"
        ]
        table = ["| key | value | default | meaning |", "|---|---|---|---|", *rows] if rows else []
        parts.append(f"### {title}\n\n{section.__doc__}\n")
        if table:
            parts.append("\n".join(table) + "\n")
    return "\n".join(parts)


def with_reference(page: str, tables: str) -> str:
    """Return `page` with what stands between its marks replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables}\n{END}{after}"


def _row(key: str, value: Node, schema: Node) -> str:
    choices = [_resolved(one, schema) for one in value.get("anyOf", [value])]
    kinds = " or ".join(map(_kind, choices))
    default = "required" if key in schema.get("required", ()) else _default(value)
    return f"| `{key}` | {kinds} | {default} | {value['description']} |"


def _resolved(node: Node, schema: Node) -> Node:
    if "$ref" in node:
        found: Node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        return found
    return node


def _kind(node: Node) -> str:
    if "enum" in node:
        return ", ".join(f"`{one}`" for one in node["enum"])
    if "oneOf" in node or "properties" in node:
        return "section"
    if node["type"] == "array":
        return f"{len(node['prefixItems'])} numbers" if "prefixItems" in node else "list"
    bounds = ", ".join(f"{sign} {node[name]:g}" for name, sign in _BOUNDS if name in node)
    words = {**_WORDS, "object": "mapping"}.get(node["type"], node["type"])
    return f"{words} {bounds}".strip()


def _default(value: Node) -> str:
    default = value.get("default")
    if default is None:
        return "none"
    if isinstance(default, dict) and default:
        return "its own defaults"
    return "empty" if default in ([], {}, "") else f"`{json.dumps(default)}`"


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` compare it; return the exit code."""
    page = PAGE.read_text()
    wanted = with_reference(page, reference())
    if arguments == ["--check"]:
        if page != wanted:
            sys.stderr.write(f"{PAGE.name} is not current: run scripts/vision_reference.py\n")
        return int(page != wanted)
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""How does the description of an API become a page that needs no other host and no script?

Pure. FastAPI's own pages load their scripts from a content network; operators' networks have none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The page's Content-Security-Policy: nothing but its own style."""

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}"
    "code{font:14px ui-monospace,monospace}h2{margin:2rem 0 0}table{border-collapse:collapse}"
    "td{padding:.1rem 1rem .1rem 0;vertical-align:top}"
)


def page(document: Mapping[str, Any]) -> str:
    """Return an OpenAPI document as HTML: each route with its parameters, body and answers."""
    info = document["info"]
    title = escape(f"{info['title']} {info['version']}")
    schemas = document.get("components", {}).get("schemas", {})
    parts = [
        "".join(_route(method, path, route, schemas))
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<style>{_STYLE}</style><h1>{title}</h1><p>{escape(info.get('description', ''))}</p>"
        f"{''.join(parts)}</html>"
    )


def _route(
    method: str, path: str, route: Mapping[str, Any], schemas: Mapping[str, Any]
) -> Iterator[str]:
    yield f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
    yield f"<p>{escape(route.get('description', ''))}</p>"
    parameters = route.get("parameters", ())
    body = route.get("requestBody")
    if parameters:
        yield _table(
            "Parameters", [(one["name"], one.get("description", "")) for one in parameters]
        )
    if body is not None:
        yield _table("Body", _fields(body, schemas))
    for status, answer in route.get("responses", {}).items():
        yield _table(f"{status}: {answer.get('description', '')}", _fields(answer, schemas))


def _fields(message: Mapping[str, Any], schemas: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and description of the fields of a message's JSON, if it has a named schema."""
    schema = message.get("content", {}).get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    fields = schemas.get(name, {}).get("properties", {})
    return [(field, about.get("description", "")) for field, about in fields.items()]


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{escape(about)}" for name, about in rows
    )
    return f"<h4>{escape(title)}</h4><table>{cells}</table>"

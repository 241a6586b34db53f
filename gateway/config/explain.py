"""What is wrong, in plain words and at which place, when pydantic refuses a configuration?

Pure. No message repeats a value: it could be a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config.conflicts import Kinds, Loc, Models, References, Urls, conflicts, nearest
from gateway.config.names import endpoint_url
from gateway.config.problems import Problem, key_path
from gateway.config.schema import known_keys
from gateway.config.tree import Position, Tree
from gateway.model import Kind

_NUMBER = "must be a number"
_WHOLE = "must be a whole number"
_BOOLEAN = "must be true or false"
_MAPPING = "must be a mapping (lines of `key: value`)"
_LIST = "must be a list"

_WORDS: Mapping[str, str | Callable[[Mapping[str, Any]], str]] = {
    "missing": "is required",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": "is too large a number",
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "must be a finite number",
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "model_type": _MAPPING,
    "dict_type": _MAPPING,
    "mapping_type": _MAPPING,
    "tuple_type": _LIST,
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "too_short": "needs at least one entry",
    "greater_than": lambda context: f"must be greater than {context['gt']:g}",
    "greater_than_equal": lambda context: f"must be at least {context['ge']:g}",
    "less_than_equal": lambda context: f"must be at most {context['le']:g}",
    "literal_error": lambda context: f"must be {context['expected']}",
    "value_error": lambda context: str(context["error"]),
}
"""By error type of pydantic's (https://docs.pydantic.dev/latest/errors/validation_errors/)."""


def complaints(error: ValidationError) -> list[ErrorDetails]:
    """Return what pydantic says, without the sequences that it finds short by refused entries."""
    return [
        details
        for details in error.errors(include_url=False)
        if details["type"] != "too_short" or not details["input"]
    ]


def words(error: ErrorDetails) -> str:
    """Say what is wrong with a value, in words that can follow its key."""
    known = _WORDS.get(error["type"])
    said = error["msg"] if known is None else known
    if callable(said):
        said = said(error.get("ctx", {}))
    if error["type"] == "string_type" and isinstance(error["input"], (bool, int, float)):
        return f"{said}; put it in quotes"
    if error["type"].endswith("_type") and error["input"] is None:
        return f"{said}, but is empty"
    return said


def explain(error: ValidationError, tree: Tree, file: str) -> Iterator[Problem]:
    """Yield every problem of a tree that pydantic refused, each at its own place.

    pydantic compares names with each other only when everything else is right; that is made up
    for here, so that nothing stays hidden behind another error.
    """
    for details in complaints(error):
        loc, position = _place(details, tree)
        if not _is_broken(loc, tree):
            yield _problem(file, position, loc, _with_hint(details, loc))
    for conflict in conflicts(*_names(tree.value)):
        if not _is_broken(conflict.loc, tree):
            position = position_of(tree, conflict.loc)
            yield _problem(file, position, conflict.loc, conflict.message)


def position_of(tree: Tree, loc: Loc) -> Position:
    """Return where a value stands, or the innermost thing around it that the file does hold."""
    for length in range(len(loc), -1, -1):
        if loc[:length] in tree.values:
            return tree.values[loc[:length]]
    return Position(1, 1)


def _place(details: ErrorDetails, tree: Tree) -> tuple[Loc, Position]:
    loc = details["loc"]
    if loc and loc[-1] == "[key]":
        loc = loc[:-1]
        return loc, tree.keys.get(loc, position_of(tree, loc))
    if details["type"] == "missing":
        parent = loc[:-1]
        return loc, tree.keys.get(parent, position_of(tree, parent))
    if details["type"] == "extra_forbidden":
        return loc, tree.keys.get(loc, position_of(tree, loc))
    return loc, position_of(tree, loc)


def _with_hint(details: ErrorDetails, loc: Loc) -> str:
    if details["type"] != "extra_forbidden":
        return words(details)
    known = known_keys(loc[:-1])
    hint = nearest(str(loc[-1]), known) or f" (known here: {', '.join(known)})"
    return f"is not a known key{hint}"


def _is_broken(loc: Loc, tree: Tree) -> bool:
    return any(loc[: len(broken)] == broken for broken in tree.broken)


def _problem(file: str, position: Position, loc: Loc, message: str) -> Problem:
    return Problem(file, position.line, position.column, key_path(loc), message)


def _names(value: object) -> tuple[Urls, Models, Kinds]:
    """Return what `conflicts` compares, as far as a refused configuration has it."""
    clusters, models = _member(value, "clusters"), _member(value, "models")
    if not isinstance(clusters, dict):
        return {}, {}, {}  # Then every model would seem to name a missing cluster.
    urls = {
        name: [_url(_member(endpoint, "url")) for endpoint in _items(_member(cluster, "endpoints"))]
        for name, cluster in clusters.items()
    }
    kinds = {name: _kind(_member(cluster, "kind")) for name, cluster in clusters.items()}
    if not isinstance(models, dict):
        return urls, {}, kinds
    known = {
        name: References(
            _text(_member(model, "cluster")),
            [_text(alias) for alias in _items(_member(model, "aliases"))],
            [_text(fallback) for fallback in _items(_member(model, "fallbacks"))],
        )
        for name, model in models.items()
    }
    return urls, known, kinds


def _member(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _kind(value: object) -> str | None:
    return value if isinstance(value, str) and value in set(Kind) else None


def _url(value: object) -> str | None:
    try:
        return endpoint_url(value) if isinstance(value, str) else None
    except ValueError:
        return None

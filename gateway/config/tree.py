"""What does a YAML text say, and at which line and column does each part of it stand?

Pure. PyYAML scans and parses; the values are made here, because the safe loader forgets where
things stood, lets the second of two equal keys win, and follows YAML 1.1, where `off` is a boolean
and `1:30` the number 90. Here scalars follow YAML 1.2's core schema
(https://yaml.org/spec/1.2.2/#103-core-schema). Anchors, aliases and merge keys (`<<`) work; nesting
and expansion are bounded, so that a small file cannot grow into a large one.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from yaml import MappingNode, Node, ScalarNode, SequenceNode
from yaml.composer import Composer, ComposerError
from yaml.error import Mark, MarkedYAMLError, YAMLError
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from gateway.config.conflicts import Loc
from gateway.config.interpolate import interpolate
from gateway.config.problems import ConfigError, Problem, key_path

MAX_DEPTH = 32
"""Levels of nesting; the deepest setting is at level 6."""
MAX_NODES = 100_000
"""Values after aliases are expanded: the "billion laughs" stop here."""

_PLAIN = "plain"  # Our own tag for unquoted scalars, to be told from an explicit `!!str`.
_TEXT = "tag:yaml.org,2002:str"
_TAGS = frozenset({_PLAIN, _TEXT, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_CONSTANTS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(
    r"(?P<decimal>[-+]?[0-9]{1,40})|0o(?P<octal>[0-7]{1,40})|0x(?P<hex>[\da-fA-F]{1,40})"
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Tree:
    """A file's values and their places."""

    value: object
    keys: Mapping[Loc, Position]
    """Where each mapping's key stands."""
    values: Mapping[Loc, Position]
    problems: tuple[Problem, ...]
    """What is wrong already: repeated keys, unset variables, tags."""
    broken: frozenset[Loc]
    """The values that `problems` speak of; there is None in their place."""


def read_tree(text: str, file: str, environ: Mapping[str, str]) -> Tree:
    """Read one YAML document. Raises `ConfigError` if nothing can be made of it."""
    lines = Lines(text)
    node = _compose(text, lines, file)
    if node is None:
        raise ConfigError([Problem(file, 1, 1, "", "is empty; it needs at least `clusters:`")])
    builder = _Builder(file, lines, environ)
    value = builder.build(node, ())
    return Tree(
        value, builder.keys, builder.values, tuple(builder.problems), frozenset(builder.broken)
    )


def _compose(text: str, lines: Lines, file: str) -> Node | None:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except YAMLError as error:
        raise ConfigError([_syntax(error, lines, text, file)]) from error
    except (ValueError, OverflowError) as error:
        # PyYAML hands numbers of any size to chr() and int(): "\\UFFFFFFFF", `%YAML 1…1.0`.
        position = lines.position(loader.index if loader else 0)
        message = "is not valid YAML: an escape or a version holds a number that is too large"
        raise ConfigError([Problem(file, position.line, position.column, "", message)]) from error


class Lines:
    """Turns offsets into lines and columns, with line ends as editors see them."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(text))]
        # PyYAML reports the end of a file one line below the last; no editor can go there.
        self._last = len(text.rstrip("\r\n"))

    def position(self, offset: int) -> Position:
        """Return the place of a character; what lies behind the last line stands at its end."""
        offset = max(0, min(offset, self._last))
        line = bisect_right(self._starts, offset)
        return Position(line, offset - self._starts[line - 1] + 1)


class _Loader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML up to the node graph, without constructors and without YAML 1.1's scalar rules."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """Compose as PyYAML does, which recurses, but not deeper than `MAX_DEPTH`."""
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # stubs lack it
            raise ComposerError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        self._depth += 1
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def resolve(self, kind: type[Node], value: str, implicit: tuple[bool, bool]) -> str:
        """Tag unquoted scalars as such; their meaning is `_plain`'s matter."""
        if kind is ScalarNode and implicit[0]:
            return _PLAIN
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]  # stubs lack it
        return tag


@dataclass(slots=True)
class _Builder:
    """Walks the nodes once and notes where everything stood."""

    file: str
    lines: Lines
    environ: Mapping[str, str]
    keys: dict[Loc, Position] = field(default_factory=dict)
    values: dict[Loc, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[Loc] = field(default_factory=set)
    visited: int = 0
    depth: int = 0

    def build(self, node: Node, loc: Loc) -> object:
        """Return the node's value. Raises `ConfigError` when it is too deep or too large."""
        self.visited += 1
        if self.visited > MAX_NODES:
            raise self._hopeless(node, loc, f"expands to more than {MAX_NODES} values")
        # Counted, not taken from `loc`: merge keys go deeper in the same place.
        if self.depth > MAX_DEPTH:
            message = f"is nested deeper than {MAX_DEPTH} levels (an alias in itself?)"
            raise self._hopeless(node, loc[:3], message)
        self.values.setdefault(loc, self._position(node))
        if node.tag not in _TAGS:
            self._break(node, loc, "has a YAML tag (!); tags are not supported")
            return None
        self.depth += 1
        value = self._value(node, loc)
        self.depth -= 1
        return value

    def _value(self, node: Node, loc: Loc) -> object:
        if isinstance(node, MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, SequenceNode):
            return [self.build(item, (*loc, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, loc)

    def _mapping(self, node: MappingNode, loc: Loc) -> dict[str, object]:
        built: dict[str, object] = {}
        merged: list[Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _PLAIN and key_node.value == "<<":
                several = isinstance(value_node, SequenceNode)
                merged.extend(value_node.value if several else [value_node])
                continue
            key = self._key(key_node, loc)
            if key is None:
                continue
            position, first = self._position(key_node), self.keys.get((*loc, key))
            if key in built and first is not None:
                message = f"is here a second time; the first is on line {first.line}"
                self._problem(key_node, (*loc, key), message)
                continue
            self.keys.setdefault((*loc, key), position)
            built[key] = self.build(value_node, (*loc, key))
        for source in merged:
            self._merge(source, built, loc)
        return built

    def _merge(self, source: Node, built: dict[str, object], loc: Loc) -> None:
        # https://yaml.org/type/merge.html: own keys win, then earlier sources.
        other = self.build(source, loc) if isinstance(source, MappingNode) else None
        if not isinstance(other, dict):
            self._problem(source, loc, "merges (<<) something that is not a mapping")
            return
        for key, value in other.items():
            built.setdefault(key, value)

    def _key(self, node: Node, loc: Loc) -> str | None:
        value = _plain(node.value) if node.tag == _PLAIN else node.value
        if isinstance(node, ScalarNode) and isinstance(value, str):
            return value
        self._problem(node, loc, "has a key that is not text; put it in quotes")
        return None

    def _scalar(self, node: Node, loc: Loc) -> object:
        value = _plain(node.value) if node.tag == _PLAIN else node.value
        if not isinstance(value, str):
            return value
        if _SURROGATE.search(value):
            self._break(node, loc, "holds half of a character (a lone surrogate)")
            return None
        try:
            return interpolate(value, self.environ)
        except ValueError as error:
            self._break(node, loc, str(error))
            return None

    def _position(self, node: Node) -> Position:
        return self.lines.position(node.start_mark.index)

    def _problem(self, node: Node, loc: Loc, message: str) -> None:
        position = self._position(node)
        self.problems.append(
            Problem(self.file, position.line, position.column, key_path(loc), message)
        )

    def _break(self, node: Node, loc: Loc, message: str) -> None:
        self._problem(node, loc, message)
        self.broken.add(loc)

    def _hopeless(self, node: Node, loc: Loc, message: str) -> ConfigError:
        self._problem(node, loc, message)
        return ConfigError(self.problems)


def _plain(text: str) -> str | int | float | bool | None:
    """Give an unquoted scalar its meaning. Integers of absurd length become floats."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if match := _INT.fullmatch(text):
        if match["decimal"]:
            return int(match["decimal"])
        return int(match["octal"], 8) if match["octal"] else int(match["hex"], 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text):
        return float(text.replace(".", "", 1))
    return text


def _syntax(error: YAMLError, lines: Lines, text: str, file: str) -> Problem:
    if isinstance(error, ReaderError):
        position = lines.position(error.position)
        message = f"holds the character U+{ord(str(text[error.position])):04X}, which YAML forbids"
        return Problem(file, position.line, position.column, "", message)
    mark: Mark | None = None
    said = "cannot be read"
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
    position = lines.position(mark.index if mark else 0)
    row = _LINE_END.split(text)[position.line - 1]
    hint = '; put "${...}" in quotes when it stands inside { } or [ ]' if "${" in row else ""
    return Problem(file, position.line, position.column, "", f"is not valid YAML: {said}{hint}")

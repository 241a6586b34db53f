"""What does a model's `config.yaml` hold, or else everything that is wrong with it, line by line?

A model without the file takes tensors and answers tensors: every key has a default. The file of a
version replaces that of its model as a whole, but for `versions`, which is the model's own matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vision.config import ModelConfig
from vision.errors import ConfigError

FILE_NAME = "config.yaml"
MAX_FILE_BYTES = 256 * 1024
"""The longest that is of use names some hundred hashes; a model named by mistake is larger."""
MAX_NODES = 20_000
"""Values with each alias counted as often as it is used: a small file cannot grow large."""


def config_file(folder: Path, version: int | None) -> Path | None:
    """Return the file that holds for a version of the model in `folder`; None if there is none.

    With `version` None, the model's own.
    """
    own = None if version is None else folder / str(version) / FILE_NAME
    for file in (own, folder / FILE_NAME):
        # A link that leads nowhere is a mistake to be told of, not a model without the file.
        if file is not None and os.path.lexists(file):
            return file
    return None


def read_config(folder: Path, version: int | None) -> ModelConfig:
    """Read the configuration of a version of the model in `folder`; blocks.

    Raises `ConfigError` with a line for each problem: `models/digits/config.yaml: line 7:
    batching.max_batch: must be greater than 0`.
    """
    file = config_file(folder, version)
    return ModelConfig() if file is None else read_file(file)


def read_file(file: Path) -> ModelConfig:
    """Read one configuration file; as `read_config`."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{file}: is larger than {MAX_FILE_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}: line {line}: is not UTF-8 text") from error
    return parse_config(text, str(file))


def parse_config(text: str, file: str) -> ModelConfig:
    """Make a configuration of YAML text; `file` is its name in problems. Raises `ConfigError`."""
    node, value = _read_tree(text, file)
    problems = dict(_repeated_keys(node)) if node is not None else {}
    config: ModelConfig | None = None
    try:
        config = ModelConfig.model_validate({} if value is None else value)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            if details["type"] == "too_short" and details["input"]:
                continue  # It is short by entries that were refused, each with its own line.
            line, key = _place(node, details)
            problems.setdefault((line, key), _words(details))
    if problems or config is None:
        raise ConfigError("\n".join(_lines(file, problems)))
    return config


def _lines(file: str, problems: Mapping[tuple[int, str], str]) -> Iterator[str]:
    for (line, key), words in sorted(problems.items()):
        yield f"{file}: line {line}: {key}: {words}" if key else f"{file}: line {line}: {words}"


def _read_tree(text: str, file: str) -> tuple[yaml.Node | None, object]:
    """Return the document's nodes, which know their lines, and its value."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        if _too_large(node):
            raise ConfigError(f"{file}: expands to more than {MAX_NODES} values")
        return node, loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{file}: line {line}: is not valid YAML: {said}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML hands numbers of any size to chr(), int() and date().
        said = " ".join(str(error).split())
        raise ConfigError(f"{file}: is not valid YAML: {said}") from error
    except RecursionError:
        raise ConfigError(f"{file}: is nested too deeply, or holds itself") from None


def _too_large(root: yaml.Node) -> bool:
    """Say whether aliases make more of a document than `MAX_NODES`. One in itself does, too."""
    seen, waiting = 0, [root]
    while waiting and seen <= MAX_NODES:
        node = waiting.pop()
        seen += 1
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        elif isinstance(node, yaml.MappingNode):
            waiting.extend(part for pair in node.value for part in pair)
    return bool(waiting)


def _repeated_keys(node: yaml.Node, path: str = "") -> Iterator[tuple[tuple[int, str], str]]:
    """Yield each key that stands twice in one mapping; the safe loader lets the second one win."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated_keys(item, f"{path}[{index}]")
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), _line(key)
        inner = _join(path, name)
        if name in first and isinstance(key, yaml.ScalarNode):
            yield (line, inner), f"is here a second time; the first is on line {first[name]}"
        first.setdefault(name, line)
        yield from _repeated_keys(value, inner)


def _place(root: yaml.Node | None, details: ErrorDetails) -> tuple[int, str]:
    """Return line and key of a problem: those of the innermost thing that the file does hold."""
    node, line, path = root, 1 if root is None else _line(root), ""
    for step in details["loc"]:
        if step == "[key]" or (isinstance(node, yaml.MappingNode) and _chosen(node) == step):
            continue  # pydantic names the chosen member of a union; the file does not.
        path = f"{path}[{step}]" if isinstance(step, int) else _join(path, step)
        found = None if node is None else _child(node, step)
        node = None if found is None else found[1]
        if found is not None:
            line = _line(found[0])
    return line, path


def _child(node: yaml.Node, step: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """Return a member's node after the one that marks its line: its key, or the item itself."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if str(key.value) == str(step):
                return key, value
    return None


def _chosen(node: yaml.MappingNode) -> str | None:
    found = _child(node, "kind")
    return None if found is None else str(found[1].value)


_WORDS: Mapping[str, str] = {
    "missing": "is required",
    "extra_forbidden": "is not a known key",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "string_too_short": "must not be empty",
    "too_short": "needs at least one entry",
    "union_tag_invalid": "`kind` must be one of {expected_tags}",
    "model_type": "must be a mapping (lines of `key: value`)",
    "dict_type": "must be a mapping (lines of `key: value`)",
    "tuple_type": "must be a list",
    "string_type": "must be text; put it in quotes",
    "union_tag_not_found": "needs `kind`",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "value_error": "{error}",
}
"""By error type of pydantic's (https://docs.pydantic.dev/latest/errors/validation_errors/)."""


def _words(details: ErrorDetails) -> str:
    context: dict[str, Any] = details.get("ctx", {})
    known = _WORDS.get(details["type"])
    said = details["msg"] if known is None else known.format_map(context)
    if details["type"] == "extra_forbidden":
        alike = get_close_matches(str(details["loc"][-1]), _known_keys(), 1)
        return f"{said} here; is it `{alike[0]}`?" if alike else f"{said} here"
    return said


def _known_keys() -> set[str]:
    """Return the keys of all sections."""
    schema = ModelConfig.model_json_schema()
    return {
        key for part in (schema, *schema["$defs"].values()) for key in part.get("properties", ())
    }


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name

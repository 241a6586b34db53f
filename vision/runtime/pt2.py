"""Is a `.pt2` file nothing but a program and numbers?

    model.pt2 (a zip)                                in the copy that torch gets
      models/model.json        the program             checked, without metadata and guards
      data/weights/…           raw numbers             as they are
      data/constants/…         raw numbers             as they are
      data/sample_inputs/…     pickled                 empty: not needed
      data/aotinductor/…       native code             refused
      anything pickled         use_pickle, custom_obj  refused

`torch.export.load` itself is not safe (torch 2.13 says so): it unpickles sample inputs without
limits once the limited way fails, unpickles weights and objects that are marked so, loads native
code, evaluates size expressions as Python, and compiles guards and argument names into code; and
among the operators that it lets a program call are some that write files. So the file is never
given to it. What it gets is a copy in memory with only the parts that were looked at here.

Pure but for reading the file; knows torch's format, imports nothing of it.
"""

from __future__ import annotations

import ast
import io
import json
import keyword
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vision.errors import LoadError

Known = Callable[[str], bool]
"""Whether a node may call what is named so."""

_PLAIN = ("archive_format", "archive_version", "byteorder", ".data/version", "models/model.json")
_CONFIGS = {
    "data/weights/": ("model_weights_config.json", re.compile(r"weight_\d+")),
    "data/constants/": ("model_constants_config.json", re.compile(r"tensor_\d+")),
}
_SAMPLES = "data/sample_inputs/model.pt"
_TREES = frozenset(
    {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
)
_SIZES = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.BoolOp,
    ast.Call,
    ast.Name,
    ast.Constant,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.boolop,
    ast.expr_context,
    ast.keyword,
)
"""What a size expression may consist of: `Add(Symbol('s0', positive=True), Integer(1))`."""


def checked(file: Path, known: Known) -> io.BytesIO:
    """A copy of the file that holds only what is safe to load.

    `known` says which operators a node may call. Raises `LoadError` with the first thing that is
    not a program or numbers. Takes as much memory as the file, until the copy is dropped.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _copied(file, archive, known)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError, RecursionError) as error:
        raise LoadError(f"{file}: no file of torch.export.save: {error}") from error


def _copied(file: Path, archive: zipfile.ZipFile, known: Known) -> io.BytesIO:
    records = _records(file, archive)
    if "archive_format" not in records:
        raise LoadError(f"{file}: no file of torch.export.save, or of a torch before 2.9")
    for name in records:
        if name.startswith(("data/aotinductor/", "data/executorch/")):
            raise LoadError(f"{file}: holds compiled code ({name}), which is not loaded")
    parts = {name: records[name] for name in _PLAIN}
    if records["byteorder"] != b"little":
        raise LoadError(f"{file}: its numbers are not little-endian")
    parts["models/model.json"] = _program(file, records["models/model.json"], known)
    for folder, (config, numbered) in _CONFIGS.items():
        if folder + config not in records:
            raise LoadError(
                f"{file}: {folder} is pickled, as torch wrote it before 2.9: export anew"
            )
        parts[folder + config] = records[folder + config]
        for name in _numbers(file, records[folder + config], numbered):
            parts[folder + name] = records[folder + name]
    parts[_SAMPLES] = b""
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        for name, data in parts.items():
            target.writestr(f"model/{name}", data)
    copy.seek(0)
    return copy


def _records(file: Path, archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Every file of the archive, by its path under the one root folder that it has."""
    records = {}
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED:
            raise LoadError(f"{file}: {info.filename} is compressed, which torch never does")
        records[info.filename.partition("/")[2]] = archive.read(info)
    return records


def _numbers(file: Path, config: bytes, numbered: re.Pattern[str]) -> Iterator[str]:
    """The names of the files of raw numbers that a list of weights or constants has."""
    for name, one in json.loads(config)["config"].items():
        if one["use_pickle"] or not numbered.fullmatch(one["path_name"]):
            raise LoadError(f"{file}: {name} is pickled, and pickles are not loaded")
        yield one["path_name"]


def _program(file: Path, data: bytes, known: Known) -> bytes:
    """The program, checked, without what is only there for people or for torch.export."""
    program = json.loads(data)
    program["guards_code"] = []
    graph = program["graph_module"]
    # The first one, of the whole model, says how arguments are packed; the rest is of parts.
    graph["module_call_graph"] = [
        entry for entry in graph["module_call_graph"] if entry["fqn"] == ""
    ]
    for symbol in program["range_constraints"]:
        _size(file, symbol)
    for key, value in _walk(program):
        _check(file, key, value, known)
    return json.dumps(program).encode()


def _walk(node: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth; metadata is emptied on the way."""
    if isinstance(node, list):
        for one in node:
            yield from _walk(one)
    elif isinstance(node, dict):
        if "metadata" in node:
            node["metadata"] = {}
        for key, value in node.items():
            yield key, value
            yield from _walk(value)


def _check(file: Path, key: str, value: Any, known: Known) -> None:
    """Refuse a value that torch would call, evaluate or compile, if it is not what it has to be."""
    if key in {"target", "as_operator"}:
        if not known(value):
            raise LoadError(f"{file}: calls {value}, which is no operator on tensors")
    elif key == "expr_str":
        _size(file, value)
    elif key in {"in_spec", "out_spec"}:
        _tree(file, value)
    elif key in {"name", "as_name"} and value is not None:
        _name(file, value)
    elif key == "forward_arg_names":
        for name in value or ():
            _name(file, name)
    elif key in {"as_custom_obj", "custom_obj_values"} and value:
        raise LoadError(f"{file}: holds custom objects, which are not loaded")


def _name(file: Path, name: Any) -> None:
    """Names of arguments and results stand in the code that torch makes of the program."""
    if name != "" and not (
        isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name)
    ):
        raise LoadError(f"{file}: {name!r} is no name")


def _size(file: Path, text: Any) -> None:
    """Sizes are evaluated as Python (by sympy)."""
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, AttributeError) as error:
        raise LoadError(f"{file}: {text!r} is no size") from error
    for node in nodes:
        plain = isinstance(node, _SIZES)
        if isinstance(node, ast.Constant):
            value = node.value
            plain = value.isidentifier() if isinstance(value, str) else _is_number(value)
        elif isinstance(node, ast.Name):
            plain = not node.id.startswith("_")
        elif isinstance(node, ast.Call):  # FloorDiv, Max: classes, which only make expressions.
            plain = isinstance(node.func, ast.Name) and node.func.id[0].isupper()
        if not plain:
            raise LoadError(f"{file}: {text!r} is no size")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _tree(file: Path, text: str) -> None:
    """How arguments are packed: only in plain containers."""
    for key, value in _walk(json.loads(text)):
        if key == "type" and value not in _TREES:
            raise LoadError(f"{file}: packs arguments in {value}: use tuples, lists and dicts")

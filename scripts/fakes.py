"""Has a fake only what the real library has, called and numbered alike?

Both are read as source, the real one as a stub. Pure.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Entry:
    """A class, function, method, constant or member of an enumeration."""

    parameters: set[tuple[str, ...]] = field(default_factory=set)
    """Their names for every overload, without `self`."""

    value: int | None = None


def differences(fake: str, real: str, module: str = "") -> Iterator[str]:
    """What the fake has that the real one has not, or has with other parameters or numbers.

    Compared are the fake's classes and functions that the real one has by name, with all their
    public parts; and of the class `module`, which stands for a whole module, what it has beside its
    own methods for tests: names with a capital within, as CUDA's are.
    """
    theirs = interface(real)
    for name, ours in interface(fake).items():
        holder, _, last = name.rpartition(".")
        if holder == module != "":
            if last.islower():
                continue
            name = last  # noqa: PLW2901 - its name in the module
        elif (holder or name) not in theirs:
            continue
        yield from _mismatch(name, ours, theirs.get(name))


def interface(source: str) -> dict[str, Entry]:
    """Every public name in a source, `Class.method` too."""
    found: dict[str, Entry] = {}
    _collect(ast.parse(source).body, "", found)
    return found


def _mismatch(name: str, ours: Entry, theirs: Entry | None) -> Iterator[str]:
    if theirs is None:
        yield f"{name} is not in the bindings"
    elif not ours.parameters <= theirs.parameters:
        yield f"{name} takes {sorted(ours.parameters)}, in the bindings {sorted(theirs.parameters)}"
    elif None not in (ours.value, theirs.value) and ours.value != theirs.value:
        yield f"{name} is {ours.value}, in the bindings {theirs.value}"


def _collect(body: Sequence[ast.stmt], holder: str, found: dict[str, Entry]) -> None:
    for node in body:
        name, value = _defined(node)
        if name is None or name.startswith("_"):
            continue
        entry = found.setdefault(holder + name, Entry(value=value))
        if isinstance(node, ast.ClassDef):
            _collect(node.body, f"{holder}{name}.", found)
        elif isinstance(node, ast.FunctionDef):
            names = [one.arg for one in (*node.args.posonlyargs, *node.args.args)]
            static = any(
                isinstance(one, ast.Name) and one.id == "staticmethod"
                for one in node.decorator_list
            )
            entry.parameters.add(tuple(names[bool(holder) and not static :]))


def _defined(node: ast.stmt) -> tuple[str | None, int | None]:
    """The name that a statement defines, and its number if it is one."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return node.name, None
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(targets[0], ast.Name):
        return None, None
    value = node.value.value if isinstance(node.value, ast.Constant) else None
    return targets[0].id, value if isinstance(value, int) else None

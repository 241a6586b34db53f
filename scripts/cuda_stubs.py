"""What are the signatures of CUDA's runtime API in Python: a stub, read out of cuda-python itself.

python scripts/cuda_stubs.py FILE.pyi      with cuda-python importable; no device is needed

The wheel brings no types, but each function has a signature, and its documentation lists the values
that it returns.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from enum import EnumMeta
from pathlib import Path
from types import ModuleType

HEAD = "from enum import IntEnum\nfrom typing import Any\n\n"


def stub(module: ModuleType) -> str:
    """The stub of every name that begins with `cuda`."""
    names = [name for name in sorted(vars(module)) if name.startswith("cuda")]
    return HEAD + "\n".join(line for name in names for line in _lines(name, vars(module)[name]))


def _lines(name: str, value: object) -> Iterator[str]:
    if isinstance(value, int) and not isinstance(value, type):
        yield f"{name}: int = {int(value)}"
    elif isinstance(value, type) and _is_enum(value):
        members = [one for one in vars(value) if isinstance(getattr(value, one), value)]
        yield f"class {name}(IntEnum):"
        yield from (f"    {one} = {int(getattr(value, one))}" for one in members)
        yield "" if members else "    ..."
    elif isinstance(value, type):
        yield f"class {name}:\n    def __init__(self, *values: Any) -> None: ..."
        yield "    def __int__(self) -> int: ..."
        yield "    def __getattr__(self, name: str) -> Any: ..."
    elif callable(value):
        yield _function(name, value)


def _is_enum(kind: type) -> bool:
    """cuda-python 13 has enums of its own making."""
    return isinstance(kind, EnumMeta) or type(kind).__name__ == "FastEnumMetaclass"


def _function(name: str, value: object) -> str:
    """Arguments by name; of the results only how many there are beside the error."""
    parameters = inspect.signature(value).parameters.values()  # type: ignore[arg-type]  # Callable.
    arguments = ", ".join(
        parameter.name + ("" if parameter.default is parameter.empty else "=...")
        for parameter in parameters
    )
    results = ", ".join(["cudaError_t", *["Any"] * (_results(value.__doc__ or "") - 1)])
    return f"def {name}({arguments}) -> tuple[{results}]: ..."


def _results(documentation: str) -> int:
    """How many values the section `Returns` lists: its lines without indentation."""
    lines = documentation.partition("\nReturns\n-------\n")[2].splitlines()
    count = 0
    for line in lines:
        if not line:
            break
        count += not line.startswith(" ")
    return max(count, 1)


if __name__ == "__main__":
    from cuda.bindings import runtime

    Path(sys.argv[1]).write_text(stub(runtime))

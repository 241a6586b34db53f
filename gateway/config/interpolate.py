"""What does a text with `${NAME}` in it say in this environment?

    ${NAME}            the variable; an unset one is an error
    ${NAME:-default}   the variable, or the default if it is unset or empty (as in the shell)
    $${                a literal ${

Pure. The result is not looked at again, so a variable's value cannot name further variables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<inside>[^{}]*)(?P<end>\}?)")
_INSIDE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-.*)?", re.DOTALL)


def interpolate(text: str, environ: Mapping[str, str]) -> str:
    """Return `text` with its references replaced. Raises `ValueError` in words without values."""
    if "${" not in text:
        return text
    return _REFERENCE.sub(lambda match: _value(match, environ), text)


def _value(match: re.Match[str], environ: Mapping[str, str]) -> str:
    if match.group() == "$${":
        return "${"
    inside = _INSIDE.fullmatch(match["inside"])
    if not match["end"] or inside is None:
        raise ValueError(
            "has a ${ that is not ${NAME} or ${NAME:-default}; write $${ for a literal one"
        )
    name, default = inside["name"], inside["default"]
    value = environ.get(name)
    if default is not None:
        return value or default.removeprefix(":-")
    if value is None:
        raise ValueError(
            f"needs the environment variable {name}, which is not set "
            f"(${{{name}:-default}} would make it optional)"
        )
    return value

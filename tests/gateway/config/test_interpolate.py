"""What do references to the environment turn into?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.interpolate import interpolate

ENVIRON = {"HOST": "gpu-1", "EMPTY": "", "NESTED": "${HOST}"}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("plain $HOST $$ }", "plain $HOST $$ }"),
        ("http://${HOST}:${PORT:-8000}/", "http://gpu-1:8000/"),
        ("${HOST:-other}", "gpu-1"),
        ("${EMPTY}", ""),
        ("${EMPTY:-default}", "default"),
        ("${UNSET:-}", ""),
        ("${UNSET:-a:-b}", "a:-b"),
        ("$${HOST}", "${HOST}"),
        ("$$${HOST}", "$${HOST}"),
        ("${NESTED}", "${HOST}"),
    ],
)
def test_references_become_values(text: str, meant: str) -> None:
    """Names, defaults and the escape; values are not looked at again."""
    assert interpolate(text, ENVIRON) == meant


@pytest.mark.parametrize("text", ["${", "${HOST", "${}", "${1A}", "${A-b}", "${A:b}", "${a${b}}"])
def test_malformed_references_are_refused(text: str) -> None:
    """What looks like a reference but is none is a mistake, never kept as it is."""
    with pytest.raises(ValueError, match="literal one"):
        interpolate(text, ENVIRON)


def test_an_unset_variable_is_named() -> None:
    """The message names the variable and the way to make it optional."""
    with pytest.raises(ValueError, match=r"variable UNSET, .*\$\{UNSET:-default\}"):
        interpolate("${UNSET}", ENVIRON)


@given(st.text())
def test_escaping_brings_back_any_text(text: str) -> None:
    """Every text can be written, with each `${` as `$${`."""
    literal = text.replace("$", "")
    assert interpolate(f"{literal}$${{{literal}", {}) == f"{literal}${{{literal}"

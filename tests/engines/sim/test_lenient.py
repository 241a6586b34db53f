"""A lenient engine overlooks what only a mock server would."""

from __future__ import annotations

from typing import Any

import pytest

from engines.sim.lenient import overlook


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"max_tokens": 0, "max_completion_tokens": -1}, {}),
        ({"stream": False, "stream_options": {"include_usage": True}}, {"stream": False}),
        ({"suffix": "test.", "prompt": "x"}, {"prompt": "x"}),
        ({"encoding_format": "base64", "input": "x"}, {"input": "x"}),
    ],
)
def test_what_an_engine_refuses_is_dropped(asked: dict[str, Any], kept: dict[str, Any]) -> None:
    """Parameters that vLLM answers with 400 are as if they had not been given."""
    assert overlook(asked) == kept


def test_what_an_engine_takes_stays() -> None:
    """A request with a meaning keeps it, and the caller's own object is not touched."""
    asked = {"max_tokens": 5, "stream": True, "stream_options": {}, "encoding_format": "float"}
    before = dict(asked)

    assert overlook(asked) == before
    overlook({**asked, "suffix": "x"})
    assert asked == before

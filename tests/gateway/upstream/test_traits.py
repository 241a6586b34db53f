"""Traits say what a balancer asked for, and never show it in a log."""

from __future__ import annotations

import pytest

from gateway.upstream.traits import STREAM, WHOLE, Traits


def test_the_shared_ones_differ_only_in_kind() -> None:
    """Neither has a key or a prompt."""
    assert (STREAM.stream, WHOLE.stream) == (True, False)
    assert STREAM[1:] == WHOLE[1:] == (b"", b"")


def test_traits_cannot_change() -> None:
    """The shared ones belong to every request."""
    with pytest.raises(AttributeError):
        STREAM.stream = False  # type: ignore[misc]  # That it fails is the point.


def test_what_the_client_wrote_does_not_show() -> None:
    """A traceback or a debug log with traits in it tells lengths only."""
    shown = f"{Traits(stream=True, session=b'alice', prompt=b'my secret')!r}"
    assert shown == "<Traits stream=True, session of 5 bytes, prompt of 9 bytes>"

"""What each test of the gateway leaves as it found it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """A reload sets the level of the root logger, which other tests read messages of."""
    root = logging.getLogger()
    before = root.level
    yield
    root.setLevel(before)

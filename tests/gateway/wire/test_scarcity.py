"""What is our own lack, and what the peer's failure."""

from __future__ import annotations

import errno

import httpx
import pytest

from gateway.wire.scarcity import is_scarcity


def raised(inner: BaseException, *, cause: bool) -> BaseException:
    """Return httpx's exception around another one."""
    outer = httpx.ConnectError("failed")
    outer.__cause__, outer.__context__ = (inner, None) if cause else (None, inner)
    return outer


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL])
@pytest.mark.parametrize("cause", [True, False])
def test_what_the_kernel_refuses_us_is_our_lack(number: int, cause: bool) -> None:
    """Also inside of what a library makes of it."""
    lack = OSError(number, "lack")
    assert is_scarcity(lack)
    assert is_scarcity(raised(lack, cause=cause))
    assert is_scarcity(raised(ExceptionGroup("all", [OSError("other"), lack]), cause=cause))


@pytest.mark.parametrize("error", [OSError(errno.ECONNREFUSED, "no"), OSError("?"), ValueError()])
def test_what_the_peer_does_is_not(error: Exception) -> None:
    """Nor an error without a number."""
    assert not is_scarcity(error)
    assert not is_scarcity(raised(error, cause=True))
    assert not is_scarcity(ExceptionGroup("all", [error]))


def test_exceptions_that_came_from_each_other_are_read_once() -> None:
    """As one that was raised again while the other was handled."""
    first, second = ValueError(), ValueError()
    first.__context__, second.__context__ = second, first
    assert not is_scarcity(first)

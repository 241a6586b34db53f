"""What is our own lack, and what the peer's failure."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from gateway.wire.scarcity import is_scarcity
from gateway.wire.types import UpstreamError
from gateway.wire.upstream import Address, Client
from tests.support.engine import Engine


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


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let the kernel refuse this process any further descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)  # The kernel gives the lowest that is free.
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_connection_for_which_there_is_no_descriptor_is_our_lack() -> None:
    """The kernel's own refusal; with room again, the same endpoint is reached."""
    async with Engine([]) as engine:
        client = Client(Address("127.0.0.1", engine.port), time.monotonic)
        with no_descriptors(), pytest.raises(UpstreamError, match="open another") as raised:
            await client.dial()
        assert raised.value.ours
        connection = await client.dial()
        connection.close()


async def test_an_endpoint_that_does_not_listen_is_no_lack_of_ours() -> None:
    """It is what is charged with the failure."""
    async with Engine([]) as engine:
        address = Address("127.0.0.1", engine.port)
    with pytest.raises(UpstreamError, match="cannot be reached") as raised:
        await Client(address, time.monotonic).dial()
    assert not raised.value.ours

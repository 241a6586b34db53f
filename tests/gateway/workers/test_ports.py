"""One port for several processes, and for nobody else."""

from __future__ import annotations

import socket

import pytest

from gateway.host import bind
from gateway.workers.ports import keep_port, shared


def test_the_parent_keeps_a_port_that_takes_no_connection() -> None:
    """Port 0 is settled; connections go to those that listen, not to whoever keeps it."""
    with keep_port("127.0.0.1", 0) as kept:
        port = kept.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
        with shared("127.0.0.1", port) as worker:
            worker.listen()
            for _ in range(20):
                socket.create_connection(("127.0.0.1", port), 5).close()
            for _ in range(20):
                worker.accept()[0].close()


def test_another_gateway_s_port_is_not_joined() -> None:
    """SO_REUSEPORT alone would let a second gateway of the same user in, unseen."""
    with keep_port("127.0.0.1", 0) as kept:
        port = kept.getsockname()[1]
        with shared("127.0.0.1", port) as worker:
            worker.listen()
            with pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1:{port}"):
                keep_port("127.0.0.1", port)


def test_a_port_of_one_who_does_not_share_is_refused() -> None:
    with bind("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="Address already in use"):
            shared("127.0.0.1", port)


def test_ipv6_hosts_have_ports_too() -> None:
    with keep_port("::1", 0) as kept:
        assert kept.family == socket.AF_INET6

"""The listening socket, its address as people see it, and mistakes in plain words."""

from __future__ import annotations

import socket

import pytest

from gateway.config.server import Server
from gateway.host import bind, url_of


def test_a_port_in_use_is_named() -> None:
    """The operator reads which address cannot be had, and why."""
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1:{port}: Address already"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")])
def test_the_url_is_one_that_a_client_here_can_use(host: str, shown: str) -> None:
    """An address for any interface is shown as the loopback's."""
    with bind(host, 0) as listener:
        assert url_of(listener, Server()) == f"http://{shown}:{listener.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6_addresses_stand_in_brackets() -> None:
    """As a URL needs them."""
    with bind("::1", 0) as listener:
        assert url_of(listener, Server()).startswith("http://[::1]:")

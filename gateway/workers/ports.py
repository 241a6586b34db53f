"""How do several processes listen on one port, and a stranger not?

Each worker has a listening socket of its own with SO_REUSEPORT; the kernel spreads connections
over them by a hash of the addresses. A socket in this group takes part only once it listens: so a
worker binds early, and listens when it can serve.

The parent asks for the port first without the option. That fails if anybody listens there, also
another gateway of the same user, whom SO_REUSEPORT alone would let in. Then it keeps the port by a
socket that never listens.
"""

from __future__ import annotations

import socket

from gateway.host import bind


def keep_port(host: str, port: int) -> socket.socket:
    """Return a socket that holds the port, and takes no connection. Raises `OSError`."""
    with bind(host, port) as probe:
        chosen: int = probe.getsockname()[1]
    return shared(host, chosen)


def shared(host: str, port: int) -> socket.socket:
    """Return a socket bound to the port beside others. Raises `OSError` naming both."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is.
    one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        one.bind((host, port))
    except OSError as error:
        one.close()
        raise OSError(f"Cannot listen on {host}:{port}: {error.strerror}.") from None
    return one

"""May the service fetch what a URL of a client names, and from which address?

    URL ──► parse (scheme, host, port, target) ──► [resolve] ──► permitted addresses ──► connect

A URL is taken apart here and nowhere else, so that no second parser reads another host in it; what
has two readings is refused. Addresses are judged after resolution, and by a table of our own:
`ipaddress.is_global` of Python 3.11 calls 64:ff9b::7f00:1, 2002:7f00:1::, ::7f00:1, fec0::1 and all
of multicast global. A refusal for an address says the same as a name that does not exist: nobody
maps a network by asking. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urljoin

from vision.errors import BadInput

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NOWHERE: Final = "The URL's host has no address that this service fetches from."
_NO_URL: Final = "The URL redirects to something that is not a URL."
_MAX_URL: Final = 8192  # Presigned URLs of object stores have about 2,000 characters.
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)")
_PARTS: Final = re.compile(r"(?P<authority>[^/?#]*)(?P<target>[^#]*)(?:#.*)?")
_AUTHORITY: Final = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?"
)
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# What WHATWG's parser, inet_aton and some resolvers take for a part of an IPv4 address.
_NUMBER: Final = re.compile(r"\d+|0[xX][0-9A-Fa-f]*")
# Printable ASCII without the backslash, which browsers read as a slash.
_CLEAN: Final = re.compile(r"[!-\[\]-~]+")

# IANA's special-purpose registries, whatever they say on reachability, and multicast.
_REFUSED_V4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT; Alibaba's metadata service is 100.100.100.200
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; most clouds' metadata service is 169.254.169.254
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata service is 192.0.0.192
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",  # a public number that Azure answers inside of each machine
    )
)
# Global unicast is 2000::/3; outside of it lie loopback, ULA, link-local, site-local, multicast,
# IPv4-compatible, NAT64 (64:ff9b::/96, 64:ff9b:1::/48) and segment routing addresses.
_UNICAST_V6: Final = IPv6Network("2000::/3")
_REFUSED_V6: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, with Teredo and ORCHID
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address is in it
        "2620:4f:8000::/48",
        "3fff::/20",
    )
)
# The interface id of ISATAP, 0:5efe or 200:5efe before an IPv4 address.
_ISATAP: Final = (0x00005EFE, 0x02005EFE)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be resolved: `host` is lower case, without a trailing dot or brackets."""

    scheme: str
    host: str
    port: int
    path: str  # with the query, as it was written; begins with a slash

    @property
    def authority(self) -> str:
        """What the `Host` header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The same as a URL."""
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def literal(self) -> Address | None:
        """The address, if the host is one."""
        try:
            return _plain(ip_address(self.host))
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class AddressRules:
    """Which hosts, ports and networks an operator allows.

    `hosts`: none for all; else only these, each an exact name or address, or `.example.com` for
    every name below it. `networks`: ranges that are allowed although they are not public.
    """

    hosts: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    ports: Collection[int] = frozenset({80, 443})

    def parse(self, url: str) -> Target:
        """Take a URL apart. Raises `BadInput` (`url_refused`); its message names what was wrong."""
        if len(url) > _MAX_URL or not _CLEAN.fullmatch(url):
            raise _refused(
                f"A URL has at most {_MAX_URL} printable ASCII characters and no backslash."
            )
        whole = _URL.fullmatch(url)
        if whole is None or (scheme := whole["scheme"].lower()) not in _DEFAULT_PORTS:
            raise _refused("Only http:// and https:// URLs are fetched.")
        parts = _PARTS.fullmatch(whole["rest"])
        authority = parts and _AUTHORITY.fullmatch(parts["authority"])
        if parts is None or authority is None:
            raise _refused("The URL's host is not a plain name or address with an optional port.")
        port = int(authority["port"] or _DEFAULT_PORTS[scheme])
        if port not in self.ports:
            raise _refused(f"URLs of port {port} are not fetched.")
        target = parts["target"]
        path = target if target.startswith("/") else f"/{target}"
        result = Target(scheme, _host(authority["host"]), port, path)
        if not self._names(result.host):
            raise _refused("The URL's host is not one that this service fetches from.")
        return result

    def follow(self, base: Target, location: str) -> Target:
        """Judge a redirect like a URL of its own, and not from https to http; raises alike."""
        # urljoin drops tabs and line ends, and so reads another URL than was checked.
        if not _CLEAN.fullmatch(location):
            raise _refused(_NO_URL)
        try:
            url = urljoin(base.url, location)
        except ValueError:  # Brackets with no address in them.
            raise _refused(_NO_URL) from None
        target = self.parse(url)
        if base.scheme == "https" and target.scheme == "http":
            raise _refused("The URL redirects from https to http.")
        return target

    def permitted(self, resolved: Iterable[str]) -> Sequence[Address]:
        """Return the addresses to connect to, each once; all of them have to be allowed.

        A name with one forbidden address is refused whole: it would be a way to try. Raises
        `BadInput` (`url_refused`) with one message for whatever is the reason.
        """
        addresses: dict[Address, None] = {}
        for text in resolved:
            try:
                address = _plain(ip_address(text))
            except ValueError:  # With a scope: link-local.
                raise _refused(NOWHERE) from None
            if not self._allows(address):
                raise _refused(NOWHERE)
            addresses[address] = None
        if not addresses:
            raise _refused(NOWHERE)
        return tuple(addresses)

    def _names(self, host: str) -> bool:
        return not self.hosts or any(
            host == known or (known.startswith(".") and host.endswith(known))
            for known in map(str.lower, self.hosts)
        )

    def _allows(self, address: Address) -> bool:
        return any(address in network for network in self.networks) or is_public(address)


def is_public(address: Address) -> bool:
    """Say whether an address is one of the public internet's, and embeds no other one."""
    if isinstance(address, IPv6Address):
        return (
            address in _UNICAST_V6
            and not any(address in network for network in _REFUSED_V6)
            and int(address) >> 32 & 0xFFFFFFFF not in _ISATAP
        )
    return not any(address in network for network in _REFUSED_V4)


def _plain(address: Address) -> Address:
    """Unwrap an IPv4 address in IPv6 clothes: ::ffff:127.0.0.1 connects to 127.0.0.1."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError("an address with a scope is one of a link")
        return address.ipv4_mapped or address
    return address


def _host(written: str) -> str:
    if written.startswith("["):
        try:
            return str(_plain(IPv6Address(written[1:-1])))
        except ValueError:
            raise _refused("The URL's host is not an IPv6 address.") from None
    host = written.lower().removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise _refused("An IPv4 address is written as four decimal numbers.") from None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused("The URL's host is not a name.")
    return host


def _refused(message: str) -> BadInput:
    return BadInput(message, code="url_refused")

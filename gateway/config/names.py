"""Is this text a usable URL, path, name or key, and if not, why?

Pure. Each function returns the normal form or raises `ValueError` with words that can follow
"<the field>"; none of them repeats a secret.
"""

from __future__ import annotations

import ipaddress
import re

MAX_MODEL_CHARS = 200

_CLUSTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252})")
_AUTHORITY = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>.*))?")
_PORT = re.compile(r"[0-9]{1,5}")
# RFC 3986's pchar and "/", in other words what may stand in a request line.
_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*)*")
_VISIBLE = re.compile(r"[\x21-\x7e]+")


def cluster_name(text: str) -> str:
    """Accept a label: it stands in metrics, logs and file names."""
    if not _CLUSTER.fullmatch(text):
        raise ValueError(
            "is not a cluster name: use 1 to 63 letters, digits, dots, dashes and underscores, "
            "beginning with a letter or digit"
        )
    return text


def model_name(text: str) -> str:
    """Accept what clients send as `model`; Hugging Face ids and tags are typical."""
    if not text or len(text) > MAX_MODEL_CHARS or not text.isprintable() or text != text.strip():
        raise ValueError(
            f"is not a model name: use 1 to {MAX_MODEL_CHARS} printable characters, "
            "no space at either end"
        )
    return text


def header_value(secret: str) -> str:
    """Accept a key that can stand in an Authorization header (RFC 6750 is narrower still)."""
    if not _VISIBLE.fullmatch(secret):
        raise ValueError("must be visible ASCII without spaces or line ends")
    return secret


STORES = ("memory", "sqlite", "redis", "rediss", "unix")
"""The kinds that `gateway.store.connect` knows; a test keeps the two equal."""


def url_path(text: str) -> str:
    """Accept an absolute path, without query or fragment."""
    if not text.startswith("/") or not _PATH.fullmatch(text):
        raise ValueError("must be an absolute URL path such as /health, without query or fragment")
    return text


def endpoint_url(text: str) -> str:
    """Return the URL with scheme and host in lower case and no slash at the end."""
    if not _VISIBLE.fullmatch(text):
        raise ValueError("must be a URL in visible ASCII, without spaces")
    scheme, separator, rest = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in {"http", "https"}:
        raise ValueError("must begin with http:// or https://")
    if "@" in rest.partition("/")[0]:
        raise ValueError("must not hold credentials; use the cluster's api_key")
    if "?" in rest or "#" in rest:
        raise ValueError("must not have a query or fragment")
    authority, slash, tail = rest.partition("/")
    path = (slash + tail).rstrip("/")
    if not _PATH.fullmatch(path):
        raise ValueError("has a path with characters that a URL cannot hold")
    if path == "/v1" or path.endswith("/v1"):
        # What an SDK calls its base URL; kept, it would ask the engine for /v1/v1/….
        raise ValueError("must not end in /v1: the gateway appends the API's paths itself")
    return f"{scheme}://{_authority(authority)}{path}"


def _authority(text: str) -> str:
    match = _AUTHORITY.fullmatch(text.lower())
    if match is None:
        raise ValueError("has a host that cannot be read")
    port = match["port"]
    if port is not None and not (_PORT.fullmatch(port) and 1 <= int(port) <= 65535):
        raise ValueError(
            "must have a port from 1 to 65535 after the colon (IPv6 addresses stand in brackets)"
        )
    suffix = "" if port is None else f":{int(port)}"
    if match["ipv6"] is not None:
        return f"[{_ipv6(match['ipv6'])}]{suffix}"
    host = match["host"]
    if not _HOST.fullmatch(host) or ".." in host:
        raise ValueError("has no valid host name")
    return f"{host}{suffix}"


def _ipv6(host: str) -> str:
    if "%" in host:
        raise ValueError("must not have a zone in its IPv6 address")
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError as error:
        raise ValueError("has no valid IPv6 address in its brackets") from error


def endpoint_id(url: str) -> str:
    """Return the name that the endpoint at `url` (as `endpoint_url` returns it) has everywhere.

    Host, port and base path: in metrics, in logs and in the operators' API.
    """
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    has_port = ":" in authority.rpartition("]")[2]
    port = "" if has_port else ":443" if scheme == "https" else ":80"
    return f"{authority}{port}{slash}{path}"


def store_address(address: str) -> str:
    """Check the address of a store; what only opening it shows is not found here."""
    scheme, colon, rest = address.partition(":")
    if not colon or scheme not in STORES:
        raise ValueError(f"must begin with one of {', '.join(f'{each}:' for each in STORES)}")
    if not rest.strip("/") and scheme != "memory":
        raise ValueError(f"needs a place after `{scheme}:`")
    return address

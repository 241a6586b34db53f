"""Whom does a cluster trust over TLS, and has that changed since it was last read?"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Trust:
    """A cluster's TLS context, and what it was made of."""

    tls: ssl.SSLContext | None
    """None where no endpoint can be https."""
    made_of: tuple[bool, bytes | None] | None = field(default=None, repr=False)
    """Whether certificates are checked, and the CA bundle's contents if it is not the system's."""


def trust_of(spec: Cluster, old: Trust | None) -> Trust:
    """Make the context for a cluster's https endpoints; `old` itself if nothing has changed.

    A renewed CA bundle under its old name is a change. Raises `OSError` (as `ssl.SSLError` does)
    for a bundle that cannot be used. A context costs some 10 ms, so none is made without need.
    """
    urls = (endpoint.url for endpoint in spec.endpoints)
    if not spec.registration and not any(url.startswith("https://") for url in urls):
        return old if old is not None and old.tls is None else Trust(None)
    ca_file = spec.tls.ca_file
    made_of = (spec.tls.verify, None if ca_file is None else Path(ca_file).read_bytes())
    if old is not None and old.made_of == made_of:
        return old
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise OSError(f"{ca_file} holds no certificates that can be used: {error}") from None
    if not spec.tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return Trust(context, made_of)

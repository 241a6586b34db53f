"""A TLS context is made where one is needed, once, and again when its authorities change."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from gateway.config.cluster import Cluster
from gateway.upstream.trust import trust_of


def spec(url: str = "https://a", **tls: Any) -> Cluster:
    return Cluster.model_validate({"endpoints": [{"url": url}], "tls": tls})


def pem() -> str:
    """Certificates of some authorities: those that the system trusts."""
    context = ssl.create_default_context()
    found = context.get_ca_certs(binary_form=True)
    if not found:
        pytest.skip("this machine trusts nobody")
    return "".join(map(ssl.DER_cert_to_PEM_cert, found[:1]))


def test_plain_http_needs_none() -> None:
    """Nothing is read for it; that it stays so is no change."""
    none = trust_of(spec("http://a", ca_file="/missing"), None)
    assert none.tls is None
    assert trust_of(spec("http://b"), none) is none
    assert trust_of(spec("http://b"), trust_of(spec(), None)).tls is None


def test_who_may_register_may_be_https() -> None:
    """So that a registration cannot fail for want of a context."""
    open_to_all = Cluster.model_validate({"registration": True})
    assert trust_of(open_to_all, None).tls is not None


def test_the_same_settings_are_the_same_context() -> None:
    """Connections made under it stay good."""
    first = trust_of(spec(), None)
    assert trust_of(spec(), first) is first
    assert first.tls is not None
    assert first.tls.verify_mode is ssl.CERT_REQUIRED
    second = trust_of(spec(verify=False), first)
    assert second.tls is not None
    assert (second.tls.verify_mode, second.tls.check_hostname) == (ssl.CERT_NONE, False)


def test_a_renewed_bundle_is_a_new_context(tmp_path: Path) -> None:
    """Under the same name; one without certificates is refused, not taken for the system's."""
    file = tmp_path / "ca.pem"
    file.write_text(pem())
    first = trust_of(spec(ca_file=str(file)), None)
    assert trust_of(spec(ca_file=str(file)), first) is first
    file.write_text(f"# renewed\n{pem()}")
    assert trust_of(spec(ca_file=str(file)), first) is not first
    for bad in ("", "rubbish"):
        file.write_text(bad)
        with pytest.raises(OSError, match="no certificates that can be used"):
            trust_of(spec(ca_file=str(file)), first)

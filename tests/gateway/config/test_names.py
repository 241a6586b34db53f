"""Which URLs, paths and names are accepted, and in which form?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.names import cluster_name, endpoint_url, header_value, model_name, url_path


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("http://gpu-1:8000", "http://gpu-1:8000"),
        ("http://gpu-1:8000/", "http://gpu-1:8000"),
        ("HTTPS://Gpu-1.Example.COM", "https://gpu-1.example.com"),
        ("http://10.0.0.7:80/base/path//", "http://10.0.0.7:80/base/path"),
        ("http://[FD00:0::1]:8000/x", "http://[fd00::1]:8000/x"),
        ("http://[::1]", "http://[::1]"),
        ("http://vllm_llama.models.svc:8000/v1beta", "http://vllm_llama.models.svc:8000/v1beta"),
    ],
)
def test_an_endpoint_url_takes_its_normal_form(given: str, normal: str) -> None:
    """Scheme, host and IPv6 literal are normalised, the slash at the end goes, the path stays."""
    assert endpoint_url(given) == normal


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "visible ASCII"),
        ("gpu-1:8000", "http://"),
        ("ftp://gpu-1", "http://"),
        ("http://", "host"),
        ("http:///v2", "host"),
        ("http://:8000", "host"),
        ("http://gpu 1", "visible ASCII"),
        ("http://gpu\n1", "visible ASCII"),
        ("http://gpü", "visible ASCII"),
        ("http://a..b", "host"),
        ("http://-a", "host"),
        ("http://user:secret@gpu", "credentials"),
        ("http://gpu?x=1", "query"),
        ("http://gpu/#x", "fragment"),
        ("http://gpu:", "port"),
        ("http://gpu:0", "port"),
        ("http://gpu:65536", "port"),
        ("http://gpu:8a", "port"),
        ("http://fd00::1", "brackets"),
        ("http://[fd00::1", "cannot be read"),
        ("http://[fd00::zz]", "IPv6"),
        ("http://[fe80::1%eth0]", "zone"),
        ("http://gpu:8000/v1", "/v1"),
        ("http://gpu:8000/v1/", "/v1"),
        ("http://gpu/team/v1", "/v1"),
        ("http://gpu/a%2", "path"),
        ('http://gpu/"', "path"),
    ],
)
def test_an_unusable_url_is_refused_with_its_reason(bad: str, why: str) -> None:
    """The reason names what is wrong and never repeats the URL, which may hold a password."""
    with pytest.raises(ValueError, match=why) as caught:
        endpoint_url(bad)
    assert "secret" not in str(caught.value)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_normal_urls_are_stable(rest: str) -> None:
    """Whatever is accepted is accepted again, unchanged, and can stand in a request line."""
    try:
        normal = endpoint_url(f"http://{rest}")
    except ValueError:
        return
    assert endpoint_url(normal) == normal
    assert not set(normal) & set(' "<>?#\\^`|')


def test_paths_are_absolute() -> None:
    """A probe's path begins with a slash and has no query."""
    assert url_path("/health") == "/health"
    for bad in ("", "health", "/health?deep=1", "/a b", "/ä"):
        with pytest.raises(ValueError, match="absolute URL path"):
            url_path(bad)


def test_names_are_fit_for_labels_and_logs() -> None:
    """Cluster names are labels; model names may be ids with slashes, but nothing unprintable."""
    assert cluster_name("llama-3.1_a") == "llama-3.1_a"
    assert model_name("meta-llama/Llama-3.1-8B:latest") == "meta-llama/Llama-3.1-8B:latest"
    for bad in ("", "-a", "a b", "a" * 64, "a/b"):
        with pytest.raises(ValueError, match="cluster name"):
            cluster_name(bad)
    for bad in ("", " a", "a\n", "a\x1b[31m", "x" * 201):
        with pytest.raises(ValueError, match="model name"):
            model_name(bad)


def test_a_key_cannot_smuggle_a_header() -> None:
    """Line ends and spaces in a key are refused, without repeating it."""
    assert header_value("sk-123") == "sk-123"
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        header_value("sk-123\r\nx-evil: 1")
    assert "sk-123" not in str(caught.value)

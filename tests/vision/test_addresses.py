"""Which URLs and addresses are fetched: what has two readings is refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.addresses import NOWHERE, AddressRules, is_public
from vision.errors import BadInput

RULES = AddressRules()


def refusal(url: str, rules: AddressRules = RULES) -> str:
    with pytest.raises(BadInput) as caught:
        rules.parse(url)
    assert caught.value.code == "url_refused"
    return caught.value.message


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://example.com", ("http", "example.com", 80, "/")),
        ("HTTPS://Example.COM./a/b?c=d#e", ("https", "example.com", 443, "/a/b?c=d")),
        ("http://example.com:80?x", ("http", "example.com", 80, "/?x")),
        ("https://my_bucket.s3-eu.example:443/k", ("https", "my_bucket.s3-eu.example", 443, "/k")),
        ("http://93.184.216.34/x", ("http", "93.184.216.34", 80, "/x")),
        ("http://127.0.0.1./", ("http", "127.0.0.1", 80, "/")),  # and judged as that address
        (
            "http://[2606:4700:0:0::1111]/",
            ("http", "2606:4700::1111", 80, "/"),
        ),
        ("http://[::ffff:127.0.0.1]/", ("http", "127.0.0.1", 80, "/")),
        ("http://example.com//a@b:1", ("http", "example.com", 80, "//a@b:1")),
        ("http://xn--bcher-kva.example/", ("http", "xn--bcher-kva.example", 80, "/")),
    ],
)
def test_a_plain_url_is_taken_apart(url: str, parts: tuple[str, str, int, str]) -> None:
    target = RULES.parse(url)
    assert (target.scheme, target.host, target.port, target.path) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com/x.png",
        "//example.com/x.png",
        "file:///etc/passwd",
        "file://example.com/etc/passwd",
        "ftp://example.com/x.png",
        "gopher://example.com/_x",
        "javascript://example.com/",
        "jar:http://example.com!/",
        "unix:///var/run/docker.sock",
        "http:/example.com",
        "http:example.com",
        "http://",
        "http:///x.png",
        "http://:80/",
        # Another host than the one that is seen.
        "http://example.com@127.0.0.1/",
        "http://user:secret@example.com/",
        "http://@example.com/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com\\.evil.example/",
        "http:\\\\example.com/",
        "http://example.com%2f@127.0.0.1/",
        "http://%31%32%37.0.0.1/",
        "http://127.0.0.1%00.example.com/",
        "http://example.com:80:81/",
        "http://example.com:80@127.0.0.1:81/",
        # What parsers drop or fold.
        "http://example.com/\n",
        "http://exa\tmple.com/",
        "http://example.com\r\nHost: internal/",
        " http://example.com/",
        "http://example.com /",
        "http://example.com\x00/",
        "http://example\u3002com/",  # an ideographic full stop, which IDNA maps to a dot
        "http://\u2460\u2461\u2466.0.0.1/",  # circled digits, which NFKC maps to 127
        "http://b\u00fccher.example/",
        # Spellings of addresses.
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.0.01/",
        "http://127.0.0.1.1/",
        "http://127.0.0.256/",
        "http://example.0x1/",
        "http://[127.0.0.1]/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[::1/",
        "http://::1/",
        "http://[::1]x/",
        "http://[v1.x]/",
        # Names that are none.
        "http://.example.com/",
        "http://example..com/",
        "http://-example.com/",
        f"http://{'a' * 64}.example/",
        f"http://{'a.' * 130}example/",
        # Ports.
        "http://example.com:22/",
        "http://example.com:6379/",
        "http://example.com:0/",
        "http://example.com:/",
        "http://example.com:99999/",
        "http://example.com:-80/",
        f"http://example.com/{'a' * 8192}",
    ],
)
def test_a_url_with_another_reading_is_refused(url: str) -> None:
    refusal(url)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "::",
        "::1",
        "::7f00:1",  # IPv4-compatible
        "::ffff:127.0.0.1",  # IPv4-mapped
        "::ffff:a9fe:a9fe",
        "::ffff:0:127.0.0.1",  # IPv4-translated
        "64:ff9b::7f00:1",  # NAT64
        "64:ff9b:1::7f00:1",
        "100::1",
        "2001::1",  # Teredo
        "2001:db8::1",
        "2002:7f00:1::",  # 6to4
        "2606:4700::5efe:7f00:1",  # ISATAP
        "2606:4700::200:5efe:7f00:1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "not an address",
    ],
)
def test_no_address_but_a_public_one_is_permitted(address: str) -> None:
    with pytest.raises(BadInput) as caught:
        RULES.permitted([address])
    assert (caught.value.code, caught.value.message) == ("url_refused", NOWHERE)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "172.32.0.1", "2606:4700::1111", "2a00:1450::200e"]
)
def test_a_public_address_is_permitted(address: str) -> None:
    assert [str(one) for one in RULES.permitted([address])] == [address]


def test_a_mapped_public_address_is_connected_to_as_what_it_is() -> None:
    assert RULES.permitted(["::ffff:8.8.8.8", "8.8.8.8"]) == (ip_address("8.8.8.8"),)


def test_one_private_address_refuses_the_name() -> None:
    with pytest.raises(BadInput):
        RULES.permitted(["8.8.8.8", "10.0.0.1"])


def test_a_name_without_addresses_reads_like_a_refused_one() -> None:
    with pytest.raises(BadInput) as caught:
        RULES.permitted([])
    assert caught.value.message == NOWHERE


def test_a_network_is_allowed_deliberately() -> None:
    rules = AddressRules(networks=(ip_network("10.1.0.0/16"), ip_network("fd00::/8")))
    assert rules.permitted(["10.1.2.3", "fd00::1", "::ffff:10.1.2.3"]) == (
        ip_address("10.1.2.3"),
        ip_address("fd00::1"),
    )
    with pytest.raises(BadInput):
        rules.permitted(["10.2.0.1"])


def test_with_an_allow_list_only_its_hosts_are_asked() -> None:
    rules = AddressRules(hosts=("Images.example.com", ".CDN.example", "8.8.8.8"))
    for url in ("http://images.example.com/", "http://a.cdn.example/", "http://8.8.8.8/"):
        rules.parse(url)
    for url in (
        "http://example.com/",
        "http://x.images.example.com/",
        "http://cdn.example/",
        "http://evilcdn.example/",
        "http://a.cdn.example.evil.example/",
        "http://8.8.4.4/",
    ):
        refusal(url, rules)


def test_a_refusal_names_nothing_of_the_url() -> None:
    for url in ("http://user:secret@example.com/", "http://secret.internal:22/", "secret://x/"):
        assert "secret" not in refusal(url)


def test_the_host_header_has_the_port_only_if_it_is_not_the_scheme_s() -> None:
    rules = AddressRules(ports={80, 8080})
    assert rules.parse("http://example.com:80/").authority == "example.com"
    assert rules.parse("http://example.com:8080/").authority == "example.com:8080"
    assert rules.parse("http://[2606:4700::1]:8080/").authority == "[2606:4700::1]:8080"


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/b?c", "http://example.com/b?c"),
        ("b", "http://example.com/a/b"),
        ("//other.example/b", "http://other.example/b"),
        ("https://other.example/", "https://other.example/"),
        ("?d", "http://example.com/a/x?d"),
    ],
)
def test_a_redirect_is_read_against_its_base(location: str, url: str) -> None:
    assert RULES.follow(RULES.parse("http://example.com/a/x"), location).url == url


@pytest.mark.parametrize(
    "location",
    [
        "",
        "file:///etc/passwd",
        "ftp://example.com/",
        "http://a@b/",
        "http://example.com:22/",
        "/\\evil.example",
        "//evil.example\t/",
        "http://2130706433/",
        "http://\u0660.example/",
        "http://[::1",
        "//[x]/",
    ],
)
def test_a_redirect_elsewhere_is_refused_like_a_url(location: str) -> None:
    with pytest.raises(BadInput) as caught:
        RULES.follow(RULES.parse("http://example.com/a"), location)
    assert caught.value.code == "url_refused"


def test_a_redirect_does_not_leave_https() -> None:
    with pytest.raises(BadInput):
        RULES.follow(RULES.parse("https://example.com/"), "http://example.com/")


@given(st.text(max_size=60).map(lambda text: f"http://{text}"))
def test_whatever_is_accepted_reads_the_same_again(url: str) -> None:
    """The canonical URL is a fixed point: no reading of it differs from the first."""
    try:
        target = RULES.parse(url)
    except BadInput:
        return
    assert RULES.parse(target.url) == target


@given(st.ip_addresses())
def test_nothing_that_python_calls_private_is_public(address: object) -> None:
    plain = ip_address(str(address))
    if plain.is_private or plain.is_multicast or plain.is_loopback or plain.is_unspecified:
        assert not is_public(plain)


@pytest.mark.parametrize(
    ("url", "literal"),
    [
        ("http://example.com/", None),
        ("http://192.0.2.1/", "192.0.2.1"),
        ("http://[::ffff:192.0.2.1]/", "192.0.2.1"),
        ("http://[2606:4700::1]/", "2606:4700::1"),
    ],
)
def test_a_host_may_be_an_address_itself(url: str, literal: str | None) -> None:
    found = RULES.parse(url).literal
    assert (None if found is None else str(found)) == literal

"""The fetcher over TLS, and in a running service that is asked to reach where it must not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import Iterator, Sequence
from ipaddress import ip_network

import httpx
import pytest
import trustme

from tests.support.pictures import claimed_png
from tests.support.process import ready_line, server
from tests.support.target import Server, http, target
from tests.support.vision_service import digit, text
from vision.addresses import NOWHERE, AddressRules
from vision.errors import BadInput
from vision.fetch import Fetcher, FetchSettings

pytestmark = pytest.mark.integration

OUTSIDE = "127.0.0.2"
"""Stands for the public internet."""
PNG, LABEL = digit(0)

# As `sluice vision serve` starts it, but for one more port: at 80 a test cannot listen, and by its
# port alone a refusal would say nothing of the address.
PROGRAM = """
import asyncio, json, sys
from vision.addresses import AddressRules
from vision.app import Settings, run
from vision.fetch import FetchSettings

def ready(address):
    print(json.dumps({"host": address.host, "port": address.port}), flush=True)

rules = AddressRules(ports={80, 443, int(sys.argv[1])})
asyncio.run(run(Settings(port=0, fetch=FetchSettings(rules=rules)), ready))
"""


# TLS


async def resolve(host: str, port: int) -> Sequence[str]:
    return [OUTSIDE]


def certified(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def over_tls(host: str, tls: ssl.SSLContext, trusted: trustme.CA) -> tuple[Server, bytes]:
    trust = ssl.create_default_context()
    trusted.configure_trust(trust)
    async with target(http(PNG, content_type="image/png"), host=OUTSIDE, tls=tls) as found:
        rules = AddressRules(networks=(ip_network(OUTSIDE),), ports={found.port})
        fetch = Fetcher(FetchSettings(rules=rules), resolve=resolve, trust=trust)
        return found, await fetch.get(f"https://{host}:{found.port}/x.png")


async def test_the_name_is_what_the_certificate_and_sni_are_about() -> None:
    """The connection goes to an address; TLS still speaks of the host."""
    authority, asked = trustme.CA(), []
    tls = certified(authority, "images.example")
    tls.sni_callback = lambda _, name, __: asked.append(name)
    found, body = await over_tls("images.example", tls, authority)
    assert body == PNG
    assert asked == ["images.example"]
    assert b"host: images.example:" in found.requests[0].lower()


async def test_an_address_in_the_url_is_checked_in_the_certificate() -> None:
    authority = trustme.CA()
    _, body = await over_tls(OUTSIDE, certified(authority, OUTSIDE), authority)
    assert body == PNG


@pytest.mark.parametrize("case", ["other name", "its address", "unknown authority"])
async def test_a_certificate_that_is_not_the_host_s_ends_it(case: str) -> None:
    authority = trustme.CA()
    names = {"other name": "other.example", "its address": OUTSIDE}
    tls = certified(authority, names.get(case, "images.example"))
    trusted = trustme.CA() if case == "unknown authority" else authority
    with pytest.raises(BadInput) as caught:
        await over_tls("images.example", tls, trusted)
    assert caught.value.message == "The image could not be fetched: no connection could be made."


# A running service


class Inside:
    """A port of this machine where somebody listens whom nobody may reach; it counts who came."""

    def __init__(self) -> None:
        self.sockets = []
        with contextlib.suppress(OSError):  # A machine without IPv6 has nothing to protect there.
            self.sockets.append(socket.create_server(("::1", 0), family=socket.AF_INET6))
        port = self.sockets[0].getsockname()[1] if self.sockets else 0
        self.sockets.append(socket.create_server(("0.0.0.0", port)))
        self.port = self.sockets[-1].getsockname()[1]
        for one in self.sockets:
            one.setblocking(False)

    @property
    def connections(self) -> int:
        """How many connections wait to be accepted."""
        waiting = 0
        for one in self.sockets:
            with contextlib.suppress(BlockingIOError):
                while True:
                    one.accept()[0].close()
                    waiting += 1
        return waiting


@pytest.fixture(scope="module")
def inside() -> Iterator[Inside]:
    made = Inside()
    yield made
    for one in made.sockets:
        one.close()


@pytest.fixture(scope="module")
def client(inside: Inside) -> Iterator[httpx.Client]:
    argv = [sys.executable, "-c", PROGRAM, str(inside.port)]
    # Proxies of the environment are not asked either: this one is inside, too.
    proxies = dict.fromkeys(("http_proxy", "all_proxy"), f"http://127.0.0.1:{inside.port}")
    with (
        server(argv, ready_line, stream="stdout", env=proxies) as served,
        httpx.Client(base_url=served.url, trust_env=False, timeout=60) as made,
    ):
        yield made


ATTEMPTS = [
    "http://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/#@example.com",
    "http://127.8.8.8:{port}/",
    "http://0.0.0.0:{port}/",
    "http://0:{port}/",
    "http://[::]:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://[::ffff:7f00:1]:{port}/",
    "http://[::127.0.0.1]:{port}/",
    "http://[64:ff9b::127.0.0.1]:{port}/",
    "http://[2002:7f00:1::]:{port}/",
    "http://[fe80::1%25lo]:{port}/",
    "http://localhost:{port}/",
    "http://LOCALHOST.:{port}/",
    "http://{hostname}:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0x7f.1:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://127.1:{port}/",
    "http://127.0.0.1.:{port}/",
    "http://%31%32%37.0.0.1:{port}/",
    "http://\u2460\u2461\u2466.0.0.1:{port}/",
    "http://127\u30020\u30020\u30021:{port}/",
    "http://example.com@127.0.0.1:{port}/",
    "http://example.com:80@127.0.0.1:{port}/",
    "http://example.com\\@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@example.com/",
    "http:\\\\127.0.0.1:{port}/",
    "http:/127.0.0.1:{port}/",
    "http://127.0.0.1\t:{port}/",
    "http://127.0.0.1:{port}/\r\nHost: example.com",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://100.100.100.200/latest/meta-data/",
    "http://168.63.129.16/machine?comp=goalstate",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://127.0.0.1:22/",
    "http://127.0.0.1:6379/",
    "https://127.0.0.1:{port}/",
    "ftp://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/_x",
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "dict://127.0.0.1:{port}/",
    "unix:///var/run/docker.sock",
]


def spelled(url: str, port: int) -> str:
    return url.format(port=port, hostname=socket.gethostname())


@pytest.mark.parametrize("url", ATTEMPTS)
def test_nothing_inside_is_asked(url: str, client: httpx.Client, inside: Inside) -> None:
    body = {"model": "digits", "inputs": {"image": spelled(url, inside.port)}}
    answer = client.post("/v1/predict", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("url_refused", "inputs.image")
    assert inside.connections == 0


def test_a_batch_of_attempts_does_not_harm_its_mates(client: httpx.Client, inside: Inside) -> None:
    """Every second item is an attempt or a broken image; the others are answered."""
    broken = [b"", b"not an image", PNG[: len(PNG) // 2], claimed_png(30_000, 30_000)]
    bad = [spelled(url, inside.port) for url in ATTEMPTS] + [text(data) for data in broken]
    bad = bad[:30] + bad[-8:]
    items = [{"image": image} for wrong in bad for image in (wrong, text(PNG))]
    for start in range(0, len(items), 16):
        batch = items[start : start + 16]
        answer = client.post("/v1/predict", json={"model": "digits", "inputs": batch})
        assert answer.status_code == 200, answer.text
        for index, result in enumerate(answer.json()["results"]):
            if index % 2:
                assert result["predictions"][0]["class"] == LABEL
            else:
                assert result["error"]["type"] == "invalid_request_error"
                assert result["error"]["param"] == f"inputs[{index}].image"
    assert inside.connections == 0


def test_a_refused_address_and_an_unknown_name_read_the_same(
    client: httpx.Client, inside: Inside
) -> None:
    said = set()
    for host in ("127.0.0.1", "localhost", "10.0.0.1", "no-such-name.invalid"):
        body = {"model": "digits", "inputs": {"image": f"http://{host}:{inside.port}/"}}
        said.add(client.post("/v1/predict", json=body).json()["error"]["message"])
    assert said == {NOWHERE}


async def test_many_at_once_are_refused_as_one_is(client: httpx.Client, inside: Inside) -> None:
    body = {"model": "digits", "inputs": {"image": f"http://localhost:{inside.port}/"}}
    async with httpx.AsyncClient(base_url=client.base_url, trust_env=False, timeout=60) as many:
        answers = await asyncio.gather(*(many.post("/v1/predict", json=body) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {400}
    assert inside.connections == 0

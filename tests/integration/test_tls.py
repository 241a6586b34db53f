"""TLS on both sides of the gateway, and engines behind IPv6 addresses."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme
from openai import DefaultHttpxClient, OpenAI

from tests.support.process import Served, sim, sluice, until

pytestmark = pytest.mark.integration

CONFIG = """\
server:
  host: 127.0.0.1
  max_event_loop_lag_s: 60
  tls: {server}
clusters:
  engines:
    endpoints: [{{url: "{url}"}}]
    tls: {cluster}
models:
  sim: {{cluster: engines}}
logging:
  access: off
"""
CHAT = {"model": "sim", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}


@dataclass(frozen=True)
class Secured:
    """A TLS server and the authority that vouches for it."""

    served: Served
    ca_file: Path
    verify: ssl.SSLContext


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def secured(folder: Path) -> Iterator[Secured]:
    """A gateway that serves HTTPS in front of a simulated engine."""
    authority, ca_file = trustme.CA(), folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    certificate, key = folder / "cert.pem", folder / "key.pem"
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(str(key))
    for pem in issued.cert_chain_pems:
        pem.write_to_path(str(certificate), append=True)
    tls = f'{{cert_file: "{certificate}", key_file: "{key}"}}'
    verify = ssl.create_default_context(cafile=ca_file)
    with sim() as engine:
        file = configured(folder / "front.yaml", engine.url, server=tls)
        with sluice("-c", file, model="sim", verify=verify) as served:
            yield Secured(served, ca_file, verify)


def configured(file: Path, url: str, *, server: str = "null", cluster: str = "{}") -> Path:
    file.write_text(CONFIG.format(url=url, server=server, cluster=cluster))
    return file


def ask(url: str, **more: object) -> httpx.Response:
    body = {**CHAT, **more}
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60.0, trust_env=False)


def test_the_gateway_serves_https(secured: Secured) -> None:
    """The OpenAI SDK streams over TLS, checking the certificate."""
    http = DefaultHttpxClient(verify=secured.verify, trust_env=False)
    url = f"{secured.served.url}/v1"
    with OpenAI(base_url=url, api_key="k", http_client=http, max_retries=0) as client:
        stream = client.chat.completions.create(**CHAT, stream=True)
        chunks = list(stream)

    assert secured.served.url.startswith("https://")
    assert chunks[-1].choices[0].finish_reason == "length"


def test_plain_http_on_the_https_port_is_no_answer(secured: Secured) -> None:
    """A client that forgot the s is not served in the clear."""
    with pytest.raises(httpx.RemoteProtocolError):
        ask(secured.served.url.replace("https://", "http://"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("trust", ["ca_file", "verify"])
def test_an_https_engine_is_asked(
    secured: Secured, tmp_path: Path, trust: str, stream: bool
) -> None:
    """An endpoint is reached over TLS, with its authority known or with checking turned off."""
    cluster = {"ca_file": f'{{ca_file: "{secured.ca_file}"}}', "verify": "{verify: false}"}[trust]
    file = configured(tmp_path / "sluice.yaml", secured.served.url, cluster=cluster)
    with sluice("-c", file, model="sim") as gateway:
        answer = ask(gateway.url, stream=stream)

    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("data: [DONE]\n\n" if stream else "}")


@pytest.mark.parametrize("trust", ["system", "foreign"])
def test_an_engine_that_is_not_trusted_is_not_asked(
    secured: Secured, tmp_path: Path, trust: str
) -> None:
    """The client gets 503; the operator's log says that it was the certificate."""
    foreign = tmp_path / "foreign.pem"
    trustme.CA().cert_pem.write_to_path(str(foreign))
    cluster = f'{{ca_file: "{foreign}"}}' if trust == "foreign" else "{}"
    file = configured(tmp_path / "sluice.yaml", secured.served.url, cluster=cluster)
    with sluice("-c", file) as gateway:
        until(lambda: "probe failed" in "".join(gateway.lines), "a probe has failed")
        answer = ask(gateway.url)

    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "no_healthy_upstream"
    assert "certificate verify failed" in "".join(gateway.lines)


def test_an_engine_may_live_at_an_ipv6_address() -> None:
    """http://[::1]:port works, in the Host header as well."""
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6 loopback")
    with sim("--host", "::1") as engine:
        url = f"http://[::1]:{engine.port}"
        with sluice("--endpoint", url, "--access-log", "off", model="sim") as gateway:
            answer = ask(gateway.url)

    assert answer.status_code == 200, answer.text

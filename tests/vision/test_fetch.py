"""The fetcher on real sockets: where it connects, what it reads, and what it says of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.target import CLOSED, LOOPBACK, http, redirect, target
from vision import fetch as fetch_module
from vision.addresses import NOWHERE, AddressRules
from vision.errors import BadInput
from vision.fetch import Fetcher, FetchSettings

IMAGE = b"\x89PNG\r\n\x1a\nnot looked at here"
ANSWER = http(IMAGE, content_type="image/png")
OUTSIDE = "127.0.0.2"
"""Stands for the public internet: it alone is allowed, 127.0.0.1 is what has to be protected."""


TRUST = ssl.create_default_context()


class Names:
    """A resolver: answers by turns, the last one again and again."""

    def __init__(self, **answers: Sequence[Sequence[str]]) -> None:
        self.answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if answers is None:
            raise socket.gaierror("unknown")
        return answers.pop(0) if len(answers) > 1 else answers[0]


def fetcher(port: int, names: Names, *, allow: str = OUTSIDE, **settings: Any) -> Fetcher:
    rules = AddressRules(networks=(ip_network(allow),), ports={port, 1})
    return Fetcher(FetchSettings(rules=rules, **settings), resolve=names, trust=TRUST)


async def refusal(fetch: Fetcher, url: str) -> BadInput:
    with pytest.raises(BadInput) as caught:
        await fetch.get(url)
    return caught.value


async def test_an_image_is_fetched_from_the_address_that_was_judged() -> None:
    names = Names(images_example=[[OUTSIDE]])
    async with target(ANSWER, host=OUTSIDE) as server:
        fetch = fetcher(server.port, names)
        assert await fetch.get(f"http://images.example:{server.port}/a?b=c") == IMAGE
    head = server.requests[0].decode().lower()
    assert head.startswith("get /a?b=c http/1.1\r\n")
    assert f"\r\nhost: images.example:{server.port}\r\n" in head
    assert "\r\naccept-encoding: identity\r\n" in head
    assert "\r\nconnection: close\r\n" in head
    assert "cookie" not in head
    assert "authorization" not in head


@given(st.text("/?#@:%.;=&[]{}|^<>\"'`~!$()*,+-_a0", max_size=30))
def test_no_path_changes_where_the_request_goes(path: str) -> None:
    """What httpx reads in the URL that it is given is the judged address, whatever the path is."""
    fetch = fetcher(1, Names())
    target = fetch._settings.rules.parse(f"http://images.example:1/{path}")
    url = fetch._request(target, ip_address(OUTSIDE)).url
    assert (url.scheme, url.host, url.port) == ("http", OUTSIDE, 1)


@pytest.mark.parametrize("answer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "0.0.0.0"])
async def test_a_name_that_resolves_inside_is_not_connected_to(answer: str) -> None:
    names = Names(evil_example=[[answer]])
    async with target(ANSWER) as server:
        refused = await refusal(fetcher(server.port, names), f"http://evil.example:{server.port}/")
    assert (refused.code, refused.message, server.connections) == ("url_refused", NOWHERE, 0)


async def test_a_name_that_also_resolves_inside_is_not_connected_to() -> None:
    names = Names(evil_example=[[OUTSIDE, LOOPBACK]])
    async with (
        target(ANSWER) as inside,
        target(ANSWER, host=OUTSIDE, port=inside.port) as outside,
    ):
        await refusal(fetcher(inside.port, names), f"http://evil.example:{inside.port}/")
    assert (inside.connections, outside.connections) == (0, 0)


async def test_a_rebinding_name_is_resolved_once_and_stays_where_it_was_judged() -> None:
    names = Names(rebind_example=[[OUTSIDE], [LOOPBACK]])
    async with (
        target(ANSWER) as inside,
        target(ANSWER, host=OUTSIDE, port=inside.port) as outside,
    ):
        fetch = fetcher(inside.port, names)
        assert await fetch.get(f"http://rebind.example:{inside.port}/") == IMAGE
        assert names.asked == ["rebind.example"]
        # Its second answer leads inside: no connection of the first time is used for it.
        refused = await refusal(fetch, f"http://rebind.example:{inside.port}/")
    assert refused.code == "url_refused"
    assert (inside.connections, outside.connections) == (0, 1)


async def test_a_rebinding_name_is_judged_again_when_it_redirects_to_itself() -> None:
    names = Names(rebind_example=[[OUTSIDE], [LOOPBACK]])
    async with (
        target(ANSWER) as inside,
        target(redirect("/again"), host=OUTSIDE, port=inside.port) as outside,
    ):
        refused = await refusal(
            fetcher(inside.port, names), f"http://rebind.example:{inside.port}/"
        )
    assert (refused.code, refused.message) == ("url_refused", NOWHERE)
    assert (inside.connections, outside.connections) == (0, 1)


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "//127.0.0.1:{port}/",
        "http://2130706433:{port}/",
        "http://0x7f.1:{port}/",
        "http://internal.example:{port}/",
        "http://ok.example@127.0.0.1:{port}/",
        "http://ok.example\\@127.0.0.1:{port}/",
        "http://localhost:{port}/",
        "http://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "ftp://ok.example:{port}/",
        "gopher://127.0.0.1:{port}/_x",
        "data:image/png;base64,AAAA",
    ],
)
@pytest.mark.parametrize("status", ["301 Moved Permanently", "307 Temporary Redirect"])
async def test_a_redirect_inside_or_to_another_scheme_is_not_followed(
    location: str, status: str
) -> None:
    names = Names(ok_example=[[OUTSIDE]], internal_example=[[LOOPBACK]], localhost=[[LOOPBACK]])
    async with target(ANSWER) as inside:
        away = redirect(location.format(port=inside.port), status)
        async with target(away, host=OUTSIDE, port=inside.port) as outside:
            refused = await refusal(
                fetcher(inside.port, names), f"http://ok.example:{inside.port}/"
            )
    assert refused.code == "url_refused"
    assert (inside.connections, outside.connections) == (0, 1)


async def test_redirects_are_followed_so_far() -> None:
    names = Names(ok_example=[[OUTSIDE]], other_example=[[OUTSIDE]])
    async with target([], host=OUTSIDE) as server:
        other = f"http://other.example:{server.port}/b"
        server.answers = [redirect("/a"), redirect(other), redirect("c"), ANSWER]
        fetch = fetcher(server.port, names)
        url = f"http://ok.example:{server.port}/"
        assert await fetch.get(url) == IMAGE
        assert server.requests[3].startswith(b"GET /c HTTP/1.1")
        server.requests.clear()
        server.answers = [redirect("/again")]
        refused = await refusal(fetch, url)
    assert (refused.code, len(server.requests)) == ("url_failed", 4)
    assert "redirects" in refused.message


async def test_the_next_address_is_tried_if_one_takes_no_connection() -> None:
    names = Names(ok_example=[["127.0.0.3", OUTSIDE]])
    async with target(ANSWER, host=OUTSIDE) as server:
        fetch = fetcher(server.port, names, allow="127.0.0.2/31")
        assert await fetch.get(f"http://ok.example:{server.port}/") == IMAGE


def test_the_other_family_is_tried_before_more_of_the_first() -> None:
    v4, v6 = (
        [ip_address(f"8.8.8.{n}") for n in (1, 2)],
        [ip_address(f"2606:4700::{n}") for n in (1, 2, 3)],
    )
    assert list(fetch_module._tried([*v6, *v4])) == [v6[0], *v4]
    assert list(fetch_module._tried([v4[0], *v6])) == [v4[0], *v6[:2]]
    assert list(fetch_module._tried([v4[0]])) == [v4[0]]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (http(b"secret", "404 Not Found", content_type="image/png"), "status 404"),
        (http(b"secret", "500 secret", content_type="image/png"), "status 500"),
        (http(b"<html>secret", content_type="text/html"), "not an image"),
        (http(b"secret = 1", content_type="application/octet-stream"), "not an image"),
        (http(b"secret = 1"), "not an image"),
        (http(IMAGE, content_type="image/png", content_encoding="gzip"), "compressed"),
        (http(IMAGE, content_type="image/png", length=10**9), "more than 1000 bytes"),
        (http(b"a" * 1001, content_type="image/png"), "more than 1000 bytes"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n"
            + (b"100\r\n" + b"a" * 256 + b"\r\n") * 5
            + b"0\r\n\r\n",
            "more than 1000 bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\ncontent-length: 10\r\n\r\nabc",
            "the connection broke",
        ),
        (b"-ERR secret not HTTP\r\n\r\n", "the connection broke"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000, "the connection broke"),
        (CLOSED, "the connection broke"),
        (http(status="302 Found"), "not a URL"),
    ],
)
async def test_what_is_no_image_is_not_passed_on(answer: bytes, reason: str) -> None:
    """A short reason, and not a word of what the other side said."""
    names = Names(ok_example=[[OUTSIDE]])
    async with target(answer, host=OUTSIDE) as server:
        fetch = fetcher(server.port, names, max_bytes=1000)
        refused = await refusal(fetch, f"http://ok.example:{server.port}/")
    assert reason in refused.message
    assert "secret" not in refused.message
    assert refused.code in ("url_failed", "url_refused")
    assert refused.status == 400


@pytest.mark.parametrize("kind", [None, "application/octet-stream", "binary/octet-stream; x=y"])
async def test_without_a_telling_content_type_the_first_bytes_tell(kind: str | None) -> None:
    names = Names(ok_example=[[OUTSIDE]])
    fields = {} if kind is None else {"content_type": kind}
    async with target(http(IMAGE, **fields), host=OUTSIDE) as server:
        fetch = fetcher(server.port, names)
        assert await fetch.get(f"http://ok.example:{server.port}/") == IMAGE


async def test_a_port_without_a_listener_fails_without_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The details are the operator's."""
    names = Names(ok_example=[[OUTSIDE]])
    with caplog.at_level("INFO", "sluice.vision"):
        refused = await refusal(fetcher(1, names), "http://ok.example:1/secret")
    assert refused.message == "The image could not be fetched: no connection could be made."
    assert caplog.messages[0].startswith("no connection to ok.example at 127.0.0.2: ConnectError")
    assert "secret" not in caplog.text


async def test_unknown_and_forbidden_names_read_the_same() -> None:
    names = Names(internal_example=[["10.0.0.1"]])
    unknown = await refusal(fetcher(1, names), "http://unknown.example:1/")
    internal = await refusal(fetcher(1, names), "http://internal.example:1/")
    assert (unknown.code, unknown.message) == (internal.code, internal.message)


async def test_a_server_that_never_ends_costs_the_whole_time_and_no_more() -> None:
    names = Names(ok_example=[[OUTSIDE]])
    started = http(IMAGE, content_type="image/png", length=500)
    async with target(started, host=OUTSIDE) as server:
        server.hold = asyncio.Event()
        fetch = fetcher(server.port, names, total_s=0.05)
        refused = await refusal(fetch, f"http://ok.example:{server.port}/")
    assert refused.message == "The image could not be fetched: it took longer than 0.05 s."


async def test_so_many_at_once_and_the_others_wait() -> None:
    names = Names(ok_example=[[OUTSIDE]])
    async with target(ANSWER, host=OUTSIDE) as server:
        server.hold = asyncio.Event()
        server.answers = [http(IMAGE, content_type="image/png", length=len(IMAGE) + 1)]
        fetch = fetcher(server.port, names, max_concurrent=2)
        async with asyncio.TaskGroup() as group:
            url = f"http://ok.example:{server.port}/"
            tasks = [group.create_task(refusal(fetch, url)) for _ in range(6)]
            await server.reached(2)
            for _ in range(100):  # Turns of the loop in which a third could come.
                await asyncio.sleep(0)
            assert server.connections == 2
            server.hold.set()
        assert [task.result().code for task in tasks] == ["url_failed"] * 6
    assert server.connections == 6


async def test_nothing_is_fetched_where_it_is_switched_off() -> None:
    names = Names(ok_example=[[OUTSIDE]])
    refused = await refusal(fetcher(1, names, enabled=False), "http://ok.example:1/")
    assert (refused.code, names.asked) == ("url_refused", [])


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(ok_example=[[OUTSIDE]])
    async with target(ANSWER) as proxy, target(ANSWER, host=OUTSIDE) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        fetch = fetcher(server.port, names)
        assert await fetch.get(f"http://ok.example:{server.port}/") == IMAGE
    assert (proxy.connections, server.connections) == (0, 1)


async def test_cookies_are_not_kept() -> None:
    names = Names(ok_example=[[OUTSIDE]])
    answers = [http(IMAGE, content_type="image/png", set_cookie="a=b"), ANSWER]
    async with target(answers, host=OUTSIDE) as server:
        fetch = fetcher(server.port, names)
        for _ in range(2):
            await fetch.get(f"http://ok.example:{server.port}/")
    assert b"cookie" not in server.requests[1].lower()
    assert server.connections == 2


async def test_the_system_s_resolver_is_the_default() -> None:
    """`localhost` is what the system says it is: refused without a connection."""
    async with target(ANSWER) as server:
        rules = AddressRules(ports={server.port})
        refused = await refusal(
            Fetcher(FetchSettings(rules=rules)), f"http://localhost:{server.port}/"
        )
    assert (refused.code, server.connections) == ("url_refused", 0)


async def test_by_default_nothing_of_this_machine_can_be_fetched() -> None:
    fetch = Fetcher(FetchSettings())
    for url in ("http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/", "http://0/"):
        refused = await refusal(fetch, url)
        assert refused.code == "url_refused"


@pytest.mark.parametrize("turns", range(40))
async def test_a_fetch_that_is_given_up_at_any_moment_leaves_no_connection(turns: int) -> None:
    """The other side sees the end of each connection, whatever the fetch was at."""
    ended: set[asyncio.Task[Any]] = set()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        ended.add(task)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, OUTSIDE, 0) as server:
        port = server.sockets[0].getsockname()[1]
        fetch = fetcher(port, Names(images_example=[[OUTSIDE]]))
        for _ in range(3):
            asking = asyncio.create_task(fetch.get(f"http://images.example:{port}/"))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
        async with asyncio.timeout(10):
            await asyncio.gather(*ended)

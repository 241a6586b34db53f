"""The listening socket, its address as people see it, and how the server comes to its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from starlette.types import Receive, Scope, Send

from gateway.config.server import Server
from gateway.host import Hooks, bind, handle_signals, make_server, url_of
from gateway.wire.downstream import Plane
from gateway.wire.guard import Limits
from tests.support.raw import PATIENCE_S, RawClient
from tests.support.rig import eventually


def test_a_port_in_use_is_named() -> None:
    """The operator reads which address cannot be had, and why."""
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1:{port}: Address already"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")])
def test_the_url_is_one_that_a_client_here_can_use(host: str, shown: str) -> None:
    """An address for any interface is shown as the loopback's."""
    with bind(host, 0) as listener:
        assert url_of(listener, Server()) == f"http://{shown}:{listener.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6_addresses_stand_in_brackets() -> None:
    """As a URL needs them."""
    with bind("::1", 0) as listener:
        assert url_of(listener, Server()).startswith("http://[::1]:")


class Stage:
    """A server on a free port whose one route waits, and what its hooks have heard."""

    def __init__(self, delay_s: float, drain_s: float) -> None:
        self.heard: list[str] = []
        self.reached, self.go, self.started = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.listener = bind("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        spec = Server(host="127.0.0.1", port=0, drain_delay_s=delay_s, drain_s=drain_s)
        names = ("leaving", "closing", "force")
        hooks = Hooks(self.started.set, *(partial(self.heard.append, name) for name in names))
        plane = Plane({}, self._serve, lambda *_: b"", Limits())
        self.server = make_server(spec, self, plane, hooks)

    async def _serve(self, *_: object) -> None:
        raise AssertionError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            self.reached.set()
            await self.go.wait()
        fields = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"ok"})

    def ask(self, client: RawClient, path: str) -> None:
        client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


@asynccontextmanager
async def stage(delay_s: float = 0, drain_s: float = 30) -> AsyncIterator[Stage]:
    """Serve until the test has told it to leave; the server must then end by itself."""
    one = Stage(delay_s, drain_s)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(one.server.serve(sockets=[one.listener]))
        await one.started.wait()
        yield one
    one.listener.close()


async def test_leaving_it_still_serves_and_says_that_connections_end() -> None:
    """Until the delay is over, or is taken away; an idle connection is then closed."""
    async with stage(delay_s=3600) as one:  # noqa: SIM117  the clients leave first
        async with RawClient(one.port) as kept, RawClient(one.port) as idle:
            one.ask(idle, "/")
            assert (await idle.answer()).header(b"connection") == []
            one.server.leave()
            one.server.leave()
            one.ask(kept, "/")
            answer = await kept.answer()
            assert (answer.status, answer.header(b"connection")) == (200, [b"close"])
            async with RawClient(one.port) as late:
                one.ask(late, "/")
                assert (await late.answer()).status == 200
            assert one.heard == ["leaving"]
            one.server.leave(at_once=True)
            assert await idle.ended()
    assert one.heard == ["leaving", "closing"]


async def test_what_is_under_way_finishes_after_the_listener_has_closed() -> None:
    """Its answer is whole and ends the connection."""
    async with stage() as one, RawClient(one.port) as client:
        one.ask(client, "/slow")
        await one.reached.wait()
        one.server.leave()
        await eventually(lambda: one.heard == ["leaving", "closing"])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", one.port)
        one.go.set()
        answer = await client.answer()
        assert (answer.body, answer.header(b"connection")) == (b"ok", [b"close"])
        assert await client.ended()
    assert one.heard == ["leaving", "closing"]


async def test_a_head_that_is_coming_in_is_still_served() -> None:
    """Its client has sent before it could know."""
    async with stage() as one, RawClient(one.port) as client:
        client.send(b"GET / HTTP/1.1\r\n")
        await eventually(lambda: any(c._phase for c in one.server.server_state.connections))
        one.server.leave()
        await eventually(lambda: one.heard == ["leaving", "closing"])
        client.send(b"Host: x\r\n\r\n")
        assert (await client.answer()).body == b"ok"


@pytest.mark.parametrize("how", ["deadline", "force"])
async def test_forced_it_cuts_what_does_not_end(how: str) -> None:
    """The hook comes first, so that an honest end is possible."""
    drain_s = 0.05 if how == "deadline" else 3600
    async with stage(drain_s=drain_s) as one, RawClient(one.port) as client:
        one.ask(client, "/slow")
        await one.reached.wait()
        one.server.leave() if how == "deadline" else one.server.force()
        assert await client.ended()
    assert one.heard == ["leaving", "closing", "force"]


async def test_forced_it_waits_for_the_honest_end() -> None:
    """What the hook ends is sent before anything is cut."""
    async with stage() as one, RawClient(one.port) as client:
        one.ask(client, "/slow")
        await one.reached.wait()
        one.server.force()
        await eventually(lambda: one.heard[-1:] == ["force"])
        one.go.set()
        assert (await client.answer()).body == b"ok"


@pytest.mark.parametrize(
    ("numbers", "heard"),
    [
        ((signal.SIGINT,), ["leaving", "closing"]),
        ((signal.SIGTERM, signal.SIGTERM), ["leaving", "closing", "force"]),
        ((signal.SIGINT, signal.SIGTERM), ["leaving", "closing", "force"]),
    ],
)
async def test_signals(numbers: tuple[int, ...], heard: list[str]) -> None:
    """SIGINT does not wait for the delay; a second signal of either kind forces."""
    async with stage(delay_s=3600) as one, RawClient(one.port) as client:
        with handle_signals(one.server):
            one.ask(client, "/slow")
            await one.reached.wait()
            for number in numbers:
                os.kill(os.getpid(), number)
                await eventually(lambda: one.heard)
            await eventually(lambda: one.heard == heard)
            one.go.set()
            assert (await client.answer()).status == 200


async def test_sigterm_after_the_admin_api_began_is_no_second_one() -> None:
    """It only says again what is under way."""
    async with stage() as one, RawClient(one.port) as client:
        with handle_signals(one.server):
            one.ask(client, "/slow")
            await one.reached.wait()
            one.server.leave()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)
            assert not one.server.force_exit
            one.go.set()
            assert (await client.answer()).status == 200
    assert "force" not in one.heard

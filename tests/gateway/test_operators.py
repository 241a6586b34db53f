"""The operators' thread: real sockets, a main loop that is busy, stuck or gone."""

from __future__ import annotations

import asyncio
import logging
import threading

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from gateway.config.server import Admin
from gateway.errors import GatewayError
from gateway.host import bind
from gateway.operators import BEAT_S, Crossing, Heartbeat, serve_operators

PATIENCE_S = 10.0


class App:
    """Answers with the name of the thread that it runs in."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = threading.current_thread().name.encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": name})


def ask(url: str) -> httpx.Response:
    return httpx.get(url, timeout=PATIENCE_S, trust_env=False)


async def test_it_answers_while_the_main_loop_does_not() -> None:
    """The request is made and answered within one turn of this loop."""
    async with serve_operators(Admin(port=0), App()) as url:
        assert url is not None
        assert ask(url).text == "sluice-admin"
    with pytest.raises(httpx.ConnectError):
        ask(url)
    assert "sluice-admin" not in {thread.name for thread in threading.enumerate()}


async def test_what_is_not_http_is_refused() -> None:
    """By the same guard as the clients' port: no Host, no answer but 400."""
    async with serve_operators(Admin(port=0), App()) as url:
        assert url is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"invalid_request_error"' in answer


async def test_a_port_that_the_operator_wrote_must_be_free() -> None:
    """Else the gateway does not start, as with the clients' port."""
    with bind("127.0.0.1", 0) as other, pytest.raises(OSError, match="Cannot listen"):
        async with serve_operators(Admin(port=other.getsockname()[1]), App()):
            pass


async def test_without_the_default_port_the_gateway_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A second gateway on one machine has no admin API, and says so."""
    with bind("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        taken = Admin.model_construct(_fields_set=set(), host="127.0.0.1", port=port, token=None)
        async with serve_operators(taken, App()) as url:
            assert url is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no admin API" in caplog.text


class Loop:
    """A loop in a thread of its own, to be crossed into from the test's."""

    def __enter__(self) -> asyncio.AbstractEventLoop:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        return self.loop

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


async def test_work_runs_in_the_other_loop() -> None:
    """Both kinds of it; what they raise comes back."""

    async def thread() -> str:
        return threading.current_thread().name

    def fail() -> None:
        raise GatewayError(409, "x", "no")

    with Loop() as loop:
        crossing = Crossing(loop)
        there = await crossing.read(lambda: threading.current_thread().name)
        assert there == await crossing.run(thread) != threading.current_thread().name
        with pytest.raises(GatewayError, match="no"):
            await crossing.read(fail)


async def test_a_loop_that_does_not_answer_is_busy_and_does_it_never() -> None:
    """503; and what was asked for is not done later, when nobody expects it any more."""
    done: list[str] = []
    go = threading.Event()
    with Loop() as loop:
        loop.call_soon_threadsafe(go.wait)
        crossing = Crossing(loop, 0.01)

        async def work() -> None:
            done.append("run")

        for asked in (crossing.read(lambda: done.append("read")), crossing.run(work)):
            with pytest.raises(GatewayError) as caught:
                await asked
            assert (caught.value.status, caught.value.code) == (503, "gateway_busy")
        go.set()
        await Crossing(loop).read(lambda: None)
    assert done == []


async def test_a_loop_that_is_closed_is_busy() -> None:
    """The thread outlives the main loop by a moment."""
    with Loop() as loop:
        pass
    with pytest.raises(GatewayError, match="does not answer"):
        await Crossing(loop).read(lambda: None)


async def test_lag_is_what_is_late_now() -> None:
    """It grows while the loop does not come back, and a beat ends it."""
    now = 100.0
    heart = Heartbeat(lambda: now)
    assert heart.lag_s() == 0
    now += BEAT_S + 2
    assert heart.lag_s() == pytest.approx(2)
    beaten = asyncio.Event()
    ticks: list[tuple[float, float]] = []

    def note(due: float, at: float) -> None:
        ticks.append((due, at))
        beaten.set()

    beating = asyncio.ensure_future(heart.beat_forever(note))
    async with asyncio.timeout(PATIENCE_S):
        await beaten.wait()
    beating.cancel()
    assert heart.lag_s() == 0
    assert ticks == [(pytest.approx(now + BEAT_S), now)]

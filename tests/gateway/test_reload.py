"""A reload of the real gateway: whole or not at all, and without a request noticing."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.config.reloads import Result
from gateway.config.watch import FileSource
from gateway.upstream.fleet import Term
from tests.support.control import ManualClock
from tests.support.engine import Engine, Turn, response
from tests.support.raw import RawClient, post
from tests.support.rig import eventually

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

TEXT = """\
server: {{host: 127.0.0.1, port: 0, admin: null, drain_delay_s: 0, drain_s: 1, watch: false}}
logging: {{access: off}}
clusters: {{c: {{endpoints: [{endpoints}], registration: true{more}}}}}
models: {{m: {{cluster: c}}, {models}}}
"""


class Setting:
    """A gateway whose file a test rewrites."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "sluice.yaml"
        self.gateway: Gateway

    def write(self, *urls: str, more: str = "", models: str = "") -> None:
        endpoints = ", ".join(f"{{url: '{url}'}}" for url in urls)
        self.file.write_text(TEXT.format(endpoints=endpoints, more=more, models=models))

    def start(self) -> Gateway:
        source = FileSource(self.file)
        self.gateway = Gateway(source.load(), ManualClock(), source)
        return self.gateway

    @property
    def ids(self) -> list[str]:
        return [endpoint.id for endpoint in self.gateway.clusters["c"].endpoints]

    def metric(self, name: str) -> float:
        for line in self.gateway.view.metrics_text()[0].decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        raise AssertionError(name)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


async def test_a_valid_file_is_taken_over_whole(setting: Setting) -> None:
    """Endpoints, settings and models, as the next generation; what stays keeps its state."""
    setting.write("http://a:1", "http://b:1")
    gateway = setting.start()
    kept = gateway.clusters["c"].endpoints[1]
    setting.write(
        "http://b:1", "http://d:1", more=", timeouts: {idle_s: 7}", models="n: {cluster: c}"
    )
    result = await gateway.reload()
    assert (result.result, result.generation, result.problems) == (Result.APPLIED, 2, ())
    assert [str(change) for change in result.changes] == [
        "- endpoint http://a:1 in clusters.c",
        "+ endpoint http://d:1 in clusters.c",
        "~ clusters.c.timeouts.idle_s 30 → 7",
        "+ models.n on c",
    ]
    assert setting.ids == ["b:1", "d:1"]
    assert gateway.clusters["c"].endpoints[0] is kept
    assert gateway.clusters["c"].clients["b:1"].address.idle_s == 7
    assert set(gateway.table.plans) == {"m", "n"}
    assert setting.metric("sluice_config_generation") == 2
    gateway.close()


@pytest.mark.parametrize("bad", ["clusters: {", "clusters: {c: {endpoints: []}}", "", None])
async def test_an_invalid_file_changes_nothing(setting: Setting, bad: str | None) -> None:
    """The old configuration stays, the answer and a metric say why and that; then it is mended."""
    setting.write("http://a:1")
    gateway = setting.start()
    table = gateway.table
    if bad is None:
        setting.file.unlink()
    else:
        setting.file.write_text(bad)
    result = await gateway.reload()
    assert (result.result, result.generation) == (Result.FAILED, 1)
    assert all(str(setting.file) in problem for problem in result.problems)
    assert gateway.table is table
    assert setting.metric("sluice_config_last_reload_successful") == 0
    setting.write("http://a:1")
    assert (await gateway.reload()).result is Result.UNCHANGED
    assert setting.metric("sluice_config_last_reload_successful") == 1
    gateway.close()


async def test_what_needs_a_restart_is_said_each_time(setting: Setting) -> None:
    """And is not in effect."""
    setting.write("http://a:1")
    gateway = setting.start()
    setting.file.write_text(setting.file.read_text().replace("drain_s: 1", "drain_s: 2"))
    for _ in range(2):
        result = await gateway.reload()
        assert result.result is Result.UNCHANGED
        assert [str(change) for change in result.changes] == [
            "~ server.drain_s 1 → 2 (needs a restart)"
        ]
    assert gateway.config.server.drain_s == 1
    gateway.close()


async def test_hang_ups_reload_and_never_end_the_gateway(setting: Setting) -> None:
    """The second comes when nobody reads the file any more, but the access log is to be written."""
    setting.write("http://a:1")
    gateway = setting.start()
    close = gateway.close
    at_the_end: list[object] = []

    def closed() -> None:
        at_the_end.append(signal.getsignal(signal.SIGHUP))
        close()

    gateway.close = closed  # type: ignore[method-assign]
    started = asyncio.Event()
    async with asyncio.timeout(30):
        running = asyncio.create_task(gateway.run(lambda _: started.set()))
        await started.wait()
        setting.write("http://b:1")
        signal.raise_signal(signal.SIGHUP)
        await eventually(lambda: gateway.generation == 2)
        signal.raise_signal(signal.SIGTERM)
        await running
    assert len(at_the_end) == 1
    assert signal.SIG_DFL not in at_the_end


async def test_without_a_file_there_is_nothing_to_reload(setting: Setting) -> None:
    """As with `--endpoint`; the answer says so."""
    setting.write("http://a:1")
    gateway = Gateway(FileSource(setting.file).load(), ManualClock())
    result = await gateway.reload()
    assert result.problems == ("there is no configuration file to read again",)
    gateway.close()


async def test_a_defect_is_an_answer_too(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who asked for a reload hangs or falls."""
    setting.write("http://a:1")
    gateway = setting.start()

    def fail(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(gateway.fleet, "prepare", fail)
    assert (await gateway.reload()).problems == ("internal error; the log has more",)
    gateway.close()


async def test_registrations_are_there_at_once(setting: Setting) -> None:
    """And end when their time is up."""
    setting.write("http://a:1")
    gateway = setting.start()
    clock = gateway._clock
    assert isinstance(clock, ManualClock)
    assert gateway.live.register("c", "http://x:1", Term(ttl_s=10)) == "x:1"
    gateway.live.register("c", "http://y:1", Term(ttl_s=30))
    assert setting.ids == ["a:1", "x:1", "y:1"]
    clock.now += 10
    gateway.live.refresh()
    assert setting.ids == ["a:1", "y:1"]
    gateway.live.remove("c", "y:1")
    assert setting.ids == ["a:1"]
    gateway.close()


async def test_a_stream_outlives_the_endpoint_s_removal(setting: Setting) -> None:
    """Its engine is taken out in the middle of the answer; 20 reloads later it ends whole."""
    turn = Turn()
    first, end = (
        b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n',
        (b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'),
    )
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )

    def chunk(data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data)

    script = [head + chunk(first), turn, chunk(end) + b"0\r\n\r\n"]
    rare = ", health: {interval_s: 3600, metrics_path: null}"
    async with Engine(script) as old, Engine([response()]) as new, asyncio.TaskGroup() as group:
        setting.write(old.url, more=rare)
        gateway = setting.start()
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        running = group.create_task(gateway.run(ready.set_result, signals=False))
        port = int((await ready).rpartition(":")[2])
        gateway.clusters["c"].endpoints[0].probed(True, 0.0)
        async with RawClient(port) as client:
            client.send(post({**CHAT, "stream": True}))
            assert (await client.head()).status == 200
            body = await client.piece()
            for number in range(20):
                setting.write(new.url, more=f"{rare}, slow_start_s: {number}")
                assert (await gateway.reload()).result is Result.APPLIED
            assert len(setting.ids) == 1
            turn.go.set()
            while piece := await client.piece():
                body += piece
        assert body.endswith(b"data: [DONE]\n\n")
        assert gateway.generation == 21
        gateway.fleet.sweep(0.0)
        assert not gateway.clusters["c"].busy
        running_cluster = gateway.clusters["c"]

        def looked_after() -> bool:
            """Probed and listed: nobody dials now, so that the end leaves no socket behind."""
            return running_cluster.endpoints[0].health == "healthy" and bool(running_cluster.models)

        await eventually(looked_after)
        running.cancel()

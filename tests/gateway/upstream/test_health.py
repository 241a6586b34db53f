"""Probes and looks at the models come to a verdict whatever an endpoint answers."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator
from random import Random

import httpx
import pytest
import respx

from gateway.upstream import health
from gateway.upstream.endpoint import Endpoint, State
from gateway.upstream.health import ModelEntry, Watch, list_models, probe, scrape

E = Endpoint("http://e:1")
METRICS = b"""\
vllm:num_requests_running 3
vllm:num_requests_waiting 0
vllm:engine_sleep_state{sleep_state="awake"} 1
"""
LISTED = {"object": "list", "data": [{"id": "a", "max_model_len": 5}, {"id": "b"}]}


async def listed(answer: httpx.Response) -> object:
    async with httpx.AsyncClient() as http:
        with respx.mock:
            respx.get("http://e:1/v1/models").mock(return_value=answer)
            return await list_models(http, E, 1.0)


@pytest.mark.parametrize(("status", "well"), [(200, True), (204, True), (503, False), (302, False)])
async def test_any_2xx_is_well(status: int, well: bool) -> None:
    """Everything else says why not."""
    async with httpx.AsyncClient() as http:
        with respx.mock:
            respx.get("http://e:1/health").mock(return_value=httpx.Response(status))
            assert (await probe(http, E, "/health", 1.0) == "") is well


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), httpx.ReadTimeout(""), httpx.DecodingError("gzip")]
)
async def test_no_answer_is_not_well(error: Exception) -> None:
    """With a reason, also where the exception has none."""
    async with httpx.AsyncClient() as http:
        with respx.mock:
            respx.get("http://e:1/health").mock(side_effect=error)
            assert await probe(http, E, "/health", 1.0)


async def test_a_lack_of_descriptors_says_nothing_of_the_endpoint() -> None:
    """It is neither well nor unwell, however often it cannot be asked."""

    def refuse(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("failed") from OSError(errno.EMFILE, "Too many open files")

    async with Watched() as watched:
        await watched.probe()
        # Not by respx: it makes itself the cause of what it raises.
        async with httpx.AsyncClient(transport=httpx.MockTransport(refuse)) as http:
            watched.watch._http = http
            for _ in range(5):
                await watched.watch.probe_once("/health", 1.0)
        assert watched.endpoint.available(watched.now)


class Endless(httpx.AsyncByteStream):
    """A body that never ends, at once or not at all."""

    def __init__(self, piece: bytes) -> None:
        self.piece = piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0 if self.piece else 3600)
            yield self.piece


async def test_a_body_without_an_end_holds_no_probe_up() -> None:
    """The head is all that is read."""
    async with httpx.AsyncClient() as http:
        with respx.mock:
            answer = httpx.Response(200, stream=Endless(b"x"))
            respx.get("http://e:1/health").mock(return_value=answer)
            assert await probe(http, E, "/health", 1.0) == ""


async def test_a_probe_ends_with_its_time() -> None:
    """The whole of it, not each read."""

    async def never(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(3600)
        raise AssertionError

    async with httpx.AsyncClient() as http:
        with respx.mock:
            respx.get("http://e:1/health").mock(side_effect=never)
            assert await probe(http, E, "/health", 0.01) == "/health took more than 0.01 s"


async def scraped(answer: httpx.Response | Exception, timeout_s: float = 1.0) -> bytes | None:
    async with httpx.AsyncClient() as http:
        with respx.mock:
            respx.get("http://e:1/metrics").mock(side_effect=[answer])
            return await scrape(http, E, "/metrics", timeout_s)


async def test_metrics_are_read_whole() -> None:
    """Or said to be none, or not come at all."""
    assert await scraped(httpx.Response(200, content=METRICS)) == METRICS
    assert await scraped(httpx.Response(404)) == b""
    assert await scraped(httpx.ReadError("reset")) is None


async def test_metrics_without_an_end_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """By size where they keep coming, by time where they do not."""
    monkeypatch.setattr(health, "MAX_METRICS_BYTES", 1000)
    text = await scraped(httpx.Response(200, stream=Endless(b"x" * 300)))
    assert text == b"x" * 1200
    assert await scraped(httpx.Response(200, stream=Endless(b"")), 0.01) is None


async def test_models_are_listed_with_all_that_the_engine_says() -> None:
    """The entries as they are."""
    assert await listed(httpx.Response(200, json=LISTED)) == LISTED["data"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"data": None}),
        httpx.Response(200, json={"data": [{}]}),
        httpx.Response(200, json={"data": {"id": 1}}),
        httpx.Response(200, content=b"\xff"),
        httpx.Response(200, content=b"[" * 200_000),
    ],
)
async def test_an_answer_that_is_no_list_is_none(answer: httpx.Response) -> None:
    """No answer can end the watch."""
    assert await listed(answer) is None


@pytest.mark.parametrize("piece", [b"x" * 300, b""])
async def test_a_list_without_an_end_is_none(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """By size where it keeps coming, by time where it does not."""
    if piece:
        monkeypatch.setattr(health, "MAX_MODELS_BYTES", 1000)
    async with httpx.AsyncClient() as http, asyncio.timeout(30):
        with respx.mock:
            answer = httpx.Response(200, stream=Endless(piece))
            respx.get("http://e:1/v1/models").mock(return_value=answer)
            assert await list_models(http, E, 30.0 if piece else 0.01) is None


async def test_what_no_client_could_be_told_is_left_out() -> None:
    """Python's reader takes what is no JSON; in our own list it would end the answer for all."""
    text = (
        b'{"data": [{"id": "a", "x": NaN, "y": [1e999], "z": "\\ud800", "\\ud800": 1, "n": 5},'
        b' {"id": "\\ud800"}]}'
    )
    assert await listed(httpx.Response(200, content=text)) == [{"id": "a", "n": 5}]


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.DecodingError("gzip")])
async def test_an_endpoint_that_does_not_answer_lists_nothing(error: Exception) -> None:
    """Neither a refused connection nor a broken coding ends the watch."""
    async with httpx.AsyncClient() as http:
        with respx.mock:
            respx.get("http://e:1/v1/models").mock(side_effect=error)
            assert await list_models(http, E, 1.0) is None


class Watched:
    """A watch with a clock of its own and an engine that answers as it is told."""

    def __init__(self, metrics_path: str | None = "/metrics") -> None:
        self.now = 1000.0
        self.endpoint = Endpoint("http://e:1")
        self.models: list[ModelEntry] = []
        self.http = httpx.AsyncClient()
        self.mock = respx.mock(assert_all_called=False)
        self.health = self.mock.get("http://e:1/health")
        self.metrics = self.mock.get("http://e:1/metrics")
        self.listed = self.mock.get("http://e:1/v1/models")
        self.health.mock(return_value=httpx.Response(200))
        self.metrics.mock(return_value=httpx.Response(200, content=METRICS))
        self.listed.mock(return_value=httpx.Response(200, json=LISTED))
        self.watch = Watch(
            self.endpoint,
            self.http,
            Random(1),
            lambda: self.now,
            lambda _, entries: self.models.extend(entries),
            metrics_path,
        )

    async def __aenter__(self) -> Watched:
        self.mock.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.mock.stop()
        await self.http.aclose()

    async def probe(self, status: int = 200, times: int = 1) -> None:
        self.health.mock(return_value=httpx.Response(status))
        for _ in range(times):
            self.now += 2.0
            await self.watch.probe_once("/health", 1.0)


async def test_probes_and_scrapes_reach_the_endpoint() -> None:
    """Its health and its load."""
    async with Watched() as watched:
        await watched.probe()
        assert watched.endpoint.available(watched.now)
        assert watched.endpoint.load(watched.now) == 3


async def test_who_fails_its_probe_is_not_scraped() -> None:
    """It has trouble enough. What it said before fades."""
    async with Watched() as watched:
        await watched.probe(503)
        assert not watched.metrics.called
        assert not watched.endpoint.available(watched.now)


async def test_why_and_what_changes_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not each failed probe."""
    caplog.set_level(logging.INFO, "sluice.health")
    async with Watched() as watched:
        await watched.probe()
        await watched.probe(503, times=4)
        await watched.probe(times=2)
    assert [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "sluice.health"
    ] == [
        ("INFO", "endpoint e:1 is healthy"),
        ("WARNING", "endpoint e:1: probe failed: /health answered 503"),
        ("WARNING", "endpoint e:1 is unhealthy"),
        ("INFO", "endpoint e:1 is healthy"),
    ]


async def test_who_sleeps_is_out_until_it_wakes(caplog: pytest.LogCaptureFixture) -> None:
    """Though its /health says 200 all the time."""
    async with Watched() as watched:
        asleep = METRICS.replace(b"} 1", b"} 0")
        watched.metrics.mock(return_value=httpx.Response(200, content=asleep))
        await watched.probe()
        assert watched.endpoint.state(watched.now) is State.ASLEEP
        watched.metrics.mock(return_value=httpx.Response(200, content=METRICS))
        await watched.probe()
        assert watched.endpoint.available(watched.now)
    assert [record.getMessage() for record in caplog.records if record.name == "sluice.health"] == [
        "endpoint e:1 is asleep, its metrics say",
        "endpoint e:1 is awake, its metrics say",
    ]


@pytest.mark.parametrize("answer", [httpx.Response(404), httpx.Response(200, text="<html>")])
async def test_who_has_no_metrics_is_asked_again_after_a_minute(answer: httpx.Response) -> None:
    """It is well all the same."""
    async with Watched() as watched:
        watched.metrics.mock(return_value=answer)
        await watched.probe(times=10)
        assert watched.metrics.call_count == 1
        assert watched.endpoint.available(watched.now)
        watched.now += health.SCRAPE_PAUSE_S
        await watched.probe(times=2)
        assert watched.metrics.call_count == 2


async def test_metrics_that_did_not_come_are_asked_for_again_at_once() -> None:
    """A busy engine may be late."""
    async with Watched() as watched:
        watched.metrics.mock(side_effect=httpx.ReadTimeout("late"))
        await watched.probe(times=3)
        assert watched.metrics.call_count == 3
        assert watched.endpoint.available(watched.now)


async def test_without_a_path_nothing_is_scraped() -> None:
    """The operator's choice."""
    async with Watched(metrics_path=None) as watched:
        await watched.probe()
        assert not watched.metrics.called


async def until_called(route: respx.Route, times: int) -> None:
    async with asyncio.timeout(10):
        while route.call_count < times:  # noqa: ASYNC110  the state of code under test
            await asyncio.sleep(0)


async def test_it_probes_until_it_is_cancelled() -> None:
    """With jitter, so that the probes of many gateways do not fall into step."""
    async with Watched() as watched, asyncio.TaskGroup() as group:
        task = group.create_task(watched.watch.probe_forever("/health", 0.001, 1.0))
        await until_called(watched.health, 3)
        task.cancel()


async def test_models_are_listed_until_it_is_cancelled() -> None:
    """At the interval while it does not answer, then more rarely; only answers are told."""
    async with Watched() as watched, asyncio.TaskGroup() as group:
        watched.listed.mock(side_effect=[httpx.Response(500), httpx.Response(200, json=LISTED)] * 9)
        task = group.create_task(watched.watch.list_forever(0.001, 1.0))
        await until_called(watched.listed, 3)
        task.cancel()
    assert watched.models[:2] == LISTED["data"]


async def test_a_host_that_cannot_be_decoded_does_not_answer() -> None:
    """It reads as an international name and is none, which httpx says in its own way."""
    endpoint = Endpoint("http://xn--zz:9")
    async with httpx.AsyncClient() as http:
        assert await probe(http, endpoint, "/health", 1.0)
        assert await scrape(http, endpoint, "/metrics", 1.0) is None
        assert await list_models(http, endpoint, 1.0) is None


async def test_a_defect_ends_neither_task(caplog: pytest.LogCaptureFixture) -> None:
    """Nor the gateway with it: what cannot be foreseen is logged, and tried again."""
    async with Watched() as watched, asyncio.TaskGroup() as group:
        watched.health.mock(side_effect=ZeroDivisionError)
        watched.listed.mock(side_effect=ZeroDivisionError)
        tasks = [
            group.create_task(watched.watch.probe_forever("/health", 0.001, 1.0)),
            group.create_task(watched.watch.list_forever(0.001, 1.0)),
        ]
        await until_called(watched.health, 2)
        await until_called(watched.listed, 2)
        for task in tasks:
            task.cancel()
    assert {record.message for record in caplog.records} == {
        "endpoint e:1: its probe failed",
        "endpoint e:1: the look at its models failed",
    }

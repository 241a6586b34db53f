"""Each endpoint is looked after by the tasks that its configuration asks for, and by no others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import httpx
import pytest

from gateway.config.spec import Discovery
from gateway.upstream import health
from gateway.upstream.cluster import Cluster
from gateway.upstream.endpoint import Endpoint
from gateway.upstream.watches import Watches
from tests.gateway.upstream.test_cluster import CLOCK, change, cluster, spec

USUAL = Discovery()


class Seen:
    """Stands in for the two loops of a watch: it notes who looks after whom, and until when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running: list[tuple[str, str, float]] = []
        self.clients: set[httpx.AsyncClient] = set()
        for name in ("probe_forever", "list_forever"):
            monkeypatch.setattr(health.Watch, name, self._loop(name.partition("_")[0]))

    def _loop(self, what: str) -> Callable[..., Awaitable[None]]:
        async def loop(watch: Any, *arguments: Any) -> None:
            key = (what, watch._endpoint.id, arguments[-2])
            self.running.append(key)
            self.clients.add(watch._http)
            try:
                await asyncio.Event().wait()
            finally:
                self.running.remove(key)

        return loop


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def watches() -> Watches:
    return Watches(Random(1), CLOCK.monotonic, lambda: None)


async def settle() -> None:
    """Let tasks begin and end."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_tasks_come_and_go_with_endpoints(seen: Seen) -> None:
    """Two for each; those of an endpoint that stays go on undisturbed."""
    running = cluster("a:1", "b:1")
    async with watches() as patrol:
        patrol.follow([running], USUAL)
        await settle()
        assert sorted(seen.running) == [
            ("list", "a:1", 2.0),
            ("list", "b:1", 2.0),
            ("probe", "a:1", 2.0),
            ("probe", "b:1", 2.0),
        ]
        before = list(seen.running)
        change(running, spec("b:1", "c:1"))
        patrol.follow([running], USUAL)
        await settle()
        assert [one for one in before if one[1] == "b:1"] == seen.running[:2]
        assert {endpoint for _, endpoint, _ in seen.running} == {"b:1", "c:1"}
        assert len(seen.clients) == 1
    assert seen.running == []
    assert all(client.is_closed for client in seen.clients)


async def test_new_intervals_begin_new_tasks(seen: Seen) -> None:
    """For probes by the cluster's settings, for models by everybody's."""
    running = cluster("a:1")
    async with watches() as patrol:
        patrol.follow([running], USUAL)
        await settle()
        change(running, spec("a:1", health={"interval_s": 9}))
        patrol.follow([running], Discovery(interval_s=8))
        await settle()
        assert sorted(seen.running) == [("list", "a:1", 8.0), ("probe", "a:1", 9.0)]


async def test_another_key_is_another_http_client(seen: Seen) -> None:
    """The old one is closed when nobody uses it any more; so is that of a cluster that went."""
    running = cluster("a:1")
    async with watches() as patrol:
        patrol.follow([running], USUAL)
        await settle()
        (old,) = seen.clients
        change(running, spec("a:1", api_key="sk"))
        patrol.follow([running], USUAL)
        await settle()
        (new,) = seen.clients - {old}
        assert (old.is_closed, new.is_closed) == (True, False)
        patrol.follow([], USUAL)
        await settle()
        assert (new.is_closed, seen.running) == (True, [])


async def test_outside_of_a_run_nothing_is_started(seen: Seen) -> None:
    """A gateway that is built but not run, or has ended, probes nobody."""
    patrol = watches()
    patrol.follow([cluster("a:1")], USUAL)
    async with patrol:
        pass
    patrol.follow([cluster("a:1")], USUAL)
    await settle()
    assert seen.running == []


async def test_news_about_models_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; the same list again is no news."""
    told: list[str] = []
    done = asyncio.Event()

    async def probe(*_: Any) -> None:
        """Leave the endpoint alone."""

    async def lists(watch: Any, *_: Any) -> None:
        endpoint: Endpoint = watch._endpoint
        for entries in ([{"id": "m"}], [{"id": "m"}], [{"id": "m"}, {"id": "n"}]):
            watch._on_models(endpoint, entries)
        done.set()

    monkeypatch.setattr(health.Watch, "probe_forever", probe)
    monkeypatch.setattr(health.Watch, "list_forever", lists)
    running: Cluster = cluster("a:1")
    async with Watches(Random(1), CLOCK.monotonic, lambda: told.append("news")) as patrol:
        patrol.follow([running], USUAL)
        await done.wait()
    assert told == ["news", "news"]
    assert running.endpoints[0].models == ("m", "n")


async def test_a_gateway_that_is_cancelled_closes_its_http_clients_too(seen: Seen) -> None:
    """As an embedding program ends it; a probe's connection would else stay open."""

    async def run() -> None:
        async with watches() as running:
            running.follow([cluster("a:1")], USUAL)
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await settle()
    assert len(seen.running) == 2
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not seen.running
    assert all(client.is_closed for client in seen.clients)

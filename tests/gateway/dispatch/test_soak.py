"""Whatever engines, clients and operators do at random: whole answers or one error, and no remains.

Each request asks for a text of its own, so that a word of another's answer would be seen.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from gateway.config.spec import Config
from gateway.dispatch.pulse import PING
from tests.support.engine import (
    DONE,
    Engine,
    Received,
    Step,
    Then,
    _read_body,
    chunk,
    event,
    finish,
    response,
    stream,
    token,
)
from tests.support.failover import Failover, failover
from tests.support.raw import Answer, CutError, RawClient, post
from tests.support.rig import eventually

CLIENTS, REQUESTS = 12, 8
WORDS = 8
FIRST_TOKEN_S, IDLE_S = 5.0, 3.0
CLUSTER: dict[str, Any] = {
    "timeouts": {"first_token_s": FIRST_TOKEN_S, "idle_s": IDLE_S, "keepalive_s": 1},
    "max_inflight": 9,
    "queue": {"size": 6, "timeout_s": 4},
    "retries": {"budget_min_per_s": 50},
    "breaker": {"open_s": 2},
    "outliers": {"eject_s": 2},
    "resume": "replay",
}
STATUSES = (b"400 No", b"429 Slow", b"500 Oops", b"502 Bad", b"503 Busy", b"504 Late")


def words(name: str) -> list[str]:
    """Return the text that a request of that name is to get, a word for each token."""
    return [f"{name}.{number} " for number in range(WORDS)]


# Engines.


def whim(rng: Random, name: str, model: str, *, streams: bool) -> Iterator[Step]:
    """Yield what an engine does with one request: in most cases, what it should."""
    kind = rng.choice(("well", "well", "well", "refuses", "breaks off"))
    if rng.random() < 0.1:
        yield Then.HANG
    if kind == "refuses" and rng.random() < 0.7:
        said = rng.choice(("no", "no", "cannot schedule new futures after shutdown"))
        body = json.dumps({"error": {"message": said, "code": 500}}).encode()
        again = [(b"retry-after", b"0")] if rng.random() < 0.5 else []
        yield response(body, rng.choice(STATUSES), again)
    elif kind == "refuses":
        yield rng.choice((Then.RESET, Then.CLOSE))
    elif streams:
        yield from _stream(rng, name, model, breaks=kind == "breaks off")
    else:
        choice = {"message": {"content": "".join(words(name))}}
        body = json.dumps({"model": model, "choices": [choice]}).encode()
        if kind == "breaks off":
            yield response(body[:-9], length=len(body))
            yield rng.choice((Then.RESET, Then.CLOSE, Then.HANG))
        yield response(body)


def _stream(rng: Random, name: str, model: str, *, breaks: bool) -> Iterator[Step]:
    steps = stream(*[token(word, model) for word in words(name)], finish(model=model), DONE)
    ends: tuple[tuple[Step, ...], ...] = (
        (Then.RESET,),
        (Then.CLOSE,),
        (Then.HANG,),
        (b"0\r\n\r\n",),  # A clean end, too soon.
        (chunk(token("half", model)[:20]), Then.CLOSE),
        (chunk(event(b"{what")), Then.HANG),
        (chunk(event({"error": {"message": "oom", "code": 500}})), Then.HANG),
        (b"zz\r\n", Then.HANG),  # No chunk at all.
    )
    end = ends[rng.randrange(len(ends))] if breaks else ()
    for step in steps[: rng.randrange(1, len(steps) - 2) if breaks else None]:
        yield step
        if rng.random() < 0.2:
            yield Then.YIELD
    yield from end


class Whimsical(Engine):
    """Answers with what it is asked for, or does something else."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._rng = rng

    async def _exchange(
        self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        request.body = await _read_body(request, reader)
        asked = request.json
        name, streams = asked["messages"][0]["content"], asked.get("stream") is True
        for step in whim(self._rng, name, asked["model"], streams=streams):
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
                continue
            try:
                if not await self._act(step, request, reader, writer):
                    return False
            except OSError:  # To reset what the peer has closed cannot be done.
                return False
        return True


# Clients.


def check_error(error: Any) -> None:
    assert error["message"]
    assert "code" in error


def check_stream(name: str, body: bytes) -> bool:
    """Check a streamed body; say whether it is the whole answer."""
    assert body.endswith(b"\n\n")
    events = [one for one in body.replace(PING, b"").split(b"\n\n") if one]
    assert all(one.startswith(b"data: ") for one in events)
    last = events.pop()[6:]
    chunks = [json.loads(one[6:]) for one in events]
    whole = last == b"[DONE]"
    if not whole:
        check_error(json.loads(last)["error"])
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)
    assert len({one["model"] for one in chunks}) <= 1
    finished = [one["choices"][0]["finish_reason"] for one in chunks]
    assert finished[:-1] == [None] * len(finished[:-1])
    assert (finished[-1:] == ["stop"]) is whole
    assert text == "".join(words(name)) if whole else "".join(words(name)).startswith(text)
    return whole


def check(name: str, answer: Answer) -> bool:
    """Check a whole response; say whether it is the whole answer and not an error."""
    if answer.header(b"content-type")[0].startswith(b"text/event-stream"):
        assert answer.status == 200
        return check_stream(name, answer.body)
    if answer.status == 200:
        (choice,) = answer.json["choices"]
        assert choice["message"]["content"] == "".join(words(name))
        return True
    assert answer.status in {400, 429, 502, 503, 504}
    check_error(answer.json["error"])
    return False


class Tally:
    """What became of all requests."""

    def __init__(self) -> None:
        self.whole = 0
        self.errors = 0
        self.left = 0

    @property
    def ended(self) -> int:
        return self.whole + self.errors + self.left


async def one_client(rng: Random, rig: Failover, tally: Tally, number: int) -> None:
    """Ask again and again on one connection; leave it now and then."""
    client = await rig.client().__aenter__()
    try:
        for count in range(REQUESTS):
            name = f"{number}-{count}"
            body: dict[str, Any] = {
                "model": "m",
                "messages": [{"role": "user", "content": name}],
                "temperature": 0,
            }
            if rng.random() < 0.7:
                body["stream"] = True
            hurry = {"x-request-timeout-ms": "2000"} if rng.random() < 0.1 else {}
            client.send(post(body, fields=hurry))
            if rng.random() < 0.2:
                await _leave(rng, client)
                tally.left += 1
                client = await rig.client().__aenter__()
            elif check(name, await client.answer()):
                tally.whole += 1
            else:
                tally.errors += 1
    finally:
        client.leave()


async def _leave(rng: Random, client: RawClient) -> None:
    """Leave somewhere between the request and the end of its answer."""
    after = rng.randrange(4)
    try:
        if after >= 1:
            await asyncio.sleep(rng.random() * 0.02)
        if after >= 2:
            await client.head()
        if after >= 3:
            await client.reader.read(100)
    except CutError:
        pass
    client.leave()


# Operators, and time.


async def operators(
    rng: Random, rig: Failover, tally: Tally, over: Callable[[], bool], forced_after: int
) -> None:
    """Reload, drain, and let time pass: a little, or as much as whoever waits needs.

    In the end the gateway is forced to come to its end, unless the clients are through before.
    """
    known = rig.gateway.config
    settings = known.model_dump(mode="json", exclude={"server"})
    ended, still = -1, 0
    while not over():
        await asyncio.sleep(0.004)
        still = still + 1 if tally.ended == ended else 0
        ended = tally.ended
        rig.pass_time(IDLE_S / 2 if still > 3 else 0.01)
        if tally.ended >= forced_after and not rig.gateway.shared.stopping:
            rig.gateway.force()
        deed = rng.random()
        endpoints = rig.gateway.clusters["pool"].endpoints
        if deed < 0.04:
            rng.choice(endpoints).drain()
        elif deed < 0.12:
            for endpoint in endpoints:
                endpoint.undrain(rig.clock.now)
        elif deed < 0.15:
            take_over(rig, _changed(rng, settings))
    take_over(rig, known)


def _changed(rng: Random, settings: dict[str, Any]) -> Config:
    """Return the configuration with fewer endpoints in it, and other limits."""
    new = json.loads(json.dumps(settings))
    pool = new["clusters"]["pool"]
    pool["endpoints"] = rng.sample(pool["endpoints"], rng.choice((2, 3)))
    pool["endpoints"][0]["max_inflight"] = rng.choice((1, 3, None))
    pool["max_inflight"] = rng.choice((4, 9, None))
    pool["hedging"]["enabled"] = rng.random() < 0.5
    return Config.model_validate(new)


def own_tasks() -> int:
    """Count the tasks, but for an engine that waits for a probe which was ended at its dialling."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return sum(name != "Engine._connection" for name in names)


def take_over(rig: Failover, config: Config) -> None:
    """Do what a reload does once it has read its file."""
    live = rig.gateway.live
    live.config = config
    live.fleet.apply(config.clusters, live.fleet.prepare(config.clusters))
    for cluster in rig.gateway.clusters.values():
        for endpoint in cluster.endpoints:
            if endpoint.health == "unknown":
                endpoint.probed(True, rig.clock.now)
    live.follow()


@pytest.mark.parametrize("forced_after", [CLIENTS * REQUESTS, 30], ids=["to the end", "forced"])
@pytest.mark.parametrize("hedging", [False, True], ids=["one", "hedged"])
@pytest.mark.parametrize("seed", range(2))
async def test_nothing_is_lost_mixed_up_or_left_over(
    seed: int, hedging: bool, forced_after: int
) -> None:
    """Over every kind of failure, departure, drain and reload that this file knows."""
    rng = Random(f"{seed} {hedging} {forced_after}")
    async with failover(
        *[[rng]] * 3,
        others=[[rng]],
        models={"m": {"cluster": "pool", "fallbacks": ["o"]}},
        cluster={**CLUSTER, "hedging": {"enabled": hedging, "quantile": 0.5, "max_load": 1}},
        make=Whimsical,
    ) as rig:
        gateway, tally = rig.gateway, Tally()
        for _ in range(50):
            gateway.shared.recent(gateway.clusters["pool"].whole()).observe(0.003)
        await eventually(lambda: all(one.models for one in gateway.clusters.values()))
        await asyncio.sleep(0.05)
        tasks = own_tasks()
        async with asyncio.TaskGroup() as group:
            asking = [
                group.create_task(one_client(rng, rig, tally, number)) for number in range(CLIENTS)
            ]
            group.create_task(
                operators(rng, rig, tally, lambda: all(one.done() for one in asking), forced_after)
            )
        await eventually(lambda: rig.inflight == 0)
        for cluster in gateway.clusters.values():
            assert sum(cluster.gate.waiting(each) for each in range(3)) == 0  # type: ignore[arg-type]
        assert repr(gateway.proxy.pulse) == "<Pulse, 0 streams>"
        rig.pass_time(5)  # What is idle closes.
        await eventually(lambda: sum(one.open for one in (*rig.engines, *rig.others)) == 0)
        await eventually(lambda: rig.open_upstream == 0)
        assert not any(cluster.busy for cluster in gateway.clusters.values())
        await eventually(lambda: own_tasks() <= tasks)
        assert tally.ended == CLIENTS * REQUESTS
        assert tally.whole > 0

"""The store of several hosts keeps the contract over a real redis-server, and heals.

It needs Debian's `redis-server`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NotYet

from engines.locate import free_port
from gateway.clock import SystemClock
from gateway.store.base import KEEP_PROGRESS_S, TIMEOUT_S, Batch, Document, StoreError
from gateway.store.redis import RedisStore
from gateway.store.resilient import MAX_WAIT_S, POLL_S, Resilient
from tests.gateway.store import members
from tests.gateway.store.contract import KEPT_EVENTS, StoreContract
from tests.support.process import PATIENCE_S

pytestmark = pytest.mark.integration

CLOCK = SystemClock()
PATIENT_S = 20.0
"""A time-out where none is tested."""


class Server:
    """A redis-server that can be ended, begun again and stopped."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port("127.0.0.1")
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.argv = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port)]
        self.argv += ["--dir", str(folder), "--save", "", *options]
        self.child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.child = subprocess.Popen(self.argv, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self.ask("PING")
            except NotYet:
                assert time.monotonic() < deadline, "redis-server does not come up"
                time.sleep(0.02)
            else:
                return

    def ask(self, *words: str | int) -> object:
        """Send one command, past the store."""
        with contextlib.closing(Redis.from_url(self.url)) as client:
            answer: object = client.execute_command(*words)
            return answer

    def kill(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self.child is not None
        self.child.send_signal(number)


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    server = Server(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that nothing happens to."""
    with serving(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """One of the test's own."""
    with serving(tmp_path) as server:
        yield server


class RedisSite:
    """A namespace of the server; its time is the real one."""

    ttl_s = 3.0
    numbers = itertools.count()

    def __init__(self, url: str) -> None:
        self.url = url
        self.namespace = f"site{next(self.numbers)}"
        self.opened: list[RedisStore] = []

    def open(self) -> RedisStore:
        store = RedisStore(
            self.url, namespace=self.namespace, timeout_s=PATIENT_S, max_events=KEPT_EVENTS
        )
        self.opened.append(store)
        return store

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds + 0.01)


@pytest.fixture
async def site(redis: Server) -> AsyncIterator[RedisSite]:
    site = RedisSite(redis.url)
    yield site
    for store in site.opened:
        await store.close()


class TestRedisStore(StoreContract):
    """See `StoreContract`."""


@pytest.fixture
async def store(own: Server) -> AsyncIterator[RedisStore]:
    """Over a server of the test's own, with a time-out that no busy machine reaches."""
    store = RedisStore(own.url, timeout_s=PATIENT_S)
    yield store
    await store.close()


@pytest.fixture
async def hasty(own: Server) -> AsyncIterator[RedisStore]:
    """Over the same server, with the default time-out."""
    store = RedisStore(own.url)
    yield store
    await store.close()


async def test_four_processes_push_exactly(own: Server) -> None:
    """Four times 1,000 pushes, a fifth of them twice: nothing is lost, nothing doubled."""
    patient = RedisStore(own.url, timeout_s=PATIENT_S)
    await members.four_processes_push(own.url, patient, 1_000)
    await patient.close()


async def test_a_killed_leader_is_replaced(own: Server) -> None:
    """kill -9: within the takeover's time."""
    await asyncio.to_thread(members.a_killed_leader_is_replaced, own.url)


async def test_a_leader_that_ends_is_replaced_at_once(own: Server) -> None:
    """Its lease would have run for minutes."""
    await asyncio.to_thread(members.a_leader_that_ends_is_replaced_at_once, own.url)


async def test_a_stopped_leader_is_fenced(own: Server, store: RedisStore) -> None:
    """SIGSTOP between looking and writing: the write is refused."""
    await members.a_stopped_leader_is_fenced(own.url, store)


async def test_a_stopped_candidate_stands_again(own: Server) -> None:
    """SIGSTOP at any moment: it gets a new term or none."""
    await asyncio.to_thread(members.a_stopped_candidate_stands_again, own.url)


async def test_namespaces_are_apart(redis: Server, site: RedisSite) -> None:
    """Two gateways may share a server."""
    other = RedisStore(redis.url, namespace=f"{site.namespace}x", timeout_s=PATIENT_S)
    await site.open().put("x", 1, 0)
    assert await other.get("x") == Document("x", None, 0)
    await other.close()


def of(server: Server, *names: str, timeout_s: float = PATIENT_S) -> list[Resilient]:
    return [
        Resilient(RedisStore(server.url, timeout_s=timeout_s), name, CLOCK, Random(number))
        for number, name in enumerate(names)
    ]


async def let_in(*shared: Resilient) -> None:
    """Let the first call find out that the server has hung up."""
    for one in shared:
        with contextlib.suppress(StoreError):
            await one.store.get("x")


async def close(*shared: Resilient) -> None:
    for one in shared:
        await one.store.close()


async def test_a_restarted_server_is_filled_again(
    own: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """It came back empty: sums of both processes, documents in their newest version, and the log
    says so."""
    a, b = of(own, "a", "b")
    await a.store.put("rollout/x", {"step": 1}, 0)
    token = await a.store.acquire("l", "a", 1.0)
    a.add({"n": {"": 3}})
    b.add({"n": {"": 4}})
    for one in (a, b, a):
        await one.turn(push=True)
    newest = await a.store.put("rollout/x", {"step": 2}, a.document("rollout/x").version)
    await a.turn(push=True)
    own.kill()
    with pytest.raises(StoreError):
        await a.turn(push=True)
    own.start()
    await let_in(a, b)
    b.add({"n": {"": 10}})
    for one in (b, a):
        await one.turn(push=True)
    assert await a.store.totals("") == {"n": {"": 17.0}}
    assert await a.store.get("rollout/x") == Document("rollout/x", {"step": 2}, newest or 0)
    assert caplog.text.count("has lost state") == 2
    later = await a.store.acquire("l", "b", 1.0)
    assert (later or 0) > (token or 0) > 0
    await b.turn(push=False)
    assert b.document("rollout/x").value == {"step": 2}
    await close(a, b)


async def test_a_server_that_went_back_is_brought_up_to_date(own: Server) -> None:
    """It came back with what it had saved some pushes ago: just these are pushed again."""
    a, b = of(own, "a", "b")
    for number in range(6):
        for one in (a, b):
            one.add({"n": {"": 1}, "h": {str(number): 1}})
            await one.turn(push=True)
        await a.store.put("w", number, a.document("w").version)
        await a.turn(push=False)
        if number == 2:
            own.ask("SAVE")
    own.kill()
    own.start()
    await let_in(a, b)
    assert (await b.store.totals("n"))["n"] == {"": 6.0}
    for _ in range(2):
        for one in (a, b):
            one.add({"n": {"": 1}})
            await one.turn(push=True)
    assert await a.store.totals("") == {"n": {"": 16.0}, "h": {str(n): 2.0 for n in range(6)}}
    assert (await b.store.get("w")).value == 5
    assert [(one.outbox.losses, one.outbox.missing) for one in (a, b)] == [(1, 0), (1, 0)]
    await close(a, b)


async def bounded(call: object) -> None:
    """The call fails, within the time-out and a busy machine's second."""
    begun = time.monotonic()
    with pytest.raises(StoreError):
        await call  # type: ignore[misc]  # a coroutine of any store's call
    assert time.monotonic() - begun < 1.0 + members.SLACK_S


async def test_a_stopped_server_holds_up_nobody(
    own: Server, hasty: RedisStore, store: RedisStore
) -> None:
    """SIGSTOP: connections stay and are mute. Every call ends in time; what was sent meanwhile
    may be carried out later, and still counts once."""
    batch = Batch(0, 1, {"n": {"": 1}})
    await store.push("other", batch)
    own.signal(signal.SIGSTOP)
    try:
        for _ in range(2):
            await bounded(hasty.push("a", batch))
        others = (
            hasty.totals(""),
            hasty.forget("x"),
            hasty.report("a", 1, 1.0),
            hasty.reports(),
            hasty.get("x"),
            hasty.put("x", 1, 0),
        )
        await asyncio.gather(*map(bounded, others))
        more = (
            hasty.restore([]),
            hasty.changes(0),
            hasty.append("audit", 1, "1"),
            hasty.tail("audit", 1),
            hasty.acquire("l", "a", 1.0),
        )
        await asyncio.gather(*map(bounded, more))
    finally:
        own.signal(signal.SIGCONT)
    assert await store.push("a", batch) == 1
    assert await store.totals("") == {"n": {"": 2.0}}


async def test_answers_belong_to_their_questions(own: Server, store: RedisStore) -> None:
    """Also after calls were given up half-way: no answer is read by the next one."""
    for number in range(8):
        await store.put(str(number), number, 0)
    for _ in range(3):
        own.signal(signal.SIGSTOP)
        calls = [asyncio.ensure_future(store.get(str(number))) for number in range(6)]
        await asyncio.sleep(0.05)
        for call in calls[:3]:
            call.cancel()
        await asyncio.sleep(0.05)
        own.signal(signal.SIGCONT)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [one.value for one in answers[3:] if isinstance(one, Document)] == [3, 4, 5]
        for number in range(8):
            assert (await store.get(str(number))).value == number


async def test_it_is_back_soon_after_the_server(own: Server) -> None:
    """The whole loop, over a server that is stopped and then killed: within a wait and a call."""
    (shared,) = of(own, "a", timeout_s=TIMEOUT_S)
    task = asyncio.ensure_future(shared.run())

    async def until(what: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not what():  # noqa: ASYNC110  the loop has nobody to tell
                await asyncio.sleep(0.01)

    shared.add({"n": {"": 1}})
    await until(lambda: not shared.outbox.waiting)
    for stop, go in (
        (lambda: own.signal(signal.SIGSTOP), lambda: own.signal(signal.SIGCONT)),
        (own.kill, own.start),
    ):
        stop()
        shared.add({"n": {"": 1}})
        await until(lambda: not shared.standing.available)
        go()
        back = time.monotonic()
        await until(lambda: shared.standing.available)
        assert time.monotonic() - back < MAX_WAIT_S + 1.0 + members.SLACK_S
        await asyncio.sleep(2 * POLL_S)
        await until(lambda: not shared.outbox.waiting)
    (patient,) = of(own, "b")
    assert await patient.store.totals("") == {"n": {"": 3.0}}
    await close(patient)
    task.cancel()
    await asyncio.wait([task])
    await close(shared)


async def test_nobody_there_is_an_error() -> None:
    """At once, and said."""
    store = RedisStore(f"redis://127.0.0.1:{free_port('127.0.0.1')}/0")
    with pytest.raises(StoreError, match=r"redis at 127\.0\.0\.1"):
        await store.get("x")
    await store.close()


async def test_a_server_without_memory_takes_nothing_half(own: Server, store: RedisStore) -> None:
    """Writes are refused whole; reads go on; later all is well."""
    await store.push("a", Batch(0, 1, {"n": {"": 1}}))
    own.ask("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(StoreError, match="maxmemory"):
        await store.push("a", Batch(1, 2, {"n": {"": 1}, "m": {"": 1}}))
    with pytest.raises(StoreError, match="maxmemory"):
        await store.put("x", 1, 0)
    assert await store.totals("") == {"n": {"": 1.0}}
    own.ask("CONFIG", "SET", "maxmemory", 0)
    assert await store.push("a", Batch(1, 2, {"n": {"": 1}, "m": {"": 1}})) == 2


async def test_a_wrong_password_is_an_error_without_it(tmp_path: Path) -> None:
    """Nor is the right one in any message."""
    with serving(tmp_path) as server:
        server.ask("CONFIG", "SET", "requirepass", "right")
        wrong = RedisStore(server.url.replace("//", "//:wr0ng@"))
        with pytest.raises(StoreError) as raised:
            await wrong.get("x")
        assert "wr0ng" not in str(raised.value)
        right = RedisStore(server.url.replace("//", "//:right@"))
        assert await right.put("x", 1, 0) is not None
        assert "right" not in right.label
        for store in (wrong, right):
            await store.close()


async def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    """On one host."""
    with serving(tmp_path, "--unixsocket", str(tmp_path / "s")):
        store = RedisStore(f"unix://{tmp_path / 's'}")
        assert await store.put("x", 1, 0) is not None
        await store.close()


async def test_forgotten_scripts_are_loaded_again(own: Server, store: RedisStore) -> None:
    """As after a restart or a failover."""
    await store.put("x", 1, 0)
    own.ask("SCRIPT", "FLUSH")
    assert (await store.get("x")).value == 1


async def test_a_long_gone_process_is_forgotten(own: Server, store: RedisStore) -> None:
    """When a new one comes; the sums that it pushed stay."""
    await store.push("old", Batch(0, 1, {"n": {"": 1}}))
    await store.push("quiet", Batch(0, 1, {"n": {"": 1}}))
    ago_us = int((CLOCK.wall() - KEEP_PROGRESS_S - 60) * 1e6)
    own.ask("HSET", "sluice:progress", "old", f"1:{ago_us}")
    await store.push("new", Batch(0, 1, {"n": {"": 1}}))
    assert await store.push("old", Batch(9, 9, {})) == 0
    assert await store.push("quiet", Batch(9, 9, {})) == 1
    assert await store.totals("n") == {"n": {"": 3.0}}


async def test_a_clock_that_went_back_ends_what_was_granted(own: Server, store: RedisStore) -> None:
    """A lease and a report that would run for an hour too long do not."""
    token = await store.acquire("l", "a", 10.0)
    await store.report("a", 1, 10.0)
    later_us = int((CLOCK.wall() + 3_600) * 1e6)
    own.ask("HSET", "sluice:leases", "l", f"{token}:{later_us}:10000000:a")
    own.ask("HSET", "sluice:reports", "a", f"{later_us}:10000000:1")
    assert await store.acquire("l", "b", 10.0) is not None
    assert await store.reports() == {}
    assert own.ask("HLEN", "sluice:reports") == 0

"""A canary that turns bad is sent back by every gateway; a good one goes through.

Four gateway processes share a real Redis. The clients ask for faults by a header that only the
canary's engine obeys, so that it turns bad at a chosen step while the baseline stays well.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from gateway.releases.trail import AUDIT
from gateway.store.base import StoreError
from gateway.store.redis import RedisStore
from tests.integration.faults.stage import Metrics, config, sims, until, until_healthy
from tests.integration.faults.traffic import ask, chat
from tests.integration.test_store_redis import PATIENT_S, Server, serving
from tests.support.process import ROOT, Served, announced

pytestmark = pytest.mark.integration

GATEWAYS = 4
CLIENTS = 12
STEPS = [{"weight": weight, "min_requests": 60} for weight in (10, 30, 60)]
GATES = [
    {"metric": "error_rate", "max_increase": 0.02},
    {"metric": "abort_rate", "max_increase": 0.02},
    {"metric": "truncation_rate", "max_increase": 0.02},
    {"metric": "ttft", "quantile": 0.5, "max_ratio": 10},
]
SLOW_S = 2.0
"""From here on an answer is late; a canary is, that is slow, by twice as much. A busy machine holds
up the well ones, too, but not half of them, nor ten times as long."""
BOUND_S = 30.0
"""How long a bad canary may harm anybody: sums (1 s), a look (1 s), weights (0.5 s), for as much
evidence as it takes; the rest is for machines that are busy."""
PATIENCE_S = 90.0


class Process:
    """One gateway, which may be killed."""

    def __init__(self, file: Path) -> None:
        argv = [sys.executable, "-m", "gateway", "serve", "-c", str(file), "--port", "0"]
        self.child = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        assert self.child.stderr is not None
        url = None
        for line in self.child.stderr:
            self.lines.append(line)
            url = announced(line)
            if url is not None:
                break
        assert url is not None, "".join(self.lines)
        self.port = int(url.rpartition(":")[2])
        self.served = Served(url, self.child.pid, self.lines)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stderr is not None
        self.lines += self.child.stderr

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """End it; return its exit code."""
        if self.child.poll() is None:
            self.child.send_signal(number)
        code = self.child.wait(60)
        self._reader.join()
        assert self.child.stderr is not None
        self.child.stderr.close()
        return code


@dataclass
class Crowd:
    """Clients that ask one after the other, each time for a session of its own."""

    gateways: list[Process]
    fault: str | None = None
    """What the canary's engine is asked to do."""
    asked: int = 0
    harmed: Counter[str] = field(default_factory=Counter)
    """Answers that were not whole, or late where that is the fault, by what they were."""
    harmed_at: float = 0.0
    """When the last of them was asked for (monotonic seconds)."""

    async def ask_forever(self, rng: random.Random) -> None:
        while True:
            gateway = rng.choice(self.gateways)
            fields = {"x-session-id": f"{rng.getrandbits(64):x}"}
            if self.fault is not None:
                fields["x-sim-fault"] = self.fault
            heard = await ask(gateway.port, chat(tokens=6, stream=True), fields)
            if gateway not in self.gateways:
                continue  # It was killed meanwhile.
            self.asked += 1
            waited_s = 0.0 if heard.first_at is None else heard.first_at - heard.sent_at
            late = fields.get("x-sim-fault") == BAD["slow"] and waited_s >= SLOW_S
            if heard.failure or late:
                self.harmed[heard.failure or "late"] += 1
                self.harmed_at = max(self.harmed_at, heard.sent_at)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.ask_forever(random.Random(seed))) for seed in range(CLIENTS)
            ]
            yield
            for task in tasks:
                task.cancel()


class Stage:
    """Gateways with one policy file and one store."""

    def __init__(self, folder: Path, redis: Server, gateways: list[Process]) -> None:
        self._folder = folder
        self._redis = redis
        self.store = RedisStore(redis.url, timeout_s=PATIENT_S)
        self.gateways = gateways
        self.crowd = Crowd(gateways)

    def begin(self, name: str) -> None:
        """Put one rollout in place of the last; each gateway finds the file by itself."""
        rollout = {
            "baseline": {"model": "m"},
            "canary": {"cluster": "canary"},
            "steps": STEPS,
            "gates": GATES,
        }
        whole = self._folder / "whole"
        policy = {"name": name, "match": {"models": ["m"]}, "rollout": rollout}
        whole.write_text(yaml.safe_dump(policy))
        whole.rename(self._folder / "policies" / "rollout.yaml")

    def leader(self) -> int:
        """Return the pid of the process that leads, as the store knows it."""
        said = self._redis.ask("HVALS", "sluice:leases")
        found = re.search(rb":(\d+):[0-9a-f]{16}", b" ".join(cast("list[bytes]", said)))
        assert found is not None, said
        return int(found[1])

    async def state(self, name: str) -> dict[str, Any]:
        """Return the rollout's state; empty while there is none."""
        try:
            document = await self.store.get(f"policy/{name}")
        except StoreError:
            return {}
        found: dict[str, Any] = (document.value or {}).get("state", {})
        return found

    async def reaches(self, name: str, **wanted: Any) -> dict[str, Any]:
        """Wait until the state has these values, or is final; return it."""
        state: dict[str, Any] = {}

        async def there() -> bool:
            nonlocal state
            state = await self.state(name)
            final = state.get("phase") in {"succeeded", "rolled_back", "failed"}
            got_there = bool(wanted) and {key: state.get(key) for key in wanted} == wanted
            return final or got_there

        await until(there, PATIENCE_S, every_s=0.05)
        return state

    async def events(self, name: str, kind: str) -> list[dict[str, Any]]:
        """Return the rollout's audit log when it has an event of this kind, which must come.

        The state that says so is stored a moment before.
        """
        found: list[dict[str, Any]] = []

        async def there() -> bool:
            nonlocal found
            tail = cast("list[dict[str, Any]]", await self.store.tail(AUDIT, 99))
            found = [each for each in tail if each["policy"] == name]
            return kind in {each["kind"] for each in found}

        await until(there)
        return found

    async def untouched(self, name: str) -> None:
        """Wait until no gateway sends the canary anything."""

        async def quiet() -> bool:
            before = self.crowd.harmed.total()
            asked = self.crowd.asked
            await until(lambda: self._asked_since(asked, 60), PATIENCE_S)
            return self.crowd.harmed.total() == before

        await until(quiet, PATIENCE_S)

    async def _asked_since(self, asked: int, more: int) -> bool:
        return self.crowd.asked >= asked + more


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rollouts")


@asynccontextmanager
async def stage(folder: Path, *, workers: int = 1) -> AsyncIterator[Stage]:
    """Run gateways in front of a baseline and a canary of one simulated engine each.

    `GATEWAYS` of them, or one with so many workers.
    """
    (folder / "policies").mkdir(exist_ok=True)
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(serving(folder))
        (well,) = await stack.enter_async_context(sims(1))
        (canary,) = await stack.enter_async_context(sims(1, "--allow-fault-headers"))
        # What a canary does is to be seen as it is: nothing hides it, nothing takes it out.
        cluster = {"resume": "off", "retries": {"attempts": 1}, "breaker": {"failures": 100_000}}
        cluster["outliers"] = {"max_ejected_percent": 0}
        text = yaml.safe_load(config([well.url], cluster=cluster))
        text["clusters"]["canary"] = {"endpoints": [{"url": canary.url}], **cluster}
        text["policies"] = [str(folder / "policies" / "*.yaml")]
        text["store"] = redis.url
        text["server"] |= {"drain_s": 5, "max_event_loop_lag_s": 60, "workers": workers}
        file = folder / "sluice.yaml"
        file.write_text(yaml.safe_dump(text))
        count = GATEWAYS if workers == 1 else 1
        started = [await asyncio.to_thread(Process, file) for _ in range(count)]
        running = Stage(folder, redis, started)
        try:
            for one in started:
                await until_healthy(one.served, 2)
            yield running
        finally:
            await running.store.close()
            codes = [one.end() for one in running.gateways]
        assert codes == [0] * len(codes)
        said = "".join("".join(one.lines) for one in running.gateways)
        assert "Traceback" not in said, said


BAD = {
    "errors": "status=500",
    "aborts": "abort-after=2",
    "truncations": "cut-after=2",
    "slow": f"delay-first={SLOW_S * 2}",
}


async def test_a_canary_that_turns_bad_is_sent_back(folder: Path, capsys: Any) -> None:
    """At each step, whatever is wrong with it; few clients have touched it by then."""
    cases = [(step, "errors") for step in range(3)] + [(1, what) for what in list(BAD)[1:]]
    async with stage(folder) as one, one.crowd.asking():
        for step, what in cases:
            name = f"{what}-{step}"
            one.crowd.fault = None
            one.begin(name)
            await one.reaches(name, phase="progressing", step=step)
            asked, one.crowd.harmed = one.crowd.asked, Counter()
            began, one.crowd.fault = time.monotonic(), BAD[what]
            state = await one.reaches(name)
            assert state["phase"] == "rolled_back", state
            verdict = (await one.events(name, "rolled_back"))[-1]
            await one.untouched(name)
            touched, took_s = one.crowd.harmed.total(), one.crowd.harmed_at - began
            with capsys.disabled():
                print(  # noqa: T201  the figure that is to be reported
                    f"\n{what} at {STEPS[step]['weight']} %: {touched} of "
                    f"{one.crowd.asked - asked} requests were harmed, within {took_s:.1f} s; "
                    f"{verdict['requests']} had finished at the verdict: {verdict['words']}"
                )
            assert verdict["readings"]
            assert touched
            assert took_s <= BOUND_S


@pytest.mark.parametrize("workers", [1, 4])
async def test_a_good_canary_goes_through_also_when_its_leader_dies(
    folder: Path, workers: int
) -> None:
    """Another process goes on where the first was; only what it was answering is lost with it."""
    async with stage(folder, workers=workers) as one, one.crowd.asking():
        one.begin("good")
        state = await one.reaches("good", phase="progressing", step=1)
        assert state["phase"] == "progressing", state
        # An event whose leader dies before it has written it is not written.
        await one.events("good", "stepped")
        pid = one.leader()
        dead = [each for each in one.gateways if each.child.pid == pid]
        for each in dead:
            one.gateways.remove(each)
        os.kill(pid, signal.SIGKILL)
        for each in dead:
            assert await asyncio.to_thread(each.end) == -signal.SIGKILL
        state = await one.reaches("good")
        assert state["phase"] == "succeeded", state
        kinds = [each["kind"] for each in await one.events("good", "succeeded")]
        assert kinds == ["started", "stepped", "stepped", "succeeded"]
        # A worker's clients cannot be told from the others: each may have had one answer under way.
        assert one.crowd.harmed.total() <= (CLIENTS if workers > 1 else 0)
        assert one.leader() != pid
        if workers > 1:  # The end of a worker that only begins is the gateway's exit code.
            (gateway,) = one.gateways

            async def complete() -> bool:
                return (await Metrics.of(gateway.served)).total("sluice_workers") == workers

            await until(complete, PATIENCE_S)

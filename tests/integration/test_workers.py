"""Several real processes on one port: from outside they are one gateway, whatever ends one of them.

The processes are the ones that `sluice serve` starts; the engine is simulated.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.process import PATIENCE_S, ROOT, Served, sim, sluice, until

pytestmark = pytest.mark.integration

WORKERS = 4
CHAT = {"model": "sim", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
STREAM = {**CHAT, "stream": True, "max_tokens": 500}
"""Ten seconds: it is still under way when a busy machine has come to look at it."""
POLICY = {
    "name": "next",
    "match": {"models": ["rolled"]},
    "rollout": {
        "baseline": {"cluster": "c"},
        "canary": {"cluster": "d"},
        "steps": [{"weight": 50, "hold_s": 600}],
    },
}


def client() -> httpx.Client:
    """A client; without certificates to load, which would take longer than the request."""
    return httpx.Client(trust_env=False, verify=False, timeout=PATIENCE_S)


@dataclass
class Gateway:
    """Workers under one parent, and how to look at them."""

    served: Served
    admin: str
    log: Path

    @property
    def url(self) -> str:
        return self.served.url

    def ask(self, model: str = "sim", session: str = "") -> httpx.Response:
        """Ask once, on a connection of its own: the kernel chooses a worker for each."""
        with client() as http:
            return http.post(
                f"{self.url}/v1/chat/completions",
                json={**CHAT, "model": model},
                headers={"x-session-id": session} if session else {},
            )

    def metric(self, pattern: str) -> float:
        """Return the sum of the samples that begin so, as whoever answers tells it."""
        with client() as http:
            answer = http.get(f"{self.url}/metrics").raise_for_status()
        found = re.findall(rf"^{pattern}(?:{{.*}})? (\S+)$", answer.text, re.MULTILINE)
        return sum(map(float, found))

    def steer(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the admin API; again while a worker is too busy to answer within its second."""
        answers: list[httpx.Response] = []

        def heard() -> bool:
            with client() as http:
                answers.append(http.request(method, f"{self.admin}{path}", json=body))
            return answers[-1].status_code != 503

        until(heard, f"every worker has answered {method} {path}")
        answers[-1].raise_for_status()
        return answers[-1].json()

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.steer("GET", "/admin/workers")["workers"]
        return found

    def parts(self, endpoint: str) -> dict[int, dict[str, Any]]:
        """Return what each worker that answers in time says of an endpoint."""
        shown = self.steer("GET", f"/admin/endpoints/{endpoint}")
        return {one["worker"]: one for one in shown["workers"]}

    def all_parts(self, endpoint: str, workers: int) -> dict[int, dict[str, Any]]:
        """Return what each worker says of an endpoint, when all have answered in time."""
        found: dict[int, dict[str, Any]] = {}

        def complete() -> bool:
            nonlocal found
            found = self.parts(endpoint)
            return len(found) == workers

        until(complete, "all workers have said how they see it")
        return found

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def kill(self, number: int) -> None:
        """Kill a worker and wait until another process has its place."""
        before = self.workers()[number]
        os.kill(before["pid"], signal.SIGKILL)

        def replaced() -> bool:
            now = self.workers()[number]
            return bool(now["state"] == "up" and now["pid"] != before["pid"])

        until(replaced, f"worker {number} is up again")


def configure(folder: Path, engine: str, workers: int) -> Path:
    policy = folder / "policy.yaml"
    policy.write_text(yaml.safe_dump(POLICY))
    file = folder / "sluice.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "server": {
                    "host": "127.0.0.1",
                    "workers": workers,
                    "max_event_loop_lag_s": 60,  # A busy machine is not what is tested.
                    "drain_delay_s": 0,
                    "admin": {"port": 0},
                },
                "clusters": {
                    "c": {
                        "endpoints": [{"url": engine, "max_inflight": 66}],
                        "registration": True,
                    },
                    "d": {"endpoints": [{"url": engine}]},
                },
                "models": {
                    "sim": {"cluster": "c"},
                    "rolled": {"cluster": "c", "upstream_model": "sim"},
                },
                "logging": {"access": str(folder / "access.log")},
                "policies": [str(policy)],
            }
        )
    )
    return file


def admin_of(served: Served) -> str:
    found = re.search(r"admin API on (\S+)", "".join(served.lines))
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def engine() -> Iterator[Served]:
    with sim("--inter-token-latency", "20ms") as served:
        yield served


@pytest.fixture(scope="module")
def gateway(engine: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("workers")
    with sluice("-c", configure(folder, engine.url, WORKERS), model="sim") as served:
        yield Gateway(served, admin_of(served), folder / "access.log")


def test_requests_are_spread_and_counted_exactly(gateway: Gateway, engine: Served) -> None:
    """Whichever worker is asked, `/metrics` has all 200 requests, and its limits add up."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: gateway.ask(), range(200)))
    assert [one.status_code for one in answers] == [200] * 200
    total = r"sluice_requests_total\{model=\"sim\",outcome=\"success\",route=\"chat\"\}"
    until(lambda: gateway.metric(total) == 200, "all are counted")
    assert {gateway.metric(total) for _ in range(20)} == {200}
    until(lambda: gateway.metric("sluice_workers") == WORKERS, "all workers take requests")
    until(lambda: gateway.metric("sluice_workers_missing") == 0, "all workers answer")
    until(lambda: len(gateway.lines()) == 200, "all are logged")
    assert len({line["worker"] for line in gateway.lines()}) > 1
    name = engine.url.removeprefix("http://")
    gateway.all_parts(f"{name}?cluster=c", WORKERS)

    def added_up() -> bool:
        (shown,) = [
            one
            for one in gateway.steer("GET", "/admin/endpoints")["endpoints"]
            if one["cluster"] == "c"
        ]
        assert shown["max_inflight"] <= 66
        return bool((shown["max_inflight"], shown["inflight"]) == (66, 0))

    until(added_up, "the limits of all workers are 66")


def test_a_rollout_divides_alike_in_every_worker(gateway: Gateway) -> None:
    """A session that one worker sends to the canary is sent there by all of them, until
    somebody aborts the rollout: whichever worker hears of it, all do."""

    def arms(session: str, times: int) -> list[tuple[int, str]]:
        before = len(gateway.lines())
        for _ in range(times):
            assert gateway.ask("rolled", session).status_code == 200
        until(lambda: len(gateway.lines()) == before + times, "they are logged")
        return [(line["worker"], line["arm"]) for line in gateway.lines()[before:]]

    found: list[str] = []

    def begun() -> bool:
        sessions = [f"session-{number}" for number in range(8)]
        found[:] = [one for one in sessions if arms(one, 1)[0][1] == "canary"]
        return bool(found)

    until(begun, "the rollout has begun")

    def known(arm: str) -> None:
        """Wait until every worker has sent the session there; it is heard within a look: 0.5 s."""
        latest: dict[int, str] = {}

        def everywhere() -> bool:
            latest.update(arms(found[0], 12))
            return len(latest) == WORKERS and set(latest.values()) == {arm}

        until(everywhere, f"all know of the {arm}")

    known("canary")
    seen = arms(found[0], 40)
    assert {arm for _, arm in seen} == {"canary"}
    assert len({worker for worker, _ in seen}) > 1
    gateway.steer("POST", "/admin/rollouts/next/abort")
    known("baseline")
    seen = arms(found[0], 40)
    assert {arm for _, arm in seen} == {"baseline"}
    assert len({worker for worker, _ in seen}) > 1


def test_a_killed_worker_is_replaced_and_takes_nothing_with_it(
    gateway: Gateway, engine: Served
) -> None:
    """Others' streams go on, the port goes on, counters do not fall, and what operators said
    holds in the new process: a drain, and a registration."""
    name = engine.url.removeprefix("http://")
    gateway.steer("POST", "/admin/endpoints", {"cluster": "c", "url": "http://127.0.0.1:9"})
    gateway.steer("POST", "/admin/endpoints/127.0.0.1:9/drain")
    gateway.steer("POST", f"/admin/endpoints/{name}/drain?cluster=d")
    before = gateway.metric("sluice_requests_total")
    with ThreadPoolExecutor(16) as pool:
        streams = [pool.submit(stream, gateway.url) for _ in range(16)]
        under_way = f"{name}?cluster=c"
        until(
            lambda: sum(one["inflight"] for one in gateway.parts(under_way).values()) == 16,
            "all streams run",
        )
        parts = gateway.all_parts(under_way, WORKERS)
        victim = max(parts, key=lambda number: int(parts[number]["inflight"]))
        gateway.kill(victim)
        assert [gateway.ask().status_code for _ in range(20)] == [200] * 20
        whole = sum(one.result().endswith("data: [DONE]\n\n") for one in streams)
    assert whole == 16 - parts[victim]["inflight"] > 0
    until(lambda: gateway.metric("sluice_requests_total") >= before + 20 + whole, "all are counted")
    until(lambda: gateway.metric("sluice_worker_restarts_total") == 1, "the restart is counted")
    for endpoint in ("127.0.0.1:9", f"{name}?cluster=d"):
        states = {
            number: one["state"] for number, one in gateway.all_parts(endpoint, WORKERS).items()
        }
        assert states[victim] in {"draining", "unknown"}, endpoint  # Probed a moment later.
    until(
        lambda: gateway.all_parts(f"{name}?cluster=d", WORKERS)[victim]["state"] == "draining",
        "drained",
    )
    gateway.steer("POST", f"/admin/endpoints/{name}/undrain?cluster=d")
    after = gateway.all_parts(f"{name}?cluster=d", WORKERS)
    assert "draining" not in {one["state"] for one in after.values()}


def test_a_reload_reaches_every_worker(gateway: Gateway) -> None:
    """The answer has each worker's result, and all have the same generation afterwards."""
    file = gateway.log.with_name("sluice.yaml")
    wanted = yaml.safe_load(file.read_text())
    wanted["models"]["other"] = {"cluster": "c", "upstream_model": "sim"}
    file.write_text(yaml.safe_dump(wanted))
    gateway.steer("POST", "/admin/reload")

    def alike() -> bool:  # The files are watched as well; each worker looks at its own time.
        config = gateway.steer("GET", "/admin/config")
        assert len(config["workers"]) == WORKERS
        return {one["generation"] for one in config["workers"]} == {config["generation"]}

    until(alike, "all workers have the same generation")
    assert [gateway.ask("other").status_code for _ in range(20)] == [200] * 20
    file.write_text("clusters: 1")
    with client() as http:
        answer = http.post(f"{gateway.admin}/admin/reload")
    assert (answer.status_code, "clusters" in answer.text) == (400, True)


def stream(url: str) -> str:
    """Return what came of a stream, up to wherever it broke off."""
    got = ""
    with client() as http:
        try:
            with http.stream("POST", f"{url}/v1/chat/completions", json=STREAM) as answer:
                for text in answer.iter_text():
                    got += text
        except httpx.HTTPError:
            pass
    return got


def test_sigterm_lets_every_stream_finish(engine: Served, tmp_path: Path) -> None:
    """The parent passes it on, ends with 0 when the last worker has, and leaves nothing."""
    with sluice("-c", configure(tmp_path, engine.url, 2), model="sim") as served:
        gateway = Gateway(served, admin_of(served), tmp_path / "access.log")
        pids = [one["pid"] for one in gateway.workers()]
        folder = private_folder(pids[0])
        assert folder.stat().st_mode & 0o777 == 0o700
        with ThreadPoolExecutor(12) as pool:
            streams = [pool.submit(stream, served.url) for _ in range(12)]
            name = f"{engine.url.removeprefix('http://')}?cluster=c"
            until(
                lambda: sum(one["inflight"] for one in gateway.parts(name).values()) == 12,
                "all streams run",
            )
            os.kill(served.pid, signal.SIGTERM)
            assert all(one.result().endswith("data: [DONE]\n\n") for one in streams)
        until(lambda: not any(map(alive, [*pids, served.pid])), "all have ended")
        assert not folder.exists()


def test_workers_leave_when_their_parent_is_killed(engine: Served, tmp_path: Path) -> None:
    """Nothing stays behind on the port."""
    file = configure(tmp_path, engine.url, 2)
    argv = [sys.executable, "-m", "gateway", "serve", "-c", str(file), "--port", "0"]
    # Its folder stays behind when it is killed: not among those of the machine.
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(argv, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stderr is not None
        lines: list[str] = []
        for line in parent.stderr:
            lines.append(line)
            if "listening on" in line:
                break
        served = Served("", parent.pid, lines)
        gateway = Gateway(served, admin_of(served), tmp_path / "access.log")
        pids = [one["pid"] for one in gateway.workers()]
        parent.kill()
        until(lambda: not any(map(alive, pids)), "the workers have ended")


def test_what_no_worker_can_use_ends_the_parent(tmp_path: Path) -> None:
    """A start that fails in every worker is not tried for ever; the exit code is theirs."""
    file = configure(tmp_path, "http://127.0.0.1:9", 2)
    wanted = yaml.safe_load(file.read_text())
    wanted["logging"] = {"access": str(tmp_path / "missing" / "access.log")}
    file.write_text(yaml.safe_dump(wanted))
    argv = [sys.executable, "-m", "gateway", "serve", "-c", str(file), "--port", "0"]
    done = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "missing" in done.stderr
    assert "Traceback" not in done.stderr


def private_folder(pid: int) -> Path:
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    (seat,) = [one for one in environment if one.startswith(b"SLUICE_WORKER=")]
    return Path(json.loads(seat.partition(b"=")[2])["folder"])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

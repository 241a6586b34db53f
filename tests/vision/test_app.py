"""The service as a whole, in this process: it starts, serves the shipped model, and ends."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from vision.app import SHIPPED, Address, Settings, bind, run
from vision.errors import OperatorError
from vision.lane import LaneObserver
from vision.model import Model, OffLoop, load
from vision.repository import Control, RepositorySettings
from vision.versions import Found


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository of one model, so that it is loaded quickly."""
    shutil.copytree(SHIPPED / "digits", tmp_path / "digits")
    return tmp_path


@asynccontextmanager
async def serving(
    settings: Settings, at_once: Callable[[int], None] = lambda number: None
) -> AsyncIterator[tuple[Address, httpx.AsyncClient]]:
    """Run the service; the block's end is a SIGTERM."""
    ready: asyncio.Future[Address] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        ended = group.create_task(run(settings, ready.set_result, at_once))
        async with asyncio.timeout(30):
            address = await ready
            base = f"http://{address.host}:{address.port}"
            async with httpx.AsyncClient(base_url=base, trust_env=False) as client:
                yield address, client
            os.kill(os.getpid(), signal.SIGTERM)
            await ended


async def test_it_serves_until_sigterm(repository: Path) -> None:
    settings = Settings(folder=repository, port=0, grpc_port=0, access_log=True, device="cpu")
    async with serving(settings) as (address, client):
        assert address.grpc_port
        assert (await client.get("/health")).json()["models_loaded"] == 1
        answer = await client.post(
            "/v1/predict", json={"model": "digits", "inputs": {"image": [[[0.5] * 8] * 8]}}
        )
        assert len(answer.json()["predictions"]) == 3
        page = (await client.get("/metrics")).text
        assert 'sluice_vision_model_events_total{event="loaded",model="digits"} 1.0' in page
    with socket.socket() as probe:
        assert probe.connect_ex((address.host, address.port)) != 0


async def test_while_it_leaves_it_serves_and_says_so(repository: Path) -> None:
    settings = Settings(folder=repository, port=0, drain_delay_s=0.3)
    async with serving(settings) as (_, client):
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            while (await client.get("/health")).status_code != 503:
                pass
        assert (await client.get("/v1/models")).json()["data"]


async def test_a_second_signal_ends_it_at_once(repository: Path) -> None:
    settings = Settings(folder=repository, port=0, drain_delay_s=0.3)
    heard: list[int] = []
    async with serving(settings, heard.append) as (_, client):
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(10):
            while (await client.get("/health")).status_code != 503:
                pass
        assert not heard
    assert heard == [signal.SIGTERM]


async def test_what_is_being_loaded_is_not_waited_for(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def held(name: str, found: Found, observer: LaneObserver, off_loop: OffLoop) -> Model:
        begun.set()
        await go_on.wait()
        return await load(name, found, observer, off_loop)

    heard: list[int] = []

    def at_once(number: int) -> None:
        heard.append(number)
        go_on.set()  # A process would have ended here.

    monkeypatch.setattr("vision.app.load", held)
    settings = Settings(folder=repository, port=0)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(run(settings, lambda _: None, at_once))
        await begun.wait()  # It listens to signals before its first load begins.
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_it_ends_by_a_signal_though_a_thread_goes_on() -> None:
    program = (
        "import signal, threading, vision.app\n"
        "threading.Thread(target=threading.Event().wait).start()\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "vision.app.end_by(signal.SIGTERM)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert ended.returncode == -signal.SIGTERM


async def test_explicit_control_begins_with_what_is_named(repository: Path) -> None:
    explicit = RepositorySettings(Control.EXPLICIT)
    async with serving(Settings(folder=repository, port=0, repository=explicit)) as (_, client):
        assert (await client.get("/v1/models")).json()["data"] == []
        assert (await client.post("/v2/repository/models/digits/load")).status_code == 200
        assert (await client.get("/v2/models/digits/ready")).status_code == 200


async def test_a_port_that_is_taken_is_named() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"Cannot listen on 127\.0\.0\.1:{port}"):
            await run(Settings(port=port), lambda _: None)
        with pytest.raises(OSError, match=rf"Cannot listen on 127\.0\.0\.1:{port} for gRPC"):
            await run(Settings(port=0, grpc_port=port), lambda _: None)


async def test_a_repository_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="nowhere"):
        await run(Settings(folder=tmp_path / "nowhere", port=0), lambda _: None)

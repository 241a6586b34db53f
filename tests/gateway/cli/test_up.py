"""Engines and a gateway come up and go down together: simulated engines, a stand-in gateway."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import shlex
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from engines.launch import Launch
from engines.locate import VllmMissing, free_port
from engines.spec import SpecError
from gateway.cli import up as module
from gateway.cli.announce import SEVEN, curl_line, predict_line
from gateway.cli.up import Behind, UpOptions, plan_launches, plan_vision, up

OPTIONS = UpOptions(engine="sim", model="demo", replicas=2, vision=False)


@dataclass
class Gateway:
    """Answers every request with 200 until it is told to end; remembers what it was given."""

    urls: tuple[str, ...] = ()
    vision: tuple[str, ...] = ()
    told: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, behind: Behind, host: str, port: int) -> None:
        self.urls, self.vision = behind.engines, behind.vision
        server = await asyncio.start_server(self._answer, host, port)
        async with server:
            await self.told.wait()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"data": [{"id": "demo"}, {"id": "digits", "kind": "vision"}]}'
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(screen: io.StringIO) -> Console:
    return Console(file=screen, width=200)


@pytest.fixture
def options() -> UpOptions:
    return replace(OPTIONS, port=free_port("127.0.0.1"))


async def answers(url: str) -> bool:
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            return (await client.get(f"{url}/health")).status_code == 200
        except httpx.HTTPError:
            return False


async def announced(screen: io.StringIO, words: str) -> None:
    async with asyncio.timeout(30):
        while words not in screen.getvalue():  # noqa: ASYNC110  the screen has no event
            await asyncio.sleep(0.02)


async def test_it_serves_until_the_gateway_has_ended(options, console, screen):
    """Both engines answer, an address and a curl line are shown, and after it nothing is left."""
    gateway = Gateway()
    async with asyncio.TaskGroup() as group:
        code = group.create_task(up(options, gateway, console))
        await announced(screen, "Ctrl-C stops everything")
        assert [await answers(url) for url in gateway.urls] == [True, True]
        os.kill(os.getpid(), signal.SIGINT)  # As at the terminal: the gateway hears it as well,
        gateway.told.set()
        os.kill(os.getpid(), signal.SIGINT)  # and uvicorn repeats it when it ends.

    assert code.result() == 0
    assert [await answers(url) for url in gateway.urls] == [False, False]
    assert f"Sluice is ready at http://127.0.0.1:{options.port}" in screen.getvalue()
    assert curl_line(f"http://127.0.0.1:{options.port}", "demo") in screen.getvalue()


async def test_a_dead_engine_stops_everything(options, console, screen, monkeypatch):
    """The reason is on the console, the exit code is 1, the other engine is gone."""
    gateway = Gateway()
    monkeypatch.setattr(module, "plan_launches", plan(healthy, doomed))
    async with asyncio.TaskGroup() as group:
        code = group.create_task(up(options, gateway, console))
        await announced(screen, "Ctrl-C stops everything")
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post(gateway.urls[1])

    assert code.result() == 1
    assert "engine-1 ended (exit code 3): StrangeError: the moon is wrong" in screen.getvalue()
    assert not await answers(gateway.urls[0])


async def test_an_engine_that_does_not_start_ends_the_others(options, console, screen, monkeypatch):
    """The gateway never runs; the first reason is given once."""
    monkeypatch.setattr(module, "plan_launches", plan(healthy, unable))

    assert await up(options, never, console) == 1
    assert (
        "Stopped: engine-1 did not start: its port is in use by another process (exit code 1)"
    ) in screen.getvalue()


async def test_a_signal_before_the_engines_are_ready_is_130(options, console, screen, monkeypatch):
    """Ctrl-C while a model loads ends the engine, and the shell sees an interruption."""
    monkeypatch.setattr(module, "plan_launches", plan(endless))
    async with asyncio.TaskGroup() as group:
        code = group.create_task(up(options, never, console))
        await announced(screen, "engine-0 | loading")
        os.kill(os.getpid(), signal.SIGTERM)

    assert code.result() == 130
    pid = int(screen.getvalue().split("loading ")[1].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_enough_signals_wait_for_nobody(options, console, screen, monkeypatch):
    """A gateway that will not end and an engine that is deaf are gone after some more Ctrl-C."""
    monkeypatch.setattr(module, "plan_launches", plan(deaf))
    gateway = Gateway()
    async with asyncio.TaskGroup() as group:
        code = group.create_task(up(options, gateway, console))
        await announced(screen, "Ctrl-C stops everything")
        while not code.done():
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.wait([code], timeout=0.2)

    assert code.result() == 130
    assert not await answers(gateway.urls[0])


async def test_a_signal_after_the_gateway_ended_kills(options, console, screen, monkeypatch):
    """A deaf engine has its grace of 15 s, unless the user says once more that he means it."""
    monkeypatch.setattr(module, "plan_launches", plan(deaf))

    async def brief(behind: Behind, host: str, port: int) -> None:
        """Puts its own handlers up and takes them down, which leaves none."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, lambda: None)
            loop.remove_signal_handler(number)

    async with asyncio.TaskGroup() as group:
        code = group.create_task(up(options, brief, console))
        await announced(screen, "engine-0 | deaf")
        os.kill(os.getpid(), signal.SIGTERM)

    assert code.result() == 130
    assert "killed" not in screen.getvalue()  # What it says when 15 s have passed.


async def test_a_port_that_is_taken_is_a_sentence(options, console, screen):
    """The gateway's OSError becomes a reason and exit code 1, without a traceback."""

    async def taken(behind: Behind, host: str, port: int) -> None:
        raise OSError(98, "Address already in use")

    assert await up(options, taken, console) == 1
    assert "the gateway cannot listen: [Errno 98] Address already in use" in screen.getvalue()


async def test_port_0_is_any_free_port(console):
    """The gateway is given a port that it can announce."""
    ports: list[int] = []

    async def note(behind: Behind, host: str, port: int) -> None:
        ports.append(port)

    assert await up(replace(OPTIONS, port=0), note, console) == 0
    assert ports[0] > 0


async def test_a_missing_vllm_is_a_sentence(console, screen, monkeypatch):
    """--engine vllm without vLLM says how to get it."""
    monkeypatch.setenv("SLUICE_VLLM", "/no/vllm")

    assert await up(UpOptions(engine="vllm", model="m"), never, console) == 1
    assert "cannot start vllm: SLUICE_VLLM is /no/vllm, which is not a command" in screen.getvalue()


def test_a_local_model_is_served_under_its_folders_name(tmp_path):
    """Clients need not know where the operator keeps his models."""
    (tmp_path / "my-model").mkdir()
    env = {"SLUICE_VLLM": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    options = UpOptions(engine="vllm", model=str(tmp_path / "my-model"), replicas=2)
    first, second = plan_launches(options, env)

    assert first.argv[first.argv.index("--served-model-name") + 1] == "my-model"
    assert first.argv[2] == str(tmp_path / "my-model")
    assert (first.name, second.name) == ("vllm-0", "vllm-1")
    assert first.url != second.url


def test_a_folder_that_is_not_there_is_refused_at_once(tmp_path):
    """vLLM would take it for a Hub id, and say so after ten seconds in a hundred lines."""
    options = UpOptions(engine="vllm", model=str(tmp_path / "typo"))
    with pytest.raises(SpecError, match=f"model: there is no folder {tmp_path}/typo"):
        plan_launches(options, {"SLUICE_VLLM": sys.executable})


def test_replicas_of_vllm_share_the_devices():
    """Two engines on one device claim half of its memory each."""
    env = {"SLUICE_VLLM": sys.executable, "CUDA_VISIBLE_DEVICES": "7"}
    launches = plan_launches(UpOptions(engine="vllm", model="org/m", replicas=2), env)

    for launch in launches:
        assert launch.env["CUDA_VISIBLE_DEVICES"] == "7"
        assert launch.argv[launch.argv.index("--gpu-memory-utilization") + 1] == "0.45"


def test_no_vllm_is_an_error_before_anything_starts():
    """The plan itself fails."""
    with pytest.raises(VllmMissing):
        plan_launches(UpOptions(engine="vllm", model="m"), {"SLUICE_VLLM": "/no/vllm"})


async def test_the_vision_service_is_one_of_them(options, console, screen, monkeypatch):
    """It starts with the engines, has a line to paste, and everything ends when it dies."""
    monkeypatch.setattr(module, "plan_launches", plan(healthy))
    monkeypatch.setattr(module, "plan_vision", plan(doomed))
    gateway = Gateway()
    async with asyncio.TaskGroup() as group:
        code = group.create_task(up(options, gateway, console))
        await announced(screen, "Ctrl-C stops everything")
        assert (len(gateway.urls), len(gateway.vision)) == (1, 1)
        assert f"vision {gateway.vision[0]}" in screen.getvalue()
        base = f"http://127.0.0.1:{options.port}"
        assert predict_line(base, "digits") in screen.getvalue()
        async with httpx.AsyncClient(trust_env=False) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post(gateway.vision[0])

    assert code.result() == 1
    assert "engine-0 ended (exit code 3): StrangeError: the moon is wrong" in screen.getvalue()
    assert not await answers(gateway.urls[0])


def test_the_vision_service_runs_on_the_shipped_models(console, tmp_path):
    """Or on those of a folder that the operator names."""
    (found,) = plan_vision(replace(OPTIONS, vision=None), {"A": "b"}, console)
    assert found.argv[1:4] == ("-m", "vision", "serve")
    repository = Path(found.argv[found.argv.index("--repository") + 1])
    assert (repository / "digits" / "config.yaml").is_file()
    assert found.env["A"] == "b"

    (found,) = plan_vision(replace(OPTIONS, vision=None, models=tmp_path), {}, console)
    assert str(tmp_path) in found.argv
    with pytest.raises(SpecError, match=f"models: there is no folder {tmp_path}/no"):
        plan_vision(replace(OPTIONS, vision=True, models=tmp_path / "no"), {}, console)


def test_without_its_libraries_a_line_says_what_to_install(console, screen, monkeypatch):
    """Unless it was asked for: then that is why nothing starts."""
    monkeypatch.setattr(module.vision, "missing", lambda: ["onnxruntime"])

    assert plan_vision(replace(OPTIONS, vision=None), {}, console) == []
    said = "No vision service: onnxruntime not installed; to look at images, too: pip install 'sl"
    assert said in screen.getvalue()
    with pytest.raises(SpecError, match="onnxruntime not installed"):
        plan_vision(replace(OPTIONS, vision=True), {}, console)
    assert plan_vision(OPTIONS, {}, console) == []


async def test_a_vision_service_that_cannot_be_is_a_sentence(console, screen, tmp_path):
    """Where it was asked for, nothing starts without it."""
    assert await up(replace(OPTIONS, vision=True, models=tmp_path / "no"), never, console) == 1
    said = f"Stopped: cannot start the vision service: models: there is no folder {tmp_path}/no"
    assert said in screen.getvalue()


@pytest.mark.parametrize("model", ["demo", 'a"b', "it's", "back\\slash"])
@pytest.mark.parametrize("line", [curl_line, predict_line])
def test_the_curl_lines_survive_a_shell(model, line):
    """Whatever the model is called, the shell hands curl valid JSON with that name."""
    words = shlex.split(line("http://127.0.0.1:8000", model))

    assert words[0] == "curl"
    assert httpx.Response(200, content=words[-1]).json()["model"] == model


def test_the_digit_is_one_that_the_model_has_not_seen():
    """Its pixels are those of a seven in the data that was held out."""
    with np.load("tests/data/digits-held-out.npz") as data:
        images, labels = data["images"], data["labels"]
    image = Image.open(io.BytesIO(base64.b64decode(SEVEN.partition(",")[2])))
    (place,) = np.flatnonzero((images == np.asarray(image)).all(axis=(1, 2)))
    assert (labels[place], image.size) == (7, (8, 8))


async def never(behind: Behind, host: str, port: int) -> None:
    raise AssertionError("the gateway must not run")


SERVER = """
import http.server, json, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        print("StrangeError: the moon is wrong", flush=True)
        os._exit(3)
    def log_message(self, *args):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(json.dumps({"host": "127.0.0.1", "port": server.server_port}), flush=True)
"""
healthy = SERVER + "server.serve_forever()"
doomed = healthy
deaf = (
    SERVER
    + "signal.signal(signal.SIGTERM, lambda *_: print('deaf', flush=True))\n"
    + "server.serve_forever()"
)
unable = "import sys; sys.exit('OSError: [Errno 98] Address already in use')"
endless = "import os, signal; print('loading', os.getpid(), flush=True); signal.pause()"


def plan(*programs: str) -> Callable[..., list[Launch]]:
    """Launches of these programs in place of real engines."""
    launches = [
        Launch(f"engine-{index}", (sys.executable, "-c", program), dict(os.environ))
        for index, program in enumerate(programs)
    ]
    return lambda options, env, *_: launches

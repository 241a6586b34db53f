"""Supervision of real processes: small Python programs on ports of their own choice."""

import asyncio
import io
import os
import signal
import sys
import textwrap

import pytest
from rich.console import Console

from engines.launch import Launch
from engines.supervisor import EngineFailed, Patience, Supervisor

QUICK = Patience(ready_s=20.0, poll_s=0.02, grace_s=10.0)

READY = """
import http.server, json, os, signal, subprocess, sys

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
    def log_message(self, *args):
        pass

def serve():
    server = http.server.HTTPServer(("127.0.0.1", 0), Health)
    print(json.dumps({"host": "127.0.0.1", "port": server.server_port}), flush=True)
    server.serve_forever()
"""


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def console(screen: io.StringIO) -> Console:
    return Console(file=screen, width=200)


def program(name: str, code: str) -> Launch:
    source = READY + textwrap.dedent(code)
    return Launch(name, (sys.executable, "-c", source), dict(os.environ))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_an_engine_is_ready_when_it_answers_and_gone_after_the_block(console, screen):
    """The address comes from the ready line, which is not shown; leaving the block ends it."""
    async with Supervisor(console, QUICK) as fleet:
        looks: list[float] = []
        engine = await fleet.start(program("one", "print('hello'); serve()"), looks.append)
        assert engine.url.startswith("http://127.0.0.1:")
        assert alive(engine.pid)
        assert looks == sorted(looks)
        assert looks

    assert not alive(engine.pid)
    assert screen.getvalue() == "one | hello\n"


async def test_an_early_death_is_explained(console):
    """The reason is read from what the program said, and its status is named."""
    code = "sys.exit('OSError: [Errno 98] Address already in use')"
    async with Supervisor(console, QUICK) as fleet:
        with pytest.raises(EngineFailed) as failure:
            await fleet.start(program("two", code))

    assert str(failure.value) == (
        "two did not start: its port is in use by another process (exit code 1)"
    )
    assert failure.value.last_lines == ("OSError: [Errno 98] Address already in use",)


async def test_a_missing_command_is_named(console):
    """A program that is not there is a plain sentence, not a traceback."""
    async with Supervisor(console, QUICK) as fleet:
        with pytest.raises(EngineFailed, match="cannot run /no/such/vllm: No such file"):
            await fleet.start(Launch("three", ("/no/such/vllm",), {}))


async def test_an_engine_that_never_gets_ready_is_ended(console):
    """After `ready_s` the process is stopped, and the message says how long it had."""
    impatient = Patience(ready_s=0.3, poll_s=0.02, grace_s=10.0)
    launch = program("four", "print(os.getpid(), flush=True); signal.pause()")
    async with Supervisor(console, impatient) as fleet:
        with pytest.raises(EngineFailed, match=r"was not ready after 0\.3 s") as failure:
            await fleet.start(launch)
        # An interpreter that had not yet come to its first line said nothing.
        assert not any(alive(int(line)) for line in failure.value.last_lines)


async def test_a_later_death_is_reported(console):
    """An engine that was ready and is killed shows up in first_death, with the signal's name."""
    async with Supervisor(console, QUICK) as fleet:
        engine = await fleet.start(program("five", "serve()"))
        os.kill(engine.pid, signal.SIGKILL)
        death = await fleet.first_death()

    assert str(death) == (
        "five ended (SIGKILL): something killed it (SIGKILL), most often the kernel when memory "
        "runs out"
    )


async def test_a_stop_is_no_death(console):
    """An engine that was told to stop is not reported as having died."""
    async with Supervisor(console, QUICK) as fleet:
        await fleet.start(program("six", "serve()"))
        await fleet.stop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fleet.first_death(), 0.05)


async def test_the_whole_family_is_ended(console, screen):
    """A grandchild that ignores SIGTERM and outlives its parent is killed too."""
    code = """
        stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " \\
            "print('deaf', flush=True); signal.pause()"
        child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
        child.stdout.readline()
        print("grandchild", child.pid, flush=True)
        serve()
    """
    hasty = Patience(ready_s=20.0, poll_s=0.02, grace_s=0.5)
    async with Supervisor(console, hasty) as fleet:
        engine = await fleet.start(program("seven", code))
        grandchild = int(screen.getvalue().split()[-1])
        assert alive(grandchild)

    assert not alive(engine.pid)
    await vanished(grandchild)
    assert "seven did not end within 0.5 s: killed" in screen.getvalue()


async def test_a_cancelled_block_leaves_nothing(console):
    """Cancelling the owner while an engine runs ends the engine before the cancellation goes on."""
    started: asyncio.Queue[int] = asyncio.Queue()

    async def owner() -> None:
        async with Supervisor(console, QUICK) as fleet:
            started.put_nowait((await fleet.start(program("eight", "serve()"))).pid)
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(owner())
        pid = await started.get()
        task.cancel()
        await asyncio.wait([task])

    assert not alive(pid)


async def test_an_impatient_second_cancellation_kills(console):
    """An engine that ignores SIGTERM is killed at once if the wait for it is cancelled."""
    code = "signal.signal(signal.SIGTERM, lambda *_: print('deaf', flush=True)); serve()"
    started: asyncio.Queue[int] = asyncio.Queue()
    patient = Patience(ready_s=20.0, poll_s=0.02, grace_s=3600.0)

    async def owner() -> None:
        async with Supervisor(console, patient) as fleet:
            started.put_nowait((await fleet.start(program("nine", code))).pid)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(owner())
        pid = await started.get()
        await asyncio.wait([task], timeout=0.2)
        assert alive(pid)
        task.cancel()
        await asyncio.wait([task])

    assert not alive(pid)


async def test_lines_of_several_engines_carry_their_names(console, screen):
    """Every line is prefixed; markup in it stays as it is; progress bars become lines."""
    async with Supervisor(console, QUICK) as fleet:
        await fleet.start(program("a", "print('[bold]x[/bold]'); sys.stdout.flush(); serve()"))
        await fleet.start(
            program("b", "sys.stderr.write('1%\\r2%\\n'); sys.stderr.flush(); serve()")
        )

    assert sorted(screen.getvalue().splitlines()) == ["a | [bold]x[/bold]", "b | 1%", "b | 2%"]


async def vanished(pid: int) -> None:
    """Return when a process that was killed has also been reaped by init."""
    async with asyncio.timeout(10):
        while alive(pid):  # noqa: ASYNC110  nothing announces what init does
            await asyncio.sleep(0.02)

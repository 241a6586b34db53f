"""A real vLLM dies under its requests: the gateway's clients are told, at once and honestly."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from engines.launch import Launch
from engines.supervisor import Engine
from tests.support.process import sluice
from tests.support.vllm import moved, running, session

pytestmark = pytest.mark.integration

# Under SIGTERM vLLM at times neither answers nor closes; then the gateway's timers end it.
CONFIG = """\
server: {{max_event_loop_lag_s: 60}}  # Engines on two cores keep the gateway itself waiting.
clusters:
  engines:
    endpoints: [{{url: "{url}"}}]
    timeouts: {{first_token_s: 30, idle_s: 10}}
models:
  tiny: {{cluster: engines}}
logging:
  access: off
"""
# What comes later than the gateway's timers has hung.
DEADLINE_S = 60.0
LONG = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Tell me about lambda."}],
    "max_tokens": 3000,
    "min_tokens": 3000,
    "n": 4,
    "seed": 1,
}


def terminate(engine: Engine) -> None:
    """SIGTERM to the server, as an operator's `kill` sends it."""
    os.kill(engine.pid, signal.SIGTERM)


def kill_core(engine: Engine) -> None:
    """SIGKILL to its engine core, as the kernel's out-of-memory killer sends it."""
    for pid in session(engine.pid) - {engine.pid}:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def mortals(vllm_launch: Launch) -> Iterator[Iterator[Engine]]:
    """An engine for each test to end."""
    with running(*[moved(vllm_launch, f"mortal-{number}") for number in range(2)]) as engines:
        yield iter(engines)


@pytest.mark.parametrize("die", [terminate, kill_core])
async def test_a_dying_engine_is_an_error_never_an_end(
    mortals: Iterator[Engine], tmp_path: Path, die: Callable[[Engine], None]
) -> None:
    """The stream gets an error frame and no [DONE]; the plain request 502, 503 or, silent, 504."""
    engine = next(mortals)
    file = tmp_path / "sluice.yaml"
    file.write_text(CONFIG.format(url=engine.url))
    with sluice("-c", file, model="tiny") as gateway:
        shown, answer = await asyncio.to_thread(ask_twice, gateway.url, lambda: die(engine))

    if "data: [DONE]" in shown:  # It was faster than its end; then it must be whole.
        assert sum('"finish_reason":"length"' in line for line in shown) == LONG["n"]
    else:
        assert '"error"' in [line for line in shown if line][-1]
    assert answer.status_code in {200, 502, 503, 504}
    if answer.status_code == 200:
        assert {one["finish_reason"] for one in answer.json()["choices"]} == {"length"}


def ask_twice(url: str, die: Callable[[], None]) -> tuple[list[str], httpx.Response]:
    """Ask for a plain answer and a stream; `die` when the stream has begun. Return both."""
    url = f"{url}/v1/chat/completions"
    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        httpx.Client(trust_env=False, timeout=DEADLINE_S) as http,
    ):
        plain = pool.submit(http.post, url, json=LONG)
        with http.stream("POST", url, json={**LONG, "stream": True}) as stream:
            assert stream.status_code == 200, stream.read()
            lines = stream.iter_lines()
            shown = [next(lines)]
            die()
            shown += lines
        return shown, plain.result(DEADLINE_S)

"""openai-node through the gateway, in front of a simulated engine."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.process import Served, sim, sluice, until

pytestmark = pytest.mark.integration

NODE = Path(__file__).parent / "node"
CONFIG = """\
server: {{host: 127.0.0.1, max_event_loop_lag_s: 60}}
clusters:
  engines: {{endpoints: [{{url: "{url}"}}]}}
models:
  sim: {{cluster: engines}}
logging:
  access: off
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Its engine makes 20 tokens a second, so that there is time to leave."""
    file = tmp_path_factory.mktemp("node") / "sluice.yaml"
    with sim("--inter-token-latency", "50ms", "--allow-fault-headers") as engine:
        file.write_text(CONFIG.format(url=engine.url))
        with sluice("-c", file, model="sim") as served:
            yield served


def run(gateway: Served, **more: object) -> dict[str, str]:
    """Run node/chat.mjs; return what it says."""
    settings = {"url": f"{gateway.url}/v1", "headers": {}, "tokens": 20, "leaveAfter": 0, **more}
    done = subprocess.run(
        ["node", "chat.mjs", json.dumps(settings)],
        cwd=NODE,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    said: dict[str, str] = json.loads(done.stdout)
    return said


def test_it_streams_a_chat(gateway: Served) -> None:
    """Text, finish reason, no error."""
    said = run(gateway)

    assert said["text"].startswith("Simulated answer")
    assert (said["finish"], said["error"]) == ("length", "")


def test_an_abort_in_mid_stream_frees_the_engine(gateway: Served) -> None:
    """`controller.abort()` ends the request at once, of 50 s that it would have taken."""
    said = run(gateway, tokens=1000, leaveAfter=3)

    assert said["finish"] == ""
    until(lambda: inflight(gateway) == 0, "nothing was in flight", deadline_s=25.0)


def test_an_error_event_throws(gateway: Served) -> None:
    """What the engine said is the error's message."""
    said = run(gateway, headers={"x-sim-fault": "error-after=3"})

    assert said["text"]
    assert said["error"]
    assert said["finish"] == ""


def inflight(gateway: Served) -> int:
    text = httpx.get(f"{gateway.url}/metrics", trust_env=False, timeout=30.0).text
    return int(sum(map(float, re.findall(r"^sluice_inflight\{.*\} (\S+)$", text, re.MULTILINE))))

"""An engine that fails in the middle of a stream: its clients get an error, never half an answer.

An error after the first token can only be an event in the stream. openai-python, LangChain and
openai-node all raise for it, and the AI SDK tells; what they must not see is an orderly end.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from langchain_openai import ChatOpenAI
from openai import APIError, OpenAI

from tests.support.process import Served, sim, sluice

pytestmark = pytest.mark.integration

NODE = Path(__file__).parent / "node"
TOKENS = 12
AFTER = 4
CUTS = (
    "cut-after",
    "half-after",
    "malformed-after",
    "reset-after",
    "bad-chunk-after",
    "error-after",
    "abort-after",
    "stall-after",
)
CONFIG = """\
server:
  host: 127.0.0.1
  max_event_loop_lag_s: 60
clusters:
  engines:
    endpoints: [{{url: "{url}"}}]
    timeouts: {{idle_s: 3}}
    resume: "off"  # What is to be seen is how a stream ends that cannot go on.
    breaker: {{failures: 1000}}
    outliers: {{failures: 1000, min_requests: 1000}}
models:
  sim: {{cluster: engines}}
logging:
  access: off
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway that waits 3 s for a silent engine, and an engine that fails on request."""
    file = tmp_path_factory.mktemp("cut") / "sluice.yaml"
    with ExitStack() as stack:
        # So slow that the gateway has shown what comes before a break: a break that it hears of
        # together with the first tokens is an answer that has not begun.
        slow = ("--inter-token-latency", "100ms")
        engine = stack.enter_context(sim("--allow-fault-headers", *slow))
        file.write_text(CONFIG.format(url=engine.url))
        yield stack.enter_context(sluice("-c", file, model="sim"))


def fault_header(fault: str) -> dict[str, str]:
    return {"x-sim-fault": fault if fault == "no-done" else f"{fault}={AFTER}"}


def test_the_answer_is_whole_without_a_fault(gateway: Served) -> None:
    """The yardstick: as many tokens as asked for."""
    text, error = with_openai_python(gateway, {})

    assert error == ""
    assert len(text.split()) >= TOKENS // 2


@pytest.mark.parametrize("fault", CUTS)
def test_the_stream_ends_with_an_error_and_without_done(gateway: Served, fault: str) -> None:
    """On the wire: whole events, the last of them an error, no [DONE]."""
    body = {"model": "sim", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    answer = httpx.post(
        f"{gateway.url}/v1/chat/completions",
        json={**body, "max_tokens": TOKENS},
        headers=fault_header(fault),
        timeout=30.0,
        trust_env=False,
    )

    events = answer.text.split("\n\n")
    assert events.pop() == ""
    assert "[DONE]" not in answer.text
    assert json.loads(events[-1].removeprefix("data: "))["error"]["type"] == "server_error"
    assert len(events) >= AFTER


@pytest.mark.parametrize("fault", CUTS)
def test_openai_python_raises(gateway: Served, fault: str) -> None:
    """The SDK gives what came before, then raises."""
    text, error = with_openai_python(gateway, fault_header(fault))

    assert text
    assert error


@pytest.mark.parametrize("fault", CUTS)
def test_langchain_raises(gateway: Served, fault: str) -> None:
    """ChatOpenAI.stream too."""
    model = ChatOpenAI(
        model="sim",
        base_url=f"{gateway.url}/v1",
        api_key="any",
        max_retries=0,
        max_tokens=TOKENS,
        default_headers=fault_header(fault),
    )
    pieces: list[str] = []
    with pytest.raises(APIError):
        pieces.extend(str(chunk.content) for chunk in model.stream("hi"))


@pytest.mark.parametrize("fault", CUTS)
def test_openai_node_raises(gateway: Served, fault: str) -> None:
    """The JavaScript SDK gives what came before, then throws."""
    said = with_node(gateway, fault_header(fault))

    assert said["text"]
    assert said["error"]


@pytest.mark.parametrize("fault", CUTS)
def test_the_ai_sdk_tells(gateway: Served, fault: str) -> None:
    """It throws nothing while it streams: an error is one of the parts, and the end's reason."""
    said = with_node(gateway, fault_header(fault), "ai.mjs")

    assert said["text"]
    assert said["error"]
    assert said["finish"] == "error"


def test_a_missing_end_mark_is_made_good(gateway: Served) -> None:
    """finish_reason was there, so that the answer is whole: the SDKs get all of it."""
    whole, _ = with_openai_python(gateway, {})
    text, error = with_openai_python(gateway, fault_header("no-done"))

    assert (text, error) == (whole, "")
    for script in ("chat.mjs", "ai.mjs"):
        said = with_node(gateway, fault_header("no-done"), script)
        assert said == {"text": whole, "error": "", "finish": "length"}


def with_openai_python(gateway: Served, headers: dict[str, str]) -> tuple[str, str]:
    """Return the text of a stream and what it raised at the end, if anything."""
    text = ""
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="sim",
            messages=[{"role": "user", "content": "hi"}],
            max_tokens=TOKENS,
            stream=True,
            extra_headers=headers,
        )
        try:
            for chunk in stream:
                text += chunk.choices[0].delta.content or ""
        except APIError as error:
            return text, error.message
    return text, ""


def with_node(gateway: Served, headers: dict[str, str], script: str = "chat.mjs") -> dict[str, str]:
    """Run a JavaScript SDK's script; return its `text`, `error` and `finish`."""
    settings = {"url": f"{gateway.url}/v1", "headers": headers, "tokens": TOKENS, "leaveAfter": 0}
    run = subprocess.run(
        ["node", script, json.dumps(settings)],
        cwd=NODE,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    said: dict[str, str] = json.loads(run.stdout)
    return said

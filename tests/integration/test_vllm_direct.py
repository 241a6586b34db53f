"""A real vLLM, started from a spec and stopped again; no gateway takes part."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from engines.launch import Launch, http_url
from engines.locate import free_port
from engines.supervisor import EngineFailed, Supervisor
from tests.support.vllm import moved, session

pytestmark = pytest.mark.integration

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def ask(url: str, path: str, **body: object) -> httpx.Response:
    return httpx.post(f"{url}{path}", json=body, timeout=60.0, trust_env=False)


def chat(url: str, text: str, **more: object) -> httpx.Response:
    messages = [{"role": "user", "content": text}]
    return ask(url, "/v1/chat/completions", model="tiny", messages=messages, **more)


def test_it_is_healthy_and_has_the_name_that_the_spec_gave_it(vllm_url: str) -> None:
    """/health is empty and 200; /v1/models lists the served name and the length of the spec."""
    health = httpx.get(f"{vllm_url}/health", trust_env=False, timeout=60.0)
    models = httpx.get(f"{vllm_url}/v1/models", trust_env=False, timeout=60.0).json()

    assert (health.status_code, health.content) == (200, b"")
    assert [(model["id"], model["max_model_len"]) for model in models["data"]] == [("tiny", 4096)]


def test_a_chat_is_answered_and_ends_by_itself(vllm_url: str) -> None:
    """The tiny model says something, and stops where its training taught it to."""
    answer = chat(vllm_url, "Tell me about lambda.", max_tokens=400, temperature=0.7, seed=1)

    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    assert choice["message"]["content"].strip()
    assert choice["finish_reason"] == "stop"


def test_the_model_calls_the_tool_that_it_is_given(vllm_url: str) -> None:
    """tool_choice auto: the Hermes parser finds a call with valid JSON arguments."""
    answer = chat(vllm_url, "What's the weather in Rome?", tools=[WEATHER], temperature=0)

    choice = answer.json()["choices"][0]
    call = choice["message"]["tool_calls"][0]["function"]
    assert choice["finish_reason"] == "tool_calls"
    assert call["name"] == "get_weather"
    assert isinstance(json.loads(call["arguments"])["city"], str)


def test_a_tool_result_can_be_sent_back(vllm_url: str) -> None:
    """The chat template renders assistant tool calls and tool messages."""
    call = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    messages = [
        {"role": "user", "content": "What's the weather in Rome?"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    answer = ask(
        vllm_url,
        "/v1/chat/completions",
        model="tiny",
        messages=messages,
        tools=[WEATHER],
        max_tokens=8,
    )

    assert answer.status_code == 200, answer.text


def test_a_cut_answer_can_be_continued(vllm_url: str) -> None:
    """A greedy answer given in two parts equals the same answer in one."""
    whole = chat(vllm_url, "Tell me about if.", temperature=0, max_tokens=24).json()
    text = whole["choices"][0]["message"]["content"]
    part = chat(vllm_url, "Tell me about if.", temperature=0, max_tokens=8).json()
    begun = part["choices"][0]["message"]["content"]
    rest = ask(
        vllm_url,
        "/v1/chat/completions",
        model="tiny",
        messages=[
            {"role": "user", "content": "Tell me about if."},
            {"role": "assistant", "content": begun},
        ],
        add_generation_prompt=False,
        continue_final_message=True,
        temperature=0,
        max_tokens=16,
    )

    assert rest.status_code == 200, rest.text
    assert begun + rest.json()["choices"][0]["message"]["content"] == text


def test_the_pooling_engine_embeds(vllm_embed_url: str) -> None:
    """The same weights as a pooling model give one vector per input."""
    answer = ask(vllm_embed_url, "/v1/embeddings", model="tiny-embed", input=["one", "two"])

    vectors = [item["embedding"] for item in answer.json()["data"]]
    assert [len(vector) for vector in vectors] == [256, 256]
    assert vectors[0] != vectors[1]


async def test_a_killed_engine_core_is_reported_and_leaving_ends_the_others(
    vllm_launch: Launch,
) -> None:
    """vLLM follows its core, and the supervisor says so; SIGTERM ends an engine with its core."""
    async with Supervisor(Console(width=200)) as fleet:
        doomed, other = await asyncio.gather(
            *[fleet.start(moved(vllm_launch, name)) for name in ("doomed", "other")]
        )
        family = session(other.pid)
        assert len(family) > 1, "vLLM runs its engine core in a process of its own"
        for pid in session(doomed.pid) - {doomed.pid}:
            os.kill(pid, signal.SIGKILL)
        death = await fleet.first_death()
        # With its core: what else it had begun with may have done its work.
        assert other.pid in session(other.pid)
        assert len(family & session(other.pid)) > 1

    assert death.name == "doomed"
    assert death.last_lines
    assert not session(other.pid) & family


async def test_a_missing_model_is_explained(vllm_command: Path) -> None:
    """vLLM's traceback of a hundred lines becomes one sentence."""
    port = free_port("127.0.0.1")  # vLLM binds it before it looks for the model.
    argv = (str(vllm_command), "serve", "/no/such/model", "--port", str(port))
    launch = Launch("lost", argv, dict(os.environ), http_url("127.0.0.1", port))
    async with Supervisor(Console(width=200)) as fleet:
        with pytest.raises(EngineFailed, match="the model was not found"):
            await fleet.start(launch)

"""A real vLLM behind the gateway: what its users do with it works as without a gateway."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI
from websockets.sync.client import connect

from tests.support.process import Served, sluice, until

pytestmark = pytest.mark.integration

MESSAGES: list[Any] = [{"role": "user", "content": "Tell me about lambda."}]
WEATHER: list[Any] = [
    {"role": "user", "content": "What's the weather in Rome?"},
]
TOOLS: list[Any] = [
    {
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
]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
# No object: within one, JSON allows white space, and so small a model never has enough of it.
SCHEMA = {"type": "string", "enum": ["yes", "no"]}
CONFIG = """\
server: {{max_event_loop_lag_s: 60}}  # Two engines on two cores keep the gateway itself waiting.
clusters:
  generating:
    endpoints: [{{url: "{url}"}}]
    health: {{timeout_s: 10}}
  embedding:
    endpoints: [{{url: "{embed_url}"}}]
    health: {{timeout_s: 10}}
models:
  tiny: {{cluster: generating, aliases: [small]}}
  team/chat: {{cluster: generating, upstream_model: tiny}}
logging:
  access: off
"""


@pytest.fixture(scope="module")
def gateway(
    vllm_url: str, vllm_embed_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """A gateway with both engines; the pooling one's models are discovered."""
    file = tmp_path_factory.mktemp("gateway") / "sluice.yaml"
    file.write_text(CONFIG.format(url=vllm_url, embed_url=vllm_embed_url))
    with sluice("-c", file, model="tiny-embed") as served:
        until(lambda: all_listed(served), "every model's length is known")
        yield served


def all_listed(served: Served) -> bool:
    listed = httpx.get(f"{served.url}/v1/models", trust_env=False, timeout=60.0).json()["data"]
    return len(listed) == 4 and all(entry.get("max_model_len") for entry in listed)


@pytest.fixture
def client(gateway: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def post(url: str, path: str, **body: object) -> httpx.Response:
    return httpx.post(f"{url}{path}", json=body, timeout=60.0, trust_env=False)


def test_a_chat_is_answered(client: OpenAI) -> None:
    """One whole answer, with the name of the model that was asked for, and its usage."""
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=16)

    assert answer.model == "tiny"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


@pytest.mark.parametrize("asked", [False, True])
def test_a_stream_has_usage_only_when_asked_for(client: OpenAI, asked: bool) -> None:
    """The gateway counts tokens by the engine's usage chunk, which others do not get to see."""
    more: Any = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=12, stream=True, **more
        )
    )

    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [12] * asked
    assert [choice.finish_reason for chunk in chunks[-3:] for choice in chunk.choices][-1] == (
        "length"
    )


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    """Greedy text of a stream equals that of a plain answer: nothing is lost or doubled."""
    whole = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=200, temperature=0
    )
    stream = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=200, temperature=0, stream=True
    )

    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == (
        whole.choices[0].message.content
    )


def test_choices_logprobs_and_stop(client: OpenAI) -> None:
    """n, logprobs and stop reach the engine, and their answers the client."""
    answer = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=60,
        n=2,
        seed=1,
        logprobs=True,
        top_logprobs=2,
        stop=["e"],
    )

    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert "e" not in (choice.message.content or "")
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        assert len(choice.logprobs.content[0].top_logprobs) == 2


@pytest.mark.parametrize("choice", ["auto", "required", NAMED], ids=["auto", "required", "named"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_tools_are_called(client: OpenAI, choice: Any, stream: bool) -> None:
    """A tool call arrives with arguments that are JSON, in one piece or in many."""
    more: Any = {"tools": TOOLS, "tool_choice": choice, "temperature": 0, "max_tokens": 100}
    if stream:
        name = arguments = ""
        for chunk in client.chat.completions.create(
            model="tiny", messages=WEATHER, stream=True, **more
        ):
            for part in chunk.choices[0].delta.tool_calls or []:
                if part.function is not None:
                    name += part.function.name or ""
                    arguments += part.function.arguments or ""
    else:
        answer = client.chat.completions.create(model="tiny", messages=WEATHER, **more)
        function = (answer.choices[0].message.tool_calls or [])[0].function
        name, arguments = function.name, function.arguments

    assert name == "get_weather"
    called = json.loads(arguments)
    (called,) = called if isinstance(called, list) else (called,)
    assert isinstance(called["city"], str)


def test_json_schema_is_kept(client: OpenAI) -> None:
    """response_format json_schema constrains the engine."""
    answer = client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=100,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True},
        },
    )

    assert json.loads(answer.choices[0].message.content or "") in {"yes", "no"}


def test_completions(client: OpenAI) -> None:
    """Text completions, plain and as a stream, say the same."""
    more: Any = {"model": "tiny", "prompt": "def", "max_tokens": 20, "temperature": 0}
    whole = client.completions.create(**more)
    stream = client.completions.create(**more, stream=True)

    assert whole.choices[0].text
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text


def test_responses(client: OpenAI) -> None:
    """The responses API, plain and as a stream that ends with `response.completed`."""
    plain = client.responses.create(model="tiny", input="Hello", max_output_tokens=16)
    events = list(
        client.responses.create(model="tiny", input="Hello", max_output_tokens=16, stream=True)
    )

    assert plain.output_text
    assert events[0].type == "response.created"
    assert events[-1].type in {"response.completed", "response.incomplete"}


def test_messages(gateway: Served) -> None:
    """Anthropic's messages API: plain, as a stream to `message_stop`, and counted."""
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 16}
    plain = post(gateway.url, "/v1/messages", **body).json()
    stream = post(gateway.url, "/v1/messages", **body, stream=True).text
    counted = post(gateway.url, "/v1/messages/count_tokens", **body).json()

    assert plain["type"] == "message"
    assert plain["content"][0]["text"]
    assert stream.startswith("event: message_start\n")
    assert "event: message_stop\n" in stream
    assert counted["input_tokens"] == plain["usage"]["input_tokens"]


def test_tokens_there_and_back(gateway: Served) -> None:
    """/tokenize and /detokenize are inverse."""
    tokens = post(gateway.url, "/tokenize", model="tiny", prompt="import this").json()["tokens"]
    text = post(gateway.url, "/detokenize", model="tiny", tokens=tokens).json()["prompt"]

    assert "import this" in text


def test_models_are_listed_with_what_vllm_says(client: OpenAI) -> None:
    """Configured names, aliases and discovered models; max_model_len is kept."""
    lengths = {
        model.id: (model.model_extra or {})["max_model_len"] for model in client.models.list()
    }

    assert lengths == {"tiny": 4096, "small": 4096, "team/chat": 4096, "tiny-embed": 1024}
    assert client.models.retrieve("team/chat").id == "team/chat"


def test_embeddings(client: OpenAI) -> None:
    """The SDK's base64 and plain floats give equal vectors."""
    packed = client.embeddings.create(model="tiny-embed", input=["one", "two"])
    floats = client.embeddings.create(
        model="tiny-embed", input=["one", "two"], encoding_format="float"
    )

    assert len(packed.data[0].embedding) == 256
    for left, right in zip(packed.data, floats.data, strict=True):
        assert left.embedding == pytest.approx(right.embedding, abs=1e-4)


@pytest.mark.parametrize("name", ["small", "team/chat"])
def test_other_names_stay_in_the_answer(client: OpenAI, name: str) -> None:
    """An alias and an upstream_model are served, and chunks carry the name that was asked for."""
    plain = client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=4)
    chunks = list(
        client.chat.completions.create(model=name, messages=MESSAGES, max_tokens=4, stream=True)
    )

    assert {plain.model, *(chunk.model for chunk in chunks)} == {name}


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": MESSAGES, "max_tokens": -1},
        {"messages": MESSAGES, "temperature": 9},
        {"messages": "no list"},
        {"messages": MESSAGES, "max_tokens": 100_000},
        {},
    ],
    ids=["max_tokens", "temperature", "messages", "too long", "nothing"],
)
def test_refusals_are_vllms_own(gateway: Served, vllm_url: str, wrong: dict[str, Any]) -> None:
    """A 4xx passes with the bytes that the engine sent."""
    body = {"model": "tiny", **wrong}
    direct = post(vllm_url, "/v1/chat/completions", **body)
    through = post(gateway.url, "/v1/chat/completions", **body)

    assert direct.status_code == through.status_code == 400
    assert through.content == direct.content


def test_curl_streams_line_by_line(gateway: Served) -> None:
    """`curl -N`, as in the README: events, each followed by an empty line, [DONE] the last."""
    body = {"model": "tiny", "messages": MESSAGES, "max_tokens": 30, "stream": True}
    command = ["curl", "-sSN", "--noproxy", "*", f"{gateway.url}/v1/chat/completions"]
    json_field = ["-H", "content-type: application/json", "-d", json.dumps(body)]
    shown = subprocess.run([*command, *json_field], capture_output=True, check=True, timeout=60)
    lines = shown.stdout.decode().split("\n")

    assert lines[-3:] == ["data: [DONE]", "", ""]
    assert all(line.startswith("data: ") for line in lines[:-1:2])
    assert not any(lines[1::2])
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-3:2]]
    assert chunks[-1]["choices"][0]["finish_reason"] in {"length", "stop"}


def test_a_client_that_leaves_frees_the_engine(gateway: Served, vllm_url: str) -> None:
    """vLLM runs nothing any more, long before the whole answer could have been made."""
    body = {
        "model": "tiny",
        "messages": MESSAGES,
        "max_tokens": 3000,
        "min_tokens": 3000,
        "stream": True,
    }
    before = metric(vllm_url, "vllm:generation_tokens_total")
    with (
        httpx.Client(trust_env=False, timeout=60.0) as http,
        http.stream("POST", f"{gateway.url}/v1/chat/completions", json=body) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        next(answer.iter_lines())

    def free() -> bool:
        return metric(vllm_url, "vllm:num_requests_running") == 0

    # To its end it would run for some seconds more, and then 3,000 tokens were made.
    until(free, "the engine was free")
    made = metric(vllm_url, "vllm:generation_tokens_total") - before
    assert made < 3000
    time.sleep(0.5)  # A sequence that still ran would make hundreds of tokens in this time.
    assert metric(vllm_url, "vllm:generation_tokens_total") - before == made


def metric(url: str, name: str) -> int:
    """Return the sum of a metric of vLLM's."""
    text = httpx.get(f"{url}/metrics", trust_env=False, timeout=60.0).text
    lines = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
    assert lines, f"vLLM has no metric {name}"
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))


def test_generate(gateway: Served) -> None:
    """The gateway's own simple API, whole and as events."""
    body = {"model": "tiny", "prompt": "def", "max_tokens": 12, "temperature": 0}
    plain = post(gateway.url, "/v1/generate", **body).json()
    events = post(gateway.url, "/v1/generate", **body, stream=True).text

    assert plain["generated_text"]
    assert plain["tokens_generated"] == 12
    assert '"done": true' in events


def test_chat_with_the_model_in_the_path(gateway: Served) -> None:
    """A prompt as plain text is answered as text; a JSON body as chat completions are."""
    url = f"{gateway.url}/v1/chat/team/chat"
    kind = {"content-type": "text/plain", "accept": "text/plain"}
    text = httpx.post(url, content="Hello", headers=kind, timeout=60.0, trust_env=False)
    chat = post(gateway.url, "/v1/chat/team/chat", messages=MESSAGES, max_tokens=4).json()

    assert text.status_code == 200, text.text
    assert text.headers["content-type"].startswith("text/plain")
    assert text.text.strip()
    assert chat["model"] == "team/chat"


def test_a_websocket_carries_chats(gateway: Served) -> None:
    """Two chats on one socket, chunk by chunk; then one that is cancelled.

    On two cores vLLM's server may deliver thousands of tokens at once, and then the cancel comes
    too late; that one in time is honoured, tests/gateway/control/test_chat_socket.py shows.
    """
    url = gateway.url.replace("http", "ws", 1) + "/v1/chat/ws"
    chat = {"model": "tiny", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    with connect(url, proxy=None) as socket:
        for _ in range(2):
            socket.send(json.dumps(chat))
            said = []
            while (message := json.loads(socket.recv(timeout=60.0))).get("type") != "done":
                said += [choice["delta"].get("content") for choice in message["choices"]]
            assert "".join(filter(None, said))
        socket.send(json.dumps({**chat, "max_tokens": 3000, "min_tokens": 3000}))
        assert "choices" in json.loads(socket.recv(timeout=60.0))
        socket.send('{"type": "cancel"}')
        ends = {"cancelled", "done"}
        while (message := json.loads(socket.recv(timeout=60.0))).get("type") not in ends:
            assert "choices" in message

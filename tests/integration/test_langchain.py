"""LangChain's ChatOpenAI through the gateway, in front of a simulated engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain_core.messages import AIMessageChunk
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.support.process import Served, sim, sluice

pytestmark = pytest.mark.integration


@tool
def get_weather(city: str) -> str:
    """Say what the weather in a city is."""
    return f"sunny in {city}"


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
    file = tmp_path_factory.mktemp("langchain") / "sluice.yaml"
    with sim() as engine:
        file.write_text(CONFIG.format(url=engine.url))
        with sluice("-c", file, model="sim") as served:
            yield served


@pytest.fixture
def model(gateway: Served) -> ChatOpenAI:
    return ChatOpenAI(
        model="sim",
        base_url=f"{gateway.url}/v1",
        api_key="any",
        max_retries=0,
        max_tokens=40,
        stream_usage=True,
    )


def test_it_streams(model: ChatOpenAI) -> None:
    """The pieces are the answer, and usage comes with them."""
    chunks = list(model.stream("Tell me a story."))
    answer = model.invoke("Tell me a story.")

    assert len(chunks) > 10
    assert "".join(str(chunk.content) for chunk in chunks) == answer.content
    assert [chunk.usage_metadata["output_tokens"] for chunk in chunks if chunk.usage_metadata] == [
        40
    ]


async def test_it_streams_asynchronously(model: ChatOpenAI) -> None:
    """.astream gives what .stream gives."""
    pieces = [str(chunk.content) async for chunk in model.astream("Tell me a story.")]

    assert "".join(pieces) == "".join(str(one.content) for one in model.stream("Tell me a story."))


@pytest.mark.parametrize("stream", [False, True])
def test_it_calls_a_tool(model: ChatOpenAI, stream: bool) -> None:
    """A bound tool is called with arguments that its schema takes."""
    bound = model.bind_tools([get_weather], tool_choice="get_weather")
    if stream:
        whole: AIMessageChunk | None = None
        for chunk in bound.stream("What's the weather in Rome?"):
            assert isinstance(chunk, AIMessageChunk)
            whole = chunk if whole is None else whole + chunk
        assert whole is not None
        calls = whole.tool_calls
    else:
        calls = bound.invoke("What's the weather in Rome?").tool_calls

    assert [call["name"] for call in calls] == ["get_weather"]
    assert str(get_weather.invoke(calls[0]["args"])).startswith("sunny in ")

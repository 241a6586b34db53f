"""Does OpenAI's own client take every answer, validating strictly?"""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI, AuthenticationError

from engines.sim.server import RunningServer

_HI: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture
async def server(start_server: Any) -> RunningServer:
    """An engine without latencies."""
    started: RunningServer = await start_server()
    return started


@pytest.fixture
async def sdk(server: RunningServer) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's own client, refusing any body that does not fit its models."""
    async with AsyncOpenAI(
        api_key="k",
        base_url=f"http://{server.host}:{server.port}/v1",
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


async def test_the_sdk_chats(sdk: AsyncOpenAI) -> None:
    """A whole answer and a stream, parsed strictly, with the same text."""
    whole = await sdk.chat.completions.create(model="sim", messages=_HI, max_tokens=12)
    text = whole.choices[0].message.content
    assert text is not None
    assert text.startswith("Simulated answer:")
    stream = await sdk.chat.completions.create(
        model="sim",
        messages=_HI,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


async def test_the_sdk_completes_embeds_and_lists(sdk: AsyncOpenAI) -> None:
    """The other OpenAI routes parse strictly too."""
    completion = await sdk.completions.create(model="sim", prompt="x", max_tokens=5, logprobs=1)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5
    vectors = await sdk.embeddings.create(
        model="sim", input=["a", "b"], dimensions=16, encoding_format="float"
    )
    assert [len(item.embedding) for item in vectors.data] == [16, 16]
    assert [model.id async for model in sdk.models.list()] == ["sim"]


async def test_the_sdk_decodes_base64_vectors(server: RunningServer) -> None:
    """The SDK's default, which its strict mode cannot check: base64 on the wire, floats outside."""
    url = f"http://{server.host}:{server.port}/v1"
    async with AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as client:
        by_default = await client.embeddings.create(model="sim", input="a")
        as_floats = await client.embeddings.create(model="sim", input="a", encoding_format="float")
    assert by_default.data[0].embedding == as_floats.data[0].embedding


async def test_the_sdk_uses_responses(sdk: AsyncOpenAI) -> None:
    """The Responses route, whole and as events, parses strictly."""
    whole = await sdk.responses.create(model="sim", input="Hi", max_output_tokens=9)
    events = [
        event
        async for event in await sdk.responses.create(
            model="sim", input="Hi", max_output_tokens=9, stream=True
        )
    ]
    assert events[-1].type == "response.completed"
    assert whole.output_text == events[-1].response.output_text
    assert whole.output_text.startswith("Simulated answer:")


async def test_the_sdk_calls_tools(sdk: AsyncOpenAI) -> None:
    """A required tool call, streamed through the SDK's accumulator."""
    tool: Any = {
        "type": "function",
        "function": {
            "name": "f",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"n": {"type": "integer"}},
                "required": ["n"],
                "additionalProperties": False,
            },
        },
    }
    async with sdk.chat.completions.stream(
        model="sim", messages=_HI, tools=[tool], tool_choice="required"
    ) as stream:
        final = await stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or []
    assert call.function.name == "f"
    assert set(json.loads(call.function.arguments)) == {"n"}


async def test_the_sdk_sends_audio(sdk: AsyncOpenAI) -> None:
    """A multipart upload is measured."""
    heard = await sdk.audio.transcriptions.create(model="sim", file=("a.wav", b"RIFF" * 5))
    assert "20 bytes" in heard.text


async def test_errors_reach_the_sdk(sdk: AsyncOpenAI) -> None:
    """The status and vLLM's body."""
    with pytest.raises(APIStatusError) as caught:
        await sdk.chat.completions.create(model="nope", messages=_HI)
    assert caught.value.status_code == 404
    assert caught.value.type == "NotFoundError"


async def test_the_sdk_sees_a_wrong_key(start_server: Any) -> None:
    """OpenAI's client takes the 401 for what it is."""
    server = await start_server(api_key="secret")
    url = f"http://{server.host}:{server.port}/v1"
    async with AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as client:
        with pytest.raises(AuthenticationError):
            await client.models.list()

"""Do bodies and events have the members, order and types that vLLM 0.32 was seen to send?

The lists are written from recorded answers of a real vLLM 0.32.0.
"""

import json
from typing import Any

import pytest

_USAGE = [
    "prompt_tokens",
    "total_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
]
_MESSAGES = {"messages": [{"role": "user", "content": "Hello, who are you?"}], "max_tokens": 8}
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "enum": ["Paris", "Rome"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}


def test_chat(pure: Any) -> None:
    """A whole chat answer."""
    body = pure.whole("chat", _MESSAGES)
    assert list(body) == [
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint"),
        *("usage", "prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params"),
        *("ec_transfer_params", "metrics"),
    ]
    (choice,) = body["choices"]
    assert list(choice) == [
        *("index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids"),
        "routed_experts",
    ]
    assert list(choice["message"]) == [
        *("role", "content", "refusal", "annotations", "audio", "function_call", "reasoning")
    ]
    assert list(body["usage"]) == _USAGE
    assert list(body["usage"]["prompt_tokens_details"]) == [
        *("cached_tokens", "created_cache_tokens", "multimodal_tokens")
    ]
    assert body["id"] == "chatcmpl-abc"
    assert body["object"] == "chat.completion"
    assert choice["finish_reason"] == "length"


def test_chat_stream(pure: Any) -> None:
    """Role chunk, token chunks, finish chunk with the fingerprint, end mark."""
    raw = pure.raw_events("chat", _MESSAGES)
    assert raw[-1] == b"data: [DONE]\n\n"
    role, *tokens, last = pure.events("chat", _MESSAGES)
    head = ["id", "object", "created", "model", "choices"]
    assert list(role) == [*head, "prompt_token_ids", "prompt_text"]
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert list(role["choices"][0]) == ["index", "delta", "logprobs", "finish_reason"]
    assert len(tokens) == 7
    for chunk in tokens:
        assert list(chunk) == head
        assert list(chunk["choices"][0]) == [
            *("index", "delta", "logprobs", "finish_reason", "token_ids")
        ]
        assert list(chunk["choices"][0]["delta"]) == ["content"]
    assert list(last) == [*head, "system_fingerprint"]
    assert list(last["choices"][0]) == [
        *("index", "delta", "logprobs", "finish_reason", "stop_reason", "token_ids")
    ]


def test_a_plain_chunk_is_byte_for_byte_vllms(pure: Any) -> None:
    """The fast way of writing a chunk and the general one give what was recorded."""
    expected = (
        b'data: {"id":"chatcmpl-abc","object":"chat.completion.chunk","created":1700000000,'
        b'"model":"tiny","choices":[{"index":0,"delta":{"content":"Simulated"},"logprobs":null,'
        b'"finish_reason":null,"token_ids":null}]}\n\n'
    )
    assert pure.raw_events("chat", _MESSAGES)[1] == expected


def test_chat_stream_with_usage(pure: Any) -> None:
    """The usage chunk has no choices and carries the fingerprint instead of the finish chunk."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *_, finish, usage = pure.events("chat", _MESSAGES | options)
    assert "system_fingerprint" not in finish
    assert list(usage)[-3:] == ["choices", "usage", "system_fingerprint"]
    assert usage["choices"] == []
    assert list(usage["usage"]) == _USAGE[:4]
    assert list(usage["usage"]["prompt_tokens_details"]) == [
        "cached_tokens",
        "created_cache_tokens",
    ]


def test_chat_stream_with_continuous_usage(pure: Any) -> None:
    """Every chunk counts the tokens so far."""
    options = {"stream": True, "stream_options": {"continuous_usage_stats": True}}
    chunks = pure.events("chat", _MESSAGES | options)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == list(range(9))
    assert list(chunks[1]["usage"]) == [*_USAGE[:3], "completion_tokens_details"]
    assert list(chunks[1]) == ["id", "object", "created", "model", "choices", "usage"]
    assert list(chunks[0])[5:] == ["usage", "prompt_token_ids", "prompt_text"]


def test_chat_logprobs(pure: Any) -> None:
    """Each token with its logprob, bytes and alternatives, the same whole and streamed."""
    asked = _MESSAGES | {"logprobs": True, "top_logprobs": 2}
    content = pure.whole("chat", asked)["choices"][0]["logprobs"]["content"]
    assert len(content) == 8
    assert list(content[0]) == ["token", "logprob", "bytes", "top_logprobs"]
    assert [list(top) for top in content[0]["top_logprobs"]] == [["token", "logprob", "bytes"]] * 2
    assert bytes(content[0]["bytes"]).decode() == content[0]["token"] == "Simulated"
    assert all(entry["logprob"] < 0 for entry in content)
    streamed = [
        chunk["choices"][0]["logprobs"]["content"][0] for chunk in pure.events("chat", asked)[1:]
    ]
    assert streamed == content


def test_chat_token_ids(pure: Any) -> None:
    """return_token_ids gives the prompt's ids first and each chunk's own."""
    asked = _MESSAGES | {"return_token_ids": True}
    body = pure.whole("chat", asked)
    role, *chunks = pure.events("chat", asked)
    assert role["prompt_token_ids"] == body["prompt_token_ids"]
    streamed = [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]]
    assert streamed == body["choices"][0]["token_ids"]
    assert len(streamed) == 8


def test_chat_tool_call(pure: Any) -> None:
    """A forced call: empty content, the call, its id, and arguments that fit the schema."""
    named = {"type": "function", "function": {"name": "get_weather"}}
    asked = _MESSAGES | {"tools": [_TOOL], "tool_choice": named, "max_tokens": 100}
    (choice,) = pure.whole("chat", asked)["choices"]
    assert list(choice["message"]) == [
        *("role", "content", "refusal", "annotations", "audio", "function_call", "tool_calls"),
        "reasoning",
    ]
    (call,) = choice["message"]["tool_calls"]
    assert list(call) == ["id", "type", "function"]
    assert call["id"].startswith("chatcmpl-tool-")
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["city"] in ("Paris", "Rome")
    assert 1 <= arguments["days"] <= 9
    assert choice["finish_reason"] == "stop"
    required = pure.whole("chat", asked | {"tool_choice": "required"})["choices"][0]
    assert required["finish_reason"] == "tool_calls"


def test_chat_tool_call_stream(pure: Any) -> None:
    """The name comes in a chunk of its own, then the arguments in pieces, then an empty delta."""
    asked = _MESSAGES | {"tools": [_TOOL], "tool_choice": "required", "max_tokens": 100}
    _, first, *pieces, last = pure.events("chat", asked)
    (call,) = first["choices"][0]["delta"]["tool_calls"]
    assert list(call) == ["id", "type", "index", "function"]
    assert call["function"] == {"name": "get_weather"}
    arguments = "".join(
        chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"] for chunk in pieces
    )
    assert set(json.loads(arguments)) == {"city", "days"}
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def test_completion(pure: Any) -> None:
    """A whole completion."""
    body = pure.whole("completions", {"prompt": "The quick brown", "max_tokens": 6})
    assert list(body) == [
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint"),
        *("usage", "kv_transfer_params", "ec_transfer_params", "metrics"),
    ]
    assert list(body["choices"][0]) == [
        *("index", "text", "logprobs", "finish_reason", "stop_reason", "token_ids"),
        *("prompt_logprobs", "prompt_token_ids", "routed_experts"),
    ]
    assert body["id"] == "cmpl-abc"
    assert list(body["usage"]) == _USAGE


def test_completion_stream(pure: Any) -> None:
    """No role chunk; every chunk has the same members."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage = pure.events("completions", {"prompt": "x", "max_tokens": 3} | options)
    for chunk in chunks:
        assert list(chunk) == ["id", "object", "created", "model", "choices"]
        assert list(chunk["choices"][0]) == [
            *("index", "text", "logprobs", "finish_reason", "stop_reason", "prompt_token_ids"),
            "token_ids",
        ]
    assert usage["choices"] == []
    assert list(usage)[-1] == "system_fingerprint"


def test_completion_logprobs(pure: Any) -> None:
    """Parallel lists, offsets counted in characters."""
    body = pure.whole("completions", {"prompt": "x", "max_tokens": 2, "logprobs": 2})
    logprobs = body["choices"][0]["logprobs"]
    assert list(logprobs) == ["text_offset", "token_logprobs", "tokens", "top_logprobs"]
    assert logprobs["tokens"] == ["Simulated", " answer"]
    assert logprobs["text_offset"] == [0, 9]


def test_message(pure: Any) -> None:
    """A whole message of the Anthropic route."""
    body = pure.whole("messages", _MESSAGES)
    assert list(body) == ["id", "type", "role", "content", "model", "stop_reason", "usage"]
    assert list(body["content"][0]) == ["type", "text"]
    assert body["stop_reason"] == "max_tokens"
    assert list(body["usage"]) == [
        *("input_tokens", "output_tokens", "cache_creation_input_tokens"),
        "cache_read_input_tokens",
    ]


def test_message_stream(pure: Any) -> None:
    """Anthropic's events, in order, with the text in between."""
    events = pure.events("messages", _MESSAGES)
    kinds = [event["type"] for event in events]
    assert kinds == [
        *("message_start", "content_block_start", *["content_block_delta"] * 8),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    assert events[0]["message"]["usage"]["output_tokens"] == 0
    assert list(events[1]) == ["type", "content_block", "index"]
    assert list(events[2]["delta"]) == ["type", "text"]
    assert list(events[-2]["delta"]) == ["stop_reason", "stop_sequence"]
    assert b"[DONE]" not in b"".join(pure.raw_events("messages", _MESSAGES))


def test_message_tool_use(pure: Any) -> None:
    """A forced tool gives a tool_use block whose input is an object."""
    tool = {"name": "get_weather", "input_schema": _TOOL["function"]["parameters"]}  # type: ignore[index]
    chosen = {"type": "tool", "name": "get_weather"}
    asked = _MESSAGES | {"tools": [tool], "tool_choice": chosen, "max_tokens": 90}
    body = pure.whole("messages", asked)
    assert body["stop_reason"] == "tool_use"
    assert set(body["content"][0]["input"]) == {"city", "days"}


_RESPONSE = [
    *("id", "created_at", "incomplete_details", "instructions", "metadata", "model", "object"),
    *("output", "parallel_tool_calls", "temperature", "tool_choice", "tools", "top_p"),
    *("background", "max_output_tokens", "max_tool_calls", "previous_response_id", "prompt"),
    *("reasoning", "service_tier", "status", "text", "top_logprobs", "truncation", "usage"),
    *("user", "presence_penalty", "frequency_penalty", "kv_transfer_params"),
    *("ec_transfer_params", "input_messages", "output_messages"),
]


def test_response(pure: Any) -> None:
    """A whole response."""
    body = pure.whole("responses", {"input": "Hello", "max_output_tokens": 8})
    assert list(body) == _RESPONSE
    assert (body["status"], body["tool_choice"]) == ("incomplete", "none")
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}
    (item,) = body["output"]
    assert list(item) == ["id", "content", "role", "status", "type", "phase"]
    assert list(item["content"][0]) == ["annotations", "text", "type", "logprobs"]


def test_response_stream(pure: Any) -> None:
    """Typed events, numbered without a gap, the whole response at the end."""
    events = pure.events("responses", {"input": "Hello", "max_output_tokens": 8})
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *["output_text.delta"] * 8,
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event["sequence_number"] for event in events] == list(range(16))
    assert list(events[4]) == [
        *("content_index", "delta", "item_id", "logprobs", "output_index"),
        *("sequence_number", "type"),
    ]
    assert list(events[-1]["response"]) == _RESPONSE
    raw = b"".join(pure.raw_events("responses", {"input": "Hello", "max_output_tokens": 8}))
    assert raw.startswith(b"event: response.created\ndata: {")
    assert b"[DONE]" not in raw


@pytest.mark.parametrize("family", ["chat", "completions"])
def test_streamed_text_adds_up_to_the_whole(pure: Any, family: str) -> None:
    """The pieces of a stream are the text of the same request without one."""
    asked = _MESSAGES | {"prompt": "Hello", "max_tokens": 40}
    choice = pure.whole(family, asked)["choices"][0]
    chunks = [chunk["choices"][0] for chunk in pure.events(family, asked)]
    if family == "chat":
        assert choice["message"]["content"] == "".join(c["delta"]["content"] for c in chunks)
    else:
        assert choice["text"] == "".join(chunk["text"] for chunk in chunks)

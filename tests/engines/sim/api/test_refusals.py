"""Are wrong requests refused with the status and the words of vLLM 0.32?

The expected bodies are recorded ones, apart from token counts that depend on the tokenizer.
"""

from collections.abc import Callable
from typing import Any

import pytest

from engines.sim.api import chat, completions, messages, pooling, responses, tokens
from engines.sim.api.model import Served
from engines.sim.errors import ApiError, of_status

_HELLO = [{"role": "user", "content": "Hello, who are you?"}]
_CHAT = {"model": "tiny", "messages": _HELLO, "max_tokens": 8, "temperature": 0, "seed": 1}
_TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]


@pytest.fixture
def served() -> Served:
    """The engine that the bodies were recorded from."""
    return Served(("tiny",), "tiny-llama", max_model_len=512)


def _refusal(read: Callable[..., Any], *arguments: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(*arguments)
    return caught.value


def _error(message: str, kind: str, param: str | None, code: int) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


_STOPS = (
    "2 validation errors:\n  {'type': 'string_type', 'loc': 'body.stop', 'msg': 'Input should be a "
    "valid string', 'input': '<list of 5 items>'}\n  {'type': 'too_long', 'loc': 'body.stop', "
    "'msg': 'List should have at most 4 items after validation, not 5', 'input': '<list of 5 "
    "items>', 'ctx': {'field_type': 'List', 'max_length': 4, 'actual_length': 5}}"
)


@pytest.mark.parametrize(
    ("change", "message", "kind", "param"),
    [
        (
            {"max_tokens": "abc"},
            (
                "1 validation error:\n  {'type': 'int_parsing', 'loc': 'body.max_tokens', "
                "'msg': 'Input "
                "should be a valid integer, unable to parse string as an integer', 'input': 'abc'}"
            ),
            "Bad Request",
            "body.max_tokens",
        ),
        ({"stop": ["a", "e", "i", "o", "t"]}, _STOPS, "Bad Request", "body.stop"),
        (
            {"messages": []},
            "Cannot apply chat template to an empty conversation. Provide at least one message.",
            "BadRequestError",
            None,
        ),
        ({"n": 0}, "n must be at least 1, got 0.", "BadRequestError", None),
        (
            {"n": 2},
            "n must be 1 when using greedy sampling, got 2.",
            "BadRequestError",
            None,
        ),
        (
            {"max_tokens": 0},
            "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
            "BadRequestError",
            "max_tokens",
        ),
        (
            {"max_tokens": -1},
            "max_tokens must be at least 1, got -1. (parameter=max_tokens, value=-1)",
            "BadRequestError",
            "max_tokens",
        ),
        (
            {"max_tokens": 100000},
            (
                "max_tokens=100000 cannot be greater than max_model_len=512. Please request fewer "
                "output tokens. (parameter=max_tokens, value=100000)"
            ),
            "BadRequestError",
            "max_tokens",
        ),
        (
            {"temperature": 3},
            "temperature must be in [0, 2], got 3.0. (parameter=temperature, value=3.0)",
            "BadRequestError",
            "temperature",
        ),
        (
            {"temperature": -1},
            "temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)",
            "BadRequestError",
            "temperature",
        ),
        (
            {"top_p": 2},
            "top_p must be in (0, 1], got 2.0. (parameter=top_p, value=2.0)",
            "BadRequestError",
            "top_p",
        ),
        (
            {"logprobs": True, "top_logprobs": 999},
            (
                "Requested sample logprobs of 999, which is greater than max allowed: 20 "
                "(parameter=logprobs, value=999)"
            ),
            "BadRequestError",
            "logprobs",
        ),
        (
            {"stream_options": {"include_usage": True}},
            "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
            "BadRequestError",
            "stream_options",
        ),
        (
            {"min_tokens": 50},
            "min_tokens must be less than or equal to max_tokens=8, got 50.",
            "BadRequestError",
            None,
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "tiny is not a multimodal model",
            "BadRequestError",
            None,
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "nonsense"}},
                }
            },
            "Grammar error: Invalid type: nonsense",
            "BadRequestError",
            None,
        ),
        (
            {
                "tools": _TOOLS,
                "tool_choice": {"type": "function", "function": {"name": "nope"}},
            },
            (
                "The tool specified in `tool_choice` does not match any of the specified `tools` "
                "(parameter=tool_choice)"
            ),
            "BadRequestError",
            "tool_choice",
        ),
        (
            {"messages": [{"role": "user", "content": "hello world " * 2000}]},
            (
                "This model's maximum context length is 512 tokens. However, your prompt "
                "contains at "
                "least 513 input tokens, which exceeds this limit even without any output tokens. "
                "Please reduce the length of the input prompt. (parameter=input_tokens, value=513)"
            ),
            "BadRequestError",
            "input_tokens",
        ),
    ],
)
def test_chat_bodies_are_refused_in_vllms_words(
    served: Served, change: dict[str, Any], message: str, kind: str, param: str | None
) -> None:
    """Status 400 with exactly the recorded body."""
    refusal = _refusal(chat.read, _CHAT | change, served)
    assert refusal.status == 400
    assert refusal.body == _error(message, kind, param, 400)


def test_missing_messages(served: Served) -> None:
    """The member that is missing is named, with what was given."""
    refusal = _refusal(chat.read, {"model": "tiny"}, served)
    assert refusal.body == _error(
        "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field "
        "required', 'input': '<dict of 1 items>'}",
        "Bad Request",
        "body.messages",
        400,
    )


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (chat.read, _CHAT),
        (completions.read, {"prompt": "x"}),
        (responses.read, {"input": "x"}),
        (tokens.tokenize, {"prompt": "x"}),
        (tokens.detokenize, {"tokens": [3]}),
    ],
)
def test_an_unknown_model_is_404(
    served: Served, read: Callable[..., Any], body: dict[str, Any]
) -> None:
    """The message lists what is served."""
    refusal = _refusal(read, body | {"model": "nope"}, served)
    message = "The model `nope` does not exist. Valid aliases: tiny."
    assert refusal.status == 404
    assert refusal.body == _error(message, "NotFoundError", "model", 404)


def test_messages_has_anthropics_shape_except_for_its_schema(served: Served) -> None:
    """An unknown model comes in Anthropic's shape, a missing member in vLLM's own."""
    asked = {"messages": _HELLO, "max_tokens": 8}
    unknown = _refusal(messages.read, asked | {"model": "nope"}, served)
    assert (unknown.status, unknown.body) == (
        404,
        {
            "type": "error",
            "error": {
                "type": "NotFoundError",
                "message": "The model `nope` does not exist. Valid aliases: tiny.",
            },
        },
    )
    missing = _refusal(messages.read, {"model": "tiny", "messages": _HELLO}, served)
    assert missing.body == _error(
        "1 validation error:\n  {'type': 'missing', 'loc': 'body.max_tokens', 'msg': 'Field "
        "required', 'input': '<dict of 2 items>'}",
        "Bad Request",
        "body.max_tokens",
        400,
    )


def test_the_pooling_routes_word_an_unknown_model_differently(served: Served) -> None:
    """No list of aliases and no param."""
    refusal = _refusal(pooling.embeddings, {"model": "nope", "input": "x"}, served, "x", 1)
    expected = _error("The model `nope` does not exist.", "NotFoundError", None, 404)
    assert (refusal.status, refusal.body) == (404, expected)


def test_completions_refuses_a_suffix(served: Served) -> None:
    """Filling in the middle is for other models."""
    refusal = _refusal(completions.read, {"prompt": "x", "suffix": "y"}, served)
    message = "suffix is only supported for models with FIM completion rendering"
    assert refusal.body == _error(message, "BadRequestError", "suffix", 400)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "The decoder prompt cannot be empty"),
        ([], "You must pass at least one prompt"),
        ([[]], "The decoder prompt cannot be empty"),
        ([10**9], "Token id 1000000000 is out of vocabulary"),
        ([{}], "Each prompt must be a string or a list of token ids"),
    ],
)
def test_empty_and_unreadable_prompts(served: Served, given: Any, message: str) -> None:
    """Embeddings and completions share the rules for prompts."""
    embedded = _refusal(pooling.embeddings, {"input": given}, served, "x", 1)
    completed = _refusal(completions.read, {"prompt": given}, served)
    expected = _error(message, "BadRequestError", None, 400)
    assert embedded.body == completed.body == expected


def test_prompt_and_answer_must_fit_together(served: Served) -> None:
    """A prompt that fits alone but not with the asked tokens is refused."""
    refusal = _refusal(chat.read, _CHAT | {"max_tokens": 510}, served)
    error = refusal.body["error"]
    assert isinstance(error, dict)
    assert error["param"] == "input_tokens"
    assert "you requested 510 output tokens" in error["message"]


def test_an_injected_503_looks_like_an_overloaded_engine() -> None:
    """The body of an injected status is one that vLLM could have sent."""
    assert of_status(503).body == _error(
        "The engine is currently busy and cannot accept new requests. Please try again later or "
        "on a different instance.",
        "Service Unavailable",
        None,
        503,
    )

"""Do requests get what they ask for?"""

import base64
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.sim import tokenizer
from engines.sim.api import chat, completions, pooling, tokens, transcription
from engines.sim.api.model import Served
from engines.sim.errors import ApiError

_HI = [{"role": "user", "content": "Hi"}]
_TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
_FORM = "multipart/form-data; boundary=XX"


def _content(body: Any) -> str:
    return str(body["choices"][0]["message"]["content"])


def test_the_answer_carries_the_name_that_was_asked_for(pure: Any) -> None:
    """An alias stays; no name means the first one."""
    asked = {"messages": _HI, "max_tokens": 1}
    assert pure.whole("chat", asked)["model"] == "tiny"
    assert pure.whole("chat", asked | {"model": "tiny-alias"})["model"] == "tiny-alias"


def test_a_star_serves_any_name() -> None:
    """With `*` no name is unknown, and the star itself is not listed."""
    served = Served(("*",), "demo", 512)
    assert served.resolve("anything/at-all") == "anything/at-all"
    assert (served.resolve(None), served.listed) == ("demo", ("demo",))


def test_the_seed_matters_unless_decoding_is_greedy(pure: Any) -> None:
    """Equal seeds give equal texts; temperature 0 has nothing to seed."""

    def text(**options: Any) -> str:
        return _content(pure.whole("chat", {"messages": _HI, "max_tokens": 30} | options))

    assert text(seed=7) == text(seed=7) != text(seed=8)
    assert text(seed=7, temperature=0) == text(seed=8, temperature=0)
    assert text(max_tokens=10) == text()[: len(text(max_tokens=10))]


def test_choices_differ_and_are_all_counted(pure: Any) -> None:
    """n=2 gives two texts; usage counts the prompt once and both answers."""
    body = pure.whole("chat", {"messages": _HI, "max_tokens": 20, "n": 2})
    first, second = (choice["message"]["content"] for choice in body["choices"])
    assert first != second
    assert body["usage"]["completion_tokens"] == 40
    roles = [
        chunk
        for chunk in pure.events("chat", {"messages": _HI, "max_tokens": 2, "n": 2})
        if chunk["choices"][0]["delta"].get("role")
    ]
    assert [chunk["choices"][0]["index"] for chunk in roles] == [0, 1]


@pytest.mark.parametrize("cut", [1, 9, 10, 25, 60])
def test_a_chat_continues_its_own_prefix(pure: Any, cut: int) -> None:
    """The assistant prefix plus the continuation is the original answer."""
    asked = {"messages": _HI, "max_tokens": 200}
    full = _content(pure.whole("chat", asked))
    prefix = {"role": "assistant", "content": full[:cut]}
    options = {"continue_final_message": True, "add_generation_prompt": False}
    rest = _content(pure.whole("chat", asked | {"messages": [*_HI, prefix]} | options))
    assert full[:cut] + rest == full


def test_a_completion_continues_its_own_prefix_even_as_token_ids(pure: Any) -> None:
    """prompt + prefix continues, whether given as text or as ids."""
    asked = {"prompt": "Once", "max_tokens": 300}
    full = pure.whole("completions", asked)["choices"][0]["text"]
    longer = "Once" + full[:70]
    for prompt in (longer, tokenizer.encode(longer)):
        rest = pure.whole("completions", asked | {"prompt": prompt})["choices"][0]["text"]
        assert full[:70] + rest == full


def test_structured_text_continues_its_prefix_too(pure: Any) -> None:
    """JSON that was cut goes on where it stopped."""
    schema = {"type": "object", "properties": {"colour": {"type": "string"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    asked = {"messages": _HI, "max_tokens": 100, "response_format": wanted}
    full = _content(pure.whole("chat", asked))
    prefix = {"role": "assistant", "content": full[:7]}
    options = {"continue_final_message": True, "add_generation_prompt": False}
    rest = _content(pure.whole("chat", asked | {"messages": [*_HI, prefix]} | options))
    assert full[:7] + rest == full


def test_both_ways_of_ending_the_prompt_exclude_each_other(pure: Any) -> None:
    """continue_final_message needs add_generation_prompt to be switched off."""
    with pytest.raises(ApiError, match="Cannot set both"):
        pure.whole("chat", {"messages": _HI, "continue_final_message": True})


@pytest.mark.parametrize(
    ("options", "check"),
    [
        ({"response_format": {"type": "json_object"}}, lambda v: isinstance(v, dict)),
        ({"structured_outputs": {"json": {"type": "integer"}}}, lambda v: isinstance(v, int)),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"enum": ["red", "blue"]}},
                }
            },
            lambda v: v in ("red", "blue"),
        ),
    ],
)
def test_structured_output_is_json(pure: Any, options: Any, check: Any) -> None:
    """The text parses and fits, and the answer ends with stop."""
    body = pure.whole("chat", {"messages": _HI, "max_tokens": 100} | options)
    assert check(json.loads(_content(body)))
    assert body["choices"][0]["finish_reason"] == "stop"


def test_a_choice_is_one_of_the_listed(pure: Any) -> None:
    """structured_outputs.choice prescribes the text."""
    outputs = {"structured_outputs": {"choice": ["yes", "no"]}}
    assert _content(pure.whole("chat", {"messages": _HI} | outputs)) in ("yes", "no")


def test_auto_calls_the_tool_that_the_user_names(pure: Any) -> None:
    """Named in the last user message: a call. Not named, or already answered: text."""
    named = {"role": "user", "content": "Please use get_weather"}
    answered = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}

    def finish(*turns: Any, **options: Any) -> str:
        asked = {"messages": list(turns), "tools": [_TOOL], "max_tokens": 300}
        return str(pure.whole("chat", asked | options)["choices"][0]["finish_reason"])

    assert finish(named) == "tool_calls"
    assert finish(*_HI) == "stop"
    assert finish(named, answered) == "stop"
    assert finish(named, tool_choice="none") == "stop"


def test_echo_repeats_the_prompt(pure: Any) -> None:
    """The prompt's text comes first, whole or streamed, also when nothing more is asked for."""
    asked = {"prompt": "The fox", "max_tokens": 2, "echo": True}
    assert pure.whole("completions", asked)["choices"][0]["text"] == "The foxSimulated answer"
    assert pure.events("completions", asked)[0]["choices"][0]["text"] == "The foxSimulated"
    bare = pure.whole("completions", asked | {"max_tokens": 0})["choices"][0]
    assert (bare["text"], bare["finish_reason"]) == ("The fox", "length")


def test_several_prompts_are_answered_in_order(pure: Any) -> None:
    """Each prompt has n choices of its own."""
    body = pure.whole("completions", {"prompt": ["a", "b"], "n": 2, "max_tokens": 9})
    texts = [choice["text"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    alone = pure.whole("completions", {"prompt": "b", "n": 2, "max_tokens": 9})
    assert texts[2:] == [choice["text"] for choice in alone["choices"]]


def test_the_context_bounds_an_answer_without_a_limit(served: Served) -> None:
    """Without max_tokens the rest of the context is allowed; completions default to 16."""
    request = chat.read({"messages": _HI}, served)
    assert request.endings[0].max_tokens == 512 - len(request.prompts[0].tokens)
    assert completions.read({"prompt": "x"}, served).endings[0].max_tokens == 16


def test_tokenize_and_detokenize_are_inverse(served: Served) -> None:
    """The ids of a prompt give the prompt back; a conversation counts as the chat route does."""
    answer = tokens.tokenize({"prompt": "hello world", "return_token_strs": True}, served)
    assert list(answer) == ["count", "max_model_len", "tokens", "token_strs"]
    assert answer["token_strs"] == ["hello", " world"]
    assert tokens.detokenize({"tokens": answer["tokens"]}, served) == {"prompt": "hello world"}
    count = tokens.tokenize({"messages": _HI}, served)["count"]
    assert count == len(chat.read({"messages": _HI}, served).prompts[0].tokens)


def _vectors(served: Served, **body: Any) -> Any:
    return pooling.embeddings(body, served, "x", 1)


def test_embeddings_have_vllms_members(served: Served) -> None:
    """Order and names as recorded."""
    answer = _vectors(served, input=["a", "b"])
    assert list(answer) == ["id", "object", "created", "model", "data", "usage"]
    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert list(answer["data"][0]) == ["index", "object", "embedding"]


@given(st.text(min_size=1, max_size=40), st.integers(1, 384))
def test_vectors_have_length_one(text: str, dimensions: int) -> None:
    """Whatever the text and the number of dimensions."""
    numbers = pooling.vector(tokenizer.encode(text), dimensions)
    assert len(numbers) == dimensions
    assert math.isclose(sum(value * value for value in numbers), 1.0, rel_tol=1e-4)


def test_base64_and_floats_are_the_same_numbers(served: Served) -> None:
    """Little-endian 32-bit floats, as OpenAI's SDK decodes them."""
    floats = _vectors(served, input="hello")["data"][0]["embedding"]
    packed = _vectors(served, input="hello", encoding_format="base64")["data"][0]["embedding"]
    assert list(struct.unpack("<384f", base64.b64decode(packed))) == floats


def test_token_ids_embed_like_their_text(served: Served) -> None:
    """Input may be ids."""
    ids = tokenizer.encode("hello world")
    assert _vectors(served, input=ids)["data"] == _vectors(served, input="hello world")["data"]


def test_scores_and_ranks_follow_shared_words(served: Served) -> None:
    """Equal texts score 1; reranking puts the document that shares words first."""
    scored = pooling.score({"text_1": "hello", "text_2": ["hello", "zebra"]}, served, "x", 1)
    values = [item["score"] for item in scored["data"]]  # type: ignore[attr-defined]
    assert math.isclose(values[0], 1.0, rel_tol=1e-5)
    assert values[1] < 0.9
    asked = {"query": "red fox", "documents": ["a ship", "the red fox"], "top_n": 1}
    ranked: Any = pooling.rerank(asked, served, "x")
    assert list(ranked) == ["id", "model", "usage", "results"]
    assert [result["index"] for result in ranked["results"]] == [1]


def _form(*parts: tuple[str, str, bytes]) -> bytes:
    sections = [
        f'--XX\r\ncontent-disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, extra, content in parts
    ]
    return b"".join(sections) + b"--XX--\r\n"


@given(st.binary(max_size=200).filter(lambda data: b"\r\n--XX" not in data))
def test_a_transcription_tells_the_size_of_the_file(content: bytes) -> None:
    """Any bytes may be in the file, and the text says that nothing listened."""
    body = _form(("model", "", b"tiny"), ("file", '; filename="a.wav"', content))
    text, wanted = transcription.transcribe(body, _FORM, Served(("tiny",), "tiny", 512))
    assert text == f"Simulated transcription of a file of {len(content)} bytes; no model listened."
    assert wanted == "json"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (_form(("model", "", b"tiny")), _FORM),
        (_form(("model", "", b"nope"), ("file", "", b"x")), _FORM),
        (_form(("file", "", b"x"), ("stream", "", b"true")), _FORM),
        (b"--XX\r\nbroken", _FORM),
        (b"--XX\r\nno-disposition: 1\r\n\r\nx\r\n--XX--", _FORM),
        (b"{}", "application/json"),
    ],
)
def test_bad_forms_are_refused(served: Served, body: bytes, content_type: str) -> None:
    """No file, unknown model, streaming, or not a form at all."""
    with pytest.raises(ApiError):
        transcription.transcribe(body, content_type, served)

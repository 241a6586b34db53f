"""Are the features of a request what their columns say, whatever its API family and its form?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.plan.features import COLUMNS, SCRIPTS, features, script

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["content", "type", "text", "role"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
FIELDS = ("messages", "prompt", "input", "system", "tools", "max_tokens", "response_format", "text")


def row(**body: Any) -> dict[str, float]:
    return dict(zip(COLUMNS, features(json.dumps(body).encode()), strict=True))


def changed(**body: Any) -> dict[str, float]:
    """The columns that are not 0, but for the single turn that every body has."""
    return {name: value for name, value in row(**body).items() if value and name != "messages"}


def test_a_chat() -> None:
    messages = [
        {"role": "system", "content": "12345"},
        {"role": "user", "content": "Привет, мир"},
    ]
    found = row(messages=messages, tools=[{}, {}], max_completion_tokens=7, stream=True)
    assert found == {
        "prompt_chars": 16,
        "last_chars": 11,
        "messages": 2,
        "tools": 2,
        "images": 0,
        "max_tokens": 7,
        "stream": 1,
        "code": 0,
        "schema": 0,
        "script": SCRIPTS.index("cyrillic"),
    }


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ({"type": "image_url", "image_url": {"url": "u"}}, {"type": "text", "text": "ab"}),
        ({"type": "image", "source": {}}, {"type": "text", "text": "ab"}),
    ],
)
def test_parts_are_texts_and_images(image: Any, text: Any) -> None:
    found = row(messages=[{"role": "user", "content": [text, image, image]}, {"content": None}])
    assert (found["prompt_chars"], found["images"], found["messages"]) == (2, 2, 2)


def test_other_families() -> None:
    assert changed(prompt="abc") == {"prompt_chars": 3, "last_chars": 3, "script": 1}
    assert changed(prompt=["a", "bc"])["prompt_chars"] == 3
    assert changed(prompt=[1, 2, 3]) == {}
    assert row(prompt=[1, 2, 3])["messages"] == 3
    assert changed(input="abc", instructions="de", max_output_tokens=5) == {
        "prompt_chars": 5,
        "last_chars": 3,
        "max_tokens": 5,
        "script": 1,
    }
    items = [{"content": [{"type": "input_text", "text": "hi"}, {"type": "input_image"}]}]
    assert changed(input=items) == {"prompt_chars": 2, "last_chars": 2, "images": 1, "script": 1}
    system = [{"type": "text", "text": "abcd"}]
    assert changed(system=system, messages=[{"content": "e"}])["prompt_chars"] == 5


def test_code_and_structured_output() -> None:
    assert changed(prompt="```py\n1\n```")["code"] == 1
    for form in ("json_object", "json_schema"):
        assert changed(response_format={"type": form}) == {"schema": 1}
        assert changed(text={"format": {"type": form}}) == {"schema": 1}
    assert changed(response_format={"type": "text"}, text={"format": 3}) == {}


@pytest.mark.parametrize("limit", [None, 0, -1, True, "5", 1.5, 1 << 60])
def test_a_length_that_is_none_counts_as_absent(limit: Any) -> None:
    assert changed(max_tokens=limit) == {}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "none"),
        ("12 + 3", "none"),
        ("½ … ✓", "none"),
        ("hello", "latin"),
        ("Žluťoučký kůň", "latin"),
        ("Tiếng Việt ạ", "latin"),
        ("καλημέρα", "greek"),
        ("ἀρχή", "greek"),
        ("привет world", "cyrillic"),
        ("שלום", "hebrew"),
        ("مرحبا", "arabic"),
        ("नमस्ते", "indic"),
        ("வணக்கம்", "indic"),
        ("สวัสดี", "thai"),
        ("안녕하세요", "hangul"),
        ("你好世界", "han"),
        ("東京都の天気", "kana"),
        ("ｱｲｳé", "kana"),
        ("\u0001é", "latin"),
    ],
)
def test_scripts(text: str, name: str) -> None:
    assert script(text) == name


def test_the_beginning_of_a_text_is_enough() -> None:
    assert script("a" * 256 + "привет" * 1000) == "latin"


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_fields_of_any_type_give_numbers(body: dict[str, Any]) -> None:
    """The engine will refuse such a body; the gateway must not fall over it."""
    found = features(json.dumps(body).encode())
    assert len(found) == len(COLUMNS)
    assert all(isinstance(value, float) and value >= 0 for value in found)


@pytest.mark.parametrize("body", [b"[]", b"", b"--boundary\r\n"])
def test_what_is_no_object_has_no_features(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        features(body)

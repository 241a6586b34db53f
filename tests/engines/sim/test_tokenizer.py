"""Does the tokenizer give every text back, with ids that never move?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.sim import tokenizer


@given(st.text())
def test_any_text_survives_the_round_trip(text: str) -> None:
    """Decoding the encoding of a text gives the text."""
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(alphabet=" abzTQ019.\n<|im_startend>é", max_size=60))
def test_ids_are_within_the_vocabulary(text: str) -> None:
    """Every id is one that decode knows."""
    assert all(0 <= token < tokenizer.VOCABULARY_SIZE for token in tokenizer.encode(text))


@given(st.lists(st.integers(0, 255), max_size=20))
def test_byte_tokens_decode_without_raising(tokens: list[int]) -> None:
    """Broken UTF-8 becomes replacement characters."""
    assert tokenizer.decode(tokens) == bytes(tokens).decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hello", [42583]),
        (" the", [43048]),
        (" 42", [41014]),
        ("zq", [978]),
        (" xyz", [38139]),
        (".", [46]),
        ("é", [195, 169]),
    ],
)
def test_ids_are_stable(text: str, ids: list[int]) -> None:
    """Ids of the first release stay what they were: clients may have stored them."""
    assert tokenizer.encode(text) == ids


def test_markers_are_single_tokens() -> None:
    """The chat template's marks are one token each."""
    assert tokenizer.encode("<|im_start|><|im_end|>") == [257, 258]
    assert tokenizer.EOS_ID == 258


def test_english_is_denser_than_bytes() -> None:
    """Plain English comes to at least three characters a token."""
    text = "The quick brown fox jumps over the lazy dog because it can do so every day"
    assert len(text) / len(tokenizer.encode(text)) > 3


def test_special_tokens_can_be_left_out() -> None:
    """skip_special drops the template's marks from a decoded text."""
    tokens = tokenizer.encode("<|im_start|>user")
    assert tokenizer.decode(tokens, skip_special=True) == "user"


@pytest.mark.parametrize("token", [-1, tokenizer.VOCABULARY_SIZE, 10**9])
def test_unknown_ids_are_refused(token: int) -> None:
    """An id outside the vocabulary is an error, not an empty text."""
    with pytest.raises(ValueError, match="out of vocabulary"):
        tokenizer.decode([token])


def test_token_id_wants_exactly_one_token() -> None:
    """A text of two tokens has no single id."""
    with pytest.raises(ValueError, match="too many values"):
        tokenizer.token_id("the dog")

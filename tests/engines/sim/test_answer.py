"""Is the answer the same every time, and does it go on exactly where it was cut?"""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.sim import answer, tokenizer
from engines.sim.tokenizer import EOS_ID

_TOKENS = 150


def _text(prompt: str, seed: int = 0, index: int = 0, boundary: int | None = None) -> str:
    """The next tokens after a prompt as text, ends of sequence left out."""
    tokens = islice(answer.rest_tokens(prompt, seed, index, boundary), _TOKENS)
    return tokenizer.decode(tokens, skip_special=True)


def test_an_answer_says_that_it_is_simulated() -> None:
    """The first words of any answer are the preface."""
    assert _text("Who are you?").startswith("Simulated answer: The ")


def test_equal_requests_get_equal_texts() -> None:
    """Prompt, seed and choice decide the text, and each of them matters."""
    assert _text("a", 1, 0) == _text("a", 1, 0)
    assert len({_text("a", 1, 0), _text("b", 1, 0), _text("a", 2, 0), _text("a", 1, 1)}) == 4


@given(
    prompt=st.text(max_size=40),
    seed=st.integers(0, 5),
    cut=st.integers(4, 700),
)
def test_a_cut_answer_is_continued_exactly(prompt: str, seed: int, cut: int) -> None:
    """text(prompt + prefix) is the rest of text(prompt), wherever the cut was."""
    full = _text(prompt, seed)
    rest = _text(prompt + full[:cut], seed)
    shorter = min(len(full) - cut, len(rest))
    if shorter > 0:
        assert rest[:shorter] == full[cut : cut + shorter]


@given(cut=st.integers(0, 700))
def test_with_a_known_boundary_any_cut_continues(cut: int) -> None:
    """In a chat the beginning of the assistant's turn is known, so even one letter is enough."""
    full = _text("Hi", boundary=2)
    rest = _text("Hi" + full[:cut], boundary=2)
    shorter = min(len(full) - cut, len(rest))
    assert shorter <= 0 or rest[:shorter] == full[cut : cut + shorter]


def test_cutting_twice_changes_nothing() -> None:
    """A continuation that is cut again still leads to the same text."""
    full = _text("Hi")
    once = _text("Hi" + full[:50])
    twice = _text("Hi" + full[:50] + once[:60])
    assert twice.startswith(full[110:300])


def test_an_earlier_answer_in_the_prompt_is_not_continued() -> None:
    """A conversation that quotes an old answer gets a new one."""
    prompt = "Hi" + _text("Hi")[:80] + "\nuser: and now?"
    assert _text(prompt).startswith(answer.PREFACE)


def test_a_foreign_text_after_the_preface_is_not_continued() -> None:
    """Only a text that this engine would have written counts as an answer under way."""
    assert answer.find_start("Hi Simulated answer: of mine", 0) == len(
        "Hi Simulated answer: of mine"
    )


@pytest.mark.parametrize("prompt", ["", "a", "What is a token?"])
def test_the_natural_end_follows_a_sentence(prompt: str) -> None:
    """The end-of-sequence token comes after a full stop, in a bounded time."""
    tokens = list(islice(answer.answer_tokens(prompt, 0), 200))
    end = tokens.index(EOS_ID)
    assert 24 <= end <= 24 + 105 + 11
    assert tokenizer.decode(tokens[:end]).endswith(".")


def test_continuing_at_the_natural_end_ends_at_once() -> None:
    """When all of the text was delivered, nothing but the end is left."""
    tokens = list(islice(answer.answer_tokens("x", 0), 200))
    whole = tokenizer.decode(tokens[: tokens.index(EOS_ID)])
    assert next(answer.rest_tokens("x" + whole, 0)) == EOS_ID

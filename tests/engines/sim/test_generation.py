"""What ends a sequence, and which text goes out with which token?"""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.sim import tokenizer
from engines.sim.generation import Ending, Finish, Generation, Piece
from engines.sim.tokenizer import EOS_ID


def _run(text: str, **ending: object) -> list[Piece]:
    """All pieces of a sequence that would say `text`."""
    settings = {"max_tokens": 100} | ending
    generation = Generation(iter(tokenizer.encode(text)), Ending(**settings))  # type: ignore[arg-type]
    pieces = [generation.step()]
    while pieces[-1].finish is None:
        pieces.append(generation.step())
    return pieces


def _text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_a_sequence_ends_with_its_tokens() -> None:
    """Running out of tokens is the end of sequence, which counts as a token without text."""
    pieces = _run("the dog.")
    assert _text(pieces) == "the dog."
    assert pieces[-1] == Piece(EOS_ID, "", Finish.STOP, None)


def test_max_tokens_ends_with_length() -> None:
    """The last allowed token carries the finish."""
    pieces = _run("the dog and the cat", max_tokens=2)
    assert len(pieces) == 2
    assert pieces[-1].finish is Finish.LENGTH
    assert _text(pieces) == "the dog"


def test_no_tokens_allowed_gives_an_empty_answer() -> None:
    """max_tokens 0, which completions with echo may ask for, makes one empty piece."""
    assert _run("the dog", max_tokens=0) == [Piece(EOS_ID, "", Finish.LENGTH, None)]


def test_a_stop_string_is_found_across_tokens() -> None:
    """The text ends before the stop string, which is named as the reason."""
    pieces = _run("the quiet river follows", stop=("et ri",))
    assert _text(pieces) == "the qui"
    assert (pieces[-1].finish, pieces[-1].stop_reason) == (Finish.STOP, "et ri")


def test_a_stop_string_can_be_kept() -> None:
    """include_stop_str_in_output leaves it in the text."""
    assert _text(_run("the quiet river", stop=("et",), keep_stop=True)) == "the quiet"


def test_the_earliest_of_several_stops_wins() -> None:
    """Of two stop strings within reach, the one that comes first in the text ends it."""
    pieces = _run("the dog and the river", stop=("river", "and"))
    assert _text(pieces) == "the dog "


@given(
    text=st.text(alphabet="ab the.", min_size=1, max_size=40),
    stop=st.text(alphabet="ab .", min_size=1, max_size=4),
)
def test_no_text_past_a_stop_ever_goes_out(text: str, stop: str) -> None:
    """Whatever the split into tokens, the text is what precedes the first stop string."""
    assert _text(_run(text, stop=(stop,))) == text.partition(stop)[0]


def test_held_back_text_goes_out_with_the_end() -> None:
    """Text that might have become a stop string is not lost when the answer ends."""
    assert _text(_run("the do", stop=("dog",))) == "the do"
    assert _text(_run("the do and more", stop=("xxxxxxxx",), max_tokens=3)).startswith("the do")


def test_a_stop_token_ends_the_sequence() -> None:
    """stop_token_ids end it without the token's text, and are the reason."""
    pieces = _run("the dog.", stop_tokens=frozenset({ord(".")}))
    assert _text(pieces) == "the dog"
    assert pieces[-1].stop_reason == ord(".")


def test_min_tokens_holds_the_end_back() -> None:
    """A stop string within the first min_tokens does not count."""
    pieces = _run("the dog and the dog", stop=("dog",), min_tokens=3)
    assert _text(pieces) == "the dog and the "


def test_ignore_eos_goes_on_to_the_limit() -> None:
    """With ignore_eos the ends of sequence are passed over and not counted."""
    tokens = (EOS_ID if at % 3 == 2 else tokenizer.token_id(" the") for at in count())
    generation = Generation(tokens, Ending(max_tokens=10, ignore_eos=True))
    pieces = [generation.step() for _ in range(10)]
    assert _text(pieces) == " the" * 10
    assert pieces[-1].finish is Finish.LENGTH


def test_a_character_of_several_bytes_comes_whole() -> None:
    """The text of a character waits for its last byte."""
    pieces = _run("é")
    assert [piece.text for piece in pieces] == ["", "é", ""]


def test_stepping_past_the_end_is_an_error() -> None:
    """A finished sequence makes no more tokens."""
    generation = Generation(iter([]), Ending(max_tokens=5))
    generation.step()
    with pytest.raises(ValueError, match="has ended"):
        generation.step()

"""Which token ids stand for a text, and which text for token ids?

A reversible tokenizer without a table on disk. Known words are one token in four forms (`word`, `
word`, `Word`, ` Word`); unknown lower-case letters go in pieces of up to three, digits likewise,
each with or without a space before it, and their ids are computed; anything else is its UTF-8
bytes, one token each. English comes to about four characters a token, as with the byte-pair
vocabularies of real models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from engines.sim.vocabulary import WORDS

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

_SPECIAL_BASE = 256
_LETTERS_BASE = _SPECIAL_BASE + len(SPECIALS)
_LETTERS_COUNT = 27**3
_DIGITS_BASE = _LETTERS_BASE + 2 * _LETTERS_COUNT
_DIGITS_COUNT = 11**3
_WORDS_BASE = _DIGITS_BASE + 2 * _DIGITS_COUNT

VOCABULARY_SIZE = _WORDS_BASE + 4 * len(WORDS)
EOS_ID = _SPECIAL_BASE + SPECIALS.index("<|im_end|>")

_LETTERS = " abcdefghijklmnopqrstuvwxyz"
_DIGITS = " 0123456789"
_PIECE = re.compile(
    r"<\|(?:endoftext|im_start|im_end)\|>| ?[A-Za-z]+| ?[0-9]{1,3}|.", re.ASCII | re.DOTALL
)
_SYLLABLE = re.compile(r" ?[a-z]{1,3}|.", re.ASCII)


def _word_forms(word: str) -> tuple[str, str, str, str]:
    capital = word[0].upper() + word[1:]
    return word, " " + word, capital, " " + capital


_TEXT_BY_WORD_ID: tuple[str, ...] = tuple(form for word in WORDS for form in _word_forms(word))
_FIXED_IDS: dict[str, int] = {text: _SPECIAL_BASE + at for at, text in enumerate(SPECIALS)} | {
    text: _WORDS_BASE + at for at, text in enumerate(_TEXT_BY_WORD_ID)
}


def encode(text: str) -> list[int]:
    """Return the token ids of `text`; `decode` of them is `text` again (lone surrogates become
    `?`).
    """
    ids: list[int] = []
    for piece in _PIECE.findall(text):
        ids += _piece_ids(piece)
    return ids


def token_id(text: str) -> int:
    """Return the id of a text that is exactly one token; ValueError otherwise."""
    (only,) = encode(text)
    return only


def token_bytes(token: int) -> bytes:
    """Return the bytes that one token stands for; ValueError when the id is outside the
    vocabulary.
    """
    if 0 <= token < _SPECIAL_BASE:
        return bytes((token,))
    return _text_of(token).encode()


def decode(tokens: Iterable[int], *, skip_special: bool = False) -> str:
    """Return the text of `tokens`, with U+FFFD for broken UTF-8; ValueError for an unknown id."""
    parts = (
        token_bytes(token)
        for token in tokens
        if not (skip_special and _SPECIAL_BASE <= token < _SPECIAL_BASE + len(SPECIALS))
    )
    return b"".join(parts).decode("utf-8", "replace")


@lru_cache(maxsize=1 << 16)  # a pure function's memo: prompts repeat their words
def _piece_ids(piece: str) -> tuple[int, ...]:
    known = _FIXED_IDS.get(piece)
    if known is not None:
        return (known,)
    last = piece[-1]
    if last in _DIGITS[1:]:
        return (_computed_id(piece, _DIGITS, _DIGITS_BASE, _DIGITS_COUNT),)
    if last.isascii() and last.isalpha():
        return tuple(token for part in _SYLLABLE.findall(piece) for token in _syllable_ids(part))
    return tuple(piece.encode("utf-8", "replace"))


def _syllable_ids(part: str) -> tuple[int, ...]:
    if part[-1] in _LETTERS[1:]:
        return (_computed_id(part, _LETTERS, _LETTERS_BASE, _LETTERS_COUNT),)
    return tuple(part.encode("ascii"))


def _computed_id(piece: str, alphabet: str, base: int, count: int) -> int:
    spaced = piece[0] == " "
    value = 0
    for character in piece[1:] if spaced else piece:
        value = value * len(alphabet) + alphabet.index(character)
    return base + (count if spaced else 0) + value


def _text_of(token: int) -> str:
    if _WORDS_BASE <= token < VOCABULARY_SIZE:
        return _TEXT_BY_WORD_ID[token - _WORDS_BASE]
    if _LETTERS_BASE <= token < _DIGITS_BASE:
        return _computed_text(token - _LETTERS_BASE, _LETTERS, _LETTERS_COUNT)
    if _DIGITS_BASE <= token < _WORDS_BASE:
        return _computed_text(token - _DIGITS_BASE, _DIGITS, _DIGITS_COUNT)
    if 0 <= token - _SPECIAL_BASE < len(SPECIALS):
        return SPECIALS[token - _SPECIAL_BASE]
    raise ValueError(f"Token id {token} is out of vocabulary")


def _computed_text(value: int, alphabet: str, count: int) -> str:
    spaced, value = divmod(value, count)
    characters = ""
    while value:
        value, at = divmod(value, len(alphabet))
        characters = alphabet[at] + characters
    return " " + characters if spaced else characters

"""Which tokens answer a prompt, and where does a text that already holds part of the answer go on?

The answer is an endless stream of plain sentences drawn by a generator that is seeded with the
prompt, the seed and the choice's index: the same request always gives the same text, on every
replica. An end-of-sequence token follows the first sentence past the answer's natural length, and
again after each further stretch of that length, for callers that ignore it.

Continuing works as with a real model: the answer to `prompt + beginning of its answer` is exactly
the rest of that answer, wherever it was cut. `find_start` therefore looks for an answer under way
at the end of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from engines.sim import tokenizer
from engines.sim.tokenizer import EOS_ID, token_id
from engines.sim.vocabulary import ADJECTIVES, LINKS, NOUNS, VERBS

PREFACE = "Simulated answer:"
_PREFACE_IDS = tuple(tokenizer.encode(PREFACE))
_SHORTEST_CUT = 4
"""So many characters of the preface at a prompt's end count as an answer under way; fewer could
be anything.
"""

_MASK = (1 << 64) - 1
_LCG_FACTOR = 6364136223846793005  # Knuth's MMIX constants
_LCG_STEP = 1442695040888963407

_THE = (token_id(" The"), token_id(" the"))
_STOP = token_id(".")


def _ids(words: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(token_id(" " + word) for word in words)


_SENTENCE: tuple[tuple[int, ...], ...] = (
    (_THE[0],),
    _ids(ADJECTIVES),
    _ids(NOUNS),
    _ids(VERBS),
    (_THE[1],),
    _ids(NOUNS),
    _ids(LINKS),
    (_THE[1],),
    _ids(ADJECTIVES),
    _ids(NOUNS),
    (_STOP,),
)


def answer_tokens(prompt: str, seed: int, index: int = 0) -> Iterator[int]:
    """Yield the endless token ids of the answer to `prompt`, with `EOS_ID` at each natural end."""
    key = f"{seed}:{index}:".encode()
    digest = blake2b(key + prompt.encode("utf-8", "replace"), digest_size=8).digest()
    state = int.from_bytes(digest, "big")
    natural_length = 24 + state % 105
    yield from _PREFACE_IDS
    count = len(_PREFACE_IDS)
    while True:
        for choices in _SENTENCE:
            state = (state * _LCG_FACTOR + _LCG_STEP) & _MASK
            yield choices[(state >> 33) % len(choices)]
        count += len(_SENTENCE)
        if count >= natural_length:
            count = 0
            yield EOS_ID


def rest_tokens(text: str, seed: int, index: int = 0, boundary: int | None = None) -> Iterator[int]:
    """Yield the token ids that follow `text`: a fresh answer, or the rest of one that `text` ends
    with.

    `boundary` is where the caller knows an answer to begin (the assistant's turn of a chat), tried
    first.
    """
    start = find_start(text, seed, index, boundary)
    tokens = answer_tokens(text[:start], seed, index)
    delivered = len(text) - start
    while delivered > 0:
        token = next(tokens)
        piece = _piece(token)
        if len(piece) > delivered:
            yield from tokenizer.encode(piece[delivered:])
        delivered -= len(piece)
    yield from tokens


def find_start(text: str, seed: int, index: int = 0, boundary: int | None = None) -> int:
    """Return where in `text` the answer under way at its end begins; its length when there is none.

    Costs a scan for the preface and a replay of the text after it.
    """
    candidates = [] if boundary is None else [boundary]
    candidates.append(text.rfind(PREFACE))
    candidates.extend(
        len(text) - size
        for size in range(len(PREFACE) - 1, _SHORTEST_CUT - 1, -1)
        if text.endswith(PREFACE[:size])
    )
    for start in candidates:
        if 0 <= start < len(text) and _is_answer(text, start, seed, index):
            return start
    return len(text)


def _is_answer(text: str, start: int, seed: int, index: int) -> bool:
    if not text.startswith(PREFACE[: len(text) - start], start):
        return False
    at = start
    for token in answer_tokens(text[:start], seed, index):
        piece = _piece(token)
        if not text.startswith(piece[: len(text) - at], at):
            return False
        at += len(piece)
        if at >= len(text):
            return True
    raise AssertionError("an answer never ends")


def _piece(token: int) -> str:
    # An end-of-sequence token has no text of its own.
    return "" if token == EOS_ID else tokenizer.decode((token,))

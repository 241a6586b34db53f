"""Which log-probabilities go with generated tokens?

They are invented, but stable and plausible: negative, the chosen token the most likely,
alternatives below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engines.sim import tokenizer
from engines.sim.generation import Piece

_MIX = 2654435761  # Knuth's multiplicative hash


def ranked(token: int, alternatives: int) -> Iterator[tuple[int, float]]:
    """Yield the token and then others, with falling log-probabilities; at least one, else
    `alternatives`.
    """
    logprob = -0.01 - (token * _MIX % 1000) / 500
    yield token, logprob
    for rank in range(1, alternatives):
        logprob -= 0.25 + (token * _MIX * rank % 100) / 100
        yield 256 + (token * _MIX + rank * 7919) % (tokenizer.VOCABULARY_SIZE - 256), logprob


def chat_logprobs(pieces: Sequence[Piece], top: int) -> dict[str, Any]:
    """Return `choices[].logprobs` of the chat route."""
    return {"content": [_chat_entry(piece.token, top) for piece in pieces]}


def _chat_entry(token: int, top: int) -> dict[str, Any]:
    entries = [_chat_token(other, logprob) for other, logprob in ranked(token, max(top, 1))]
    return entries[0] | {"top_logprobs": entries[:top]}


def _chat_token(token: int, logprob: float) -> dict[str, Any]:
    raw = _shown_bytes(token)
    return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}


def completion_logprobs(pieces: Sequence[Piece], top: int, offset: int) -> dict[str, Any]:
    """Return `choices[].logprobs` of the completions route; `offset` is the text's length before
    `pieces`.
    """
    offsets, logprobs, tokens, tops = [], [], [], []
    for piece in pieces:
        entries = {
            _shown_bytes(token).decode("utf-8", "replace"): logprob
            for token, logprob in ranked(piece.token, max(top, 1))
        }
        text, logprob = next(iter(entries.items()))
        offsets.append(offset)
        tokens.append(text)
        logprobs.append(logprob)
        tops.append(entries)
        offset += len(text)
    return {
        "text_offset": offsets,
        "token_logprobs": logprobs,
        "tokens": tokens,
        "top_logprobs": tops,
    }


def _shown_bytes(token: int) -> bytes:
    return b"" if token == tokenizer.EOS_ID else tokenizer.token_bytes(token)

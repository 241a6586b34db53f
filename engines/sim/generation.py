"""What does one sequence emit, token by token, and what ends it?"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from engines.sim import tokenizer
from engines.sim.tokenizer import EOS_ID


class Finish(StrEnum):
    """Why a sequence ended, in the words of the API and of `vllm:request_success_total`."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    TOOL_CALLS = "tool_calls"


class Piece(NamedTuple):
    """One generated token and the text that it releases (text may wait for a stop string to be
    ruled out).
    """

    token: int
    text: str
    finish: Finish | None
    stop_reason: str | int | None


@dataclass(frozen=True, slots=True)
class Ending:
    """What ends a sequence early or holds its end back; `max_tokens` of 0 asks for an empty
    answer.
    """

    max_tokens: int
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] = frozenset()
    ignore_eos: bool = False
    keep_stop: bool = False
    """Keep the stop string in the text (`include_stop_str_in_output`)."""


class Generation:
    """The pieces of one sequence, made one at a time so that a slow reader costs no memory."""

    __slots__ = ("_decoder", "_ending", "_held", "_hold", "_tokens", "count", "done")

    def __init__(self, tokens: Iterator[int], ending: Ending) -> None:
        self._tokens = tokens
        self._ending = ending
        self._hold = max((len(stop) for stop in ending.stop), default=1) - 1
        self._held = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.count = 0
        self.done = False

    def step(self) -> Piece:
        """Return the next piece; the one with `finish` set is the last, and stepping past it is
        an error.
        """
        if self.done:
            raise ValueError("the sequence has ended")
        ending = self._ending
        if ending.max_tokens == 0:
            self.done = True
            return Piece(EOS_ID, "", Finish.LENGTH, None)
        token = next(self._tokens, EOS_ID)
        early = self.count < ending.min_tokens
        while token == EOS_ID and (ending.ignore_eos or early):
            token = next(self._tokens)
        self.count += 1
        if token == EOS_ID:
            return self._finish(token, "", Finish.STOP, None)
        text = self._decoder.decode(tokenizer.token_bytes(token))
        if token in ending.stop_tokens and not early:
            return self._finish(token, text if ending.keep_stop else "", Finish.STOP, token)
        if ending.stop:
            stopped = self._stopped(token, text)
            if stopped is not None:
                return stopped
            text = self._release(text)
        if self.count >= ending.max_tokens:
            return self._finish(token, text, Finish.LENGTH, None)
        return Piece(token, text, None, None)

    def _stopped(self, token: int, text: str) -> Piece | None:
        if self.count <= self._ending.min_tokens:
            return None
        window = self._held + text
        found = [(window.find(stop), stop) for stop in self._ending.stop]
        hits = [(at, stop) for at, stop in found if at >= 0]
        if not hits:
            return None
        at, stop = min(hits)
        self._held = ""
        self.done = True
        end = at + len(stop) if self._ending.keep_stop else at
        return Piece(token, window[:end], Finish.STOP, stop)

    def _release(self, text: str) -> str:
        """Let go of the text that can no longer be part of a stop string, as vLLM's detokenizer
        does.
        """
        window = self._held + text
        keep = min(self._hold, len(window))
        self._held = window[len(window) - keep :]
        return window[: len(window) - keep]

    def _finish(self, token: int, text: str, finish: Finish, reason: int | None) -> Piece:
        held, self._held = self._held, ""
        self.done = True
        # `text` was released before `held` only when it came through `_release`.
        whole = text + held if finish is Finish.LENGTH else held + text
        return Piece(token, whole, finish, reason)

"""What has the client of a broken stream, and how may another endpoint go on with it?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

TEXT_CHARACTERS = 1024 * 1024
"""A longer answer is not resumed. It is 260,000 tokens, more than most models can answer with."""


class Mode(StrEnum):
    """How another endpoint goes on with a stream."""

    CONTINUE = "continue"  # It gets the text so far as the beginning of its answer.
    REPLAY = "replay"  # It answers anew, and what the client has is dropped.


class Obstacle(StrEnum):
    """What in a stream cannot be put together from two halves; the value says it in words."""

    CALL = "a tool call is under way"
    REFUSAL = "the model refuses"
    CHOICES = "more than one choice is under way"
    OTHER = "the stream carries something else than text"
    UNREADABLE = "the stream cannot be read"
    TOO_LONG = "the answer is too long to be kept"


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the client of one stream has."""

    text: str = ""
    """`delta.content` of chat, `text` of completions."""
    reasoning: str = ""
    id: str = ""
    created: int = 0
    model: str = ""
    """The name in the events, which is the one that the client used."""
    role: bool = False
    """Whether a chunk has named the role."""
    finished: bool = False
    """Whether a finish reason has come: the answer is whole, only its end mark is missing."""
    tokens: int = 0
    """Events with a token; exact where the stream counts itself (`continuous_usage_stats`)."""
    logprobs: bool = False
    obstacle: Obstacle | None = None
    """What forbids any resume; the text may then be incomplete."""

    def then(self, more: Delivered) -> Delivered:
        """Return this and what was delivered after it; the first stream's names stay."""
        text, reasoning = self.text + more.text, self.reasoning + more.reasoning
        obstacle = self.obstacle or more.obstacle
        if len(text) + len(reasoning) > TEXT_CHARACTERS:
            obstacle = obstacle or Obstacle.TOO_LONG
        first = self if self.id else more
        return replace(
            first,
            text=text,
            reasoning=reasoning,
            role=self.role or more.role,
            finished=self.finished or more.finished,
            tokens=self.tokens + more.tokens,
            logprobs=self.logprobs or more.logprobs,
            obstacle=obstacle,
        )

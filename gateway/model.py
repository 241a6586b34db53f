"""Which values travel with a request from one stage to the next?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How one request ended: the one value that metrics, health, balancers and logs all read."""

    SUCCESS = "success"
    RETRYABLE = "retryable"  # The endpoint failed before the client saw a byte.
    FAILURE = "failure"  # The endpoint failed and the client was told.
    CANCELLED = "cancelled"  # The client left: never the endpoint's fault.
    REJECTED = "rejected"  # The request itself was refused, by us or by the engine (4xx).


@dataclass(slots=True)
class Usage:
    """Tokens as the engine counted them, or as the watcher estimated them (`exact` False)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    exact: bool = False


class ErrorShape(StrEnum):
    """The wire form of an error: each API family's own clients parse only their own."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Dialect(StrEnum):
    """The form of a family's event streams."""

    CHUNKS = "chunks"  # `data:` chunks with choices, then `[DONE]`.
    TYPED = "typed"  # `event:` lines and typed objects, then an end event.


class Kind(StrEnum):
    """What a model does, and hence which routes it answers on."""

    LLM = "llm"
    VISION = "vision"


class Body(StrEnum):
    """What a request brings."""

    JSON = "json"
    FORM = "form"
    IMAGE = "image"
    ANY = "any"  # Of a route: one of these three, by its content type.


@dataclass(frozen=True, slots=True)
class Route:
    """One path that engines serve, with what is special about its API family."""

    path: str
    name: str
    """The label in metrics and logs."""
    dialect: Dialect = Dialect.CHUNKS
    streams: bool = False
    """Whether the family has streams; elsewhere a field that asks for one is another's."""
    injects_usage: bool = False
    """Whether the family's streams report usage only when asked to."""
    body: Body = Body.JSON
    """A form is passed on while it comes; whatever else is read whole, so that it can be sent
    again."""
    shape: ErrorShape = ErrorShape.OPENAI
    kind: Kind = Kind.LLM
    """Whose models answer."""

"""What does an answer say, without the form that its API family puts it in?

Pure: values, and what puts them together from the pieces of a stream. The forms are read in
`gateway.plan.reading`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool."""

    name: str
    arguments: str
    """JSON text, or what the model wrote instead."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and how sure the classifier is of it."""

    label: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Saying:
    """What one answer says; what its family does not have is empty."""

    texts: tuple[str, ...] = ()
    """The visible text of each choice; reasoning is no part of it."""
    finishes: tuple[str, ...] = ()
    """Why each choice ended, in the family's words."""
    calls: tuple[Call, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    """Embeddings, in the order of the inputs."""
    predictions: tuple[tuple[Prediction, ...], ...] = ()
    """The classes of each input."""


@dataclass(slots=True)
class Draft:
    """An answer whose pieces are being put together, by choice or block."""

    texts: dict[int, list[str]] = field(default_factory=dict)
    finishes: dict[int, str] = field(default_factory=dict)
    names: dict[tuple[int, int], str] = field(default_factory=dict)
    arguments: dict[tuple[int, int], list[str]] = field(default_factory=dict)

    def say(self, choice: int, text: str | None) -> None:
        """Add a piece of text; None only makes the choice known."""
        pieces = self.texts.setdefault(choice, [])
        if text:
            pieces.append(text)

    def call(self, place: tuple[int, int], name: str | None, arguments: str | None) -> None:
        """Add a piece of a call of a tool."""
        if name:
            self.names[place] = name
        self.arguments.setdefault(place, []).append(arguments or "")

    def saying(self) -> Saying:
        """Return the whole."""
        return Saying(
            tuple("".join(pieces) for _, pieces in sorted(self.texts.items())),
            tuple(self.finishes.get(choice, "") for choice in sorted(self.texts)),
            tuple(
                Call(self.names.get(place, ""), "".join(pieces))
                for place, pieces in sorted(self.arguments.items())
            ),
        )


class _Asked(msgspec.Struct, gc=False):
    response_format: Any = None
    text: Any = None


_ASKED = msgspec.json.Decoder(_Asked)
_JSON_FORMATS = ("json_object", "json_schema")


def wants_json(body: bytes) -> bool:
    """Say whether a request asks for a JSON text: `response_format`, or `text.format`."""
    if b"json_" not in body:
        return False
    try:
        asked = _ASKED.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    texts = asked.text if isinstance(asked.text, dict) else {}
    return any(
        isinstance(wish, dict) and wish.get("type") in _JSON_FORMATS
        for wish in (asked.response_format, texts.get("format"))
    )

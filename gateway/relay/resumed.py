"""How does the stream of a second endpoint become the rest of the first one's?

    SEEKING --the new text has passed what the client has--> started --end mark--> ended
    SEEKING --it says something else, or ends before that--> failure

Pure. A resumed stream is rare and short, so every event of it is decoded; members that need no
change are copied as bytes, numbers included. The client sees one id, one role, one usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from gateway.model import Usage
from gateway.relay.delivered import Delivered, Mode
from gateway.relay.sse import payload, split
from gateway.relay.transcript import Transcript
from gateway.relay.watch import DECODE_ERRORS, Failure, exact, read_error

_Raw = dict[str, msgspec.Raw]


class _Choice(msgspec.Struct, gc=False):
    finish_reason: Any = None


class _Chunk(msgspec.Struct, gc=False):
    """The members that are looked into; the rest of the event stays as it is."""

    choices: list[msgspec.Raw] | None = None
    usage: dict[str, msgspec.Raw] | None = None
    error: Any = None


_CHUNK = msgspec.json.Decoder(_Chunk)
_CHOICE = msgspec.json.Decoder(_Choice)
_MEMBERS = msgspec.json.Decoder(_Raw)
_ANY = msgspec.json.Decoder()
_COUNT = msgspec.json.Decoder(int | None)
_encode = msgspec.json.encode
_REASONING = ("reasoning", "reasoning_content")
_TEXTS = frozenset({"content", *_REASONING})
_DONE = b"data: [DONE]\n\n"
DIVERGED = Failure("The answer diverged from the one that broke off.")
_UNREADABLE = Failure("The engine sent an event that is not JSON.")


class ResumedWatcher:
    """Watches the stream that goes on with another; a `gateway.relay.watch.Watcher`."""

    __slots__ = (
        "_again",
        "_before",
        "_finished",
        "_mode",
        "_own",
        "_role",
        "_seam",
        "_strip_usage",
        "_text",
        "_thought",
        "_tokens",
        "ended",
        "failure",
        "started",
        "usage",
    )
    plain_mark: bytes | None = None  # Every event is rewritten.

    def __init__(
        self,
        before: Delivered,
        mode: Mode,
        *,
        strip_usage: bool,
        tokens: int | None = None,
        seam: str = "",
    ) -> None:
        """`before` is what the client has; `strip_usage` says that the usage chunk was our wish.

        For CONTINUE, `tokens` is how much of the new prompt is the answer's (`before.tokens` if
        not given), and `seam` the end of the text that was not sent: where the new text begins
        with it, that is dropped.
        """
        self._before = before
        self._mode = mode
        self._strip_usage = strip_usage
        self._tokens = before.tokens if tokens is None else tokens
        self._seam = seam
        # What the new text has still to repeat.
        self._again = mode is Mode.REPLAY
        self._text = before.text if self._again else ""
        self._thought = before.reasoning if self._again else ""
        self._role = before.role
        self._finished = False
        self._own = Transcript()
        self.usage = Usage(completion_tokens=before.tokens if self._again else self._tokens)
        self.failure: Failure | None = None
        self.started = False
        self.ended = False

    def delivered(self) -> Delivered:
        """Return what the client has if all that was passed on has reached it."""
        if not self.started:
            return self._before
        both = self._before.then(self._own.state())
        return replace(both, tokens=self.usage.completion_tokens)

    def count(self, tokens: int) -> None:
        """Count chunks: one token each, until usage says better."""
        if not self.usage.exact:
            self.usage.completion_tokens += tokens

    def see(self, events: bytes) -> bytes:
        """Return the events that are new to the client, under the first stream's names."""
        out = b"".join([self._take(event) for event in split(events)])
        self._own.plain(out)
        return out

    def closing(self) -> bytes | None:
        """Add the `[DONE]` that an engine forgot, if the finish reason was there."""
        if self.ended:
            return b""
        return _DONE if self._finished else None

    def _take(self, event: bytes) -> bytes:
        if self.failure or self.ended:
            return b""  # Whatever follows an error or the end mark belongs to no answer.
        data = payload(event)
        if data is None:
            return event if self.started else b""
        if data == b"[DONE]":
            self.ended = True
            return event if self.started else b""
        try:
            return self._rewrite(data)
        except DECODE_ERRORS:
            self.failure = _UNREADABLE
            return b""

    def _rewrite(self, data: bytes) -> bytes:
        chunk = _CHUNK.decode(data)
        if chunk.error is not None:
            self.failure = read_error(chunk.error)
            return b""
        members = _MEMBERS.decode(data)
        if chunk.usage is not None:
            members["usage"] = self._add_up(chunk.usage)
        if chunk.choices:
            choice = self._choose(chunk.choices[0], counted=chunk.usage is not None)
            if choice is None:
                return b""
            members["choices"] = _raw([choice])
            self.started = True
        elif chunk.usage is None or self._strip_usage or not self.started:
            return b""
        self._name(members)
        return b"data: %b\n\n" % _encode(members)

    def _name(self, members: _Raw) -> None:
        """Write the first stream's id, time and model."""
        before = self._before
        for key, value in (("id", before.id), ("created", before.created), ("model", before.model)):
            if value:
                members[key] = _raw(value)

    def _add_up(self, counts: Mapping[str, msgspec.Raw]) -> msgspec.Raw:
        """Return the usage of the whole answer: a continued one has its beginning in the prompt."""
        prompt = _count(counts.get("prompt_tokens")) or 0
        completion = _count(counts.get("completion_tokens"))
        if completion is None:
            return _raw(counts)  # To what was not counted nothing can be added.
        if not self._again:
            prompt, completion = max(0, prompt - self._tokens), completion + self._tokens
        self.usage = exact(prompt, completion)
        return _raw(
            dict(counts)
            | {
                "prompt_tokens": prompt,
                "total_tokens": prompt + completion,
                "completion_tokens": completion,
            }
        )

    def _choose(self, raw: msgspec.Raw, *, counted: bool) -> _Raw | None:
        """Return the choice as the client is to see it; None if it is nothing new."""
        finish = _CHOICE.decode(raw).finish_reason
        if finish == "abort":
            self.failure = Failure("The engine aborted the answer.")
            return None
        choice = _MEMBERS.decode(raw)
        said = self._say_delta(choice) if "delta" in choice else self._say(choice, ("text",))
        if finish is not None and (self._text or self._thought):
            self.failure = self.failure or DIVERGED  # It ends before it comes to what is new.
        # An empty token before the first that says something may be one that the client has.
        if self.failure or not (said or self.started or finish is not None):
            return None
        self._finished = self._finished or finish is not None
        if not counted:
            self.count(1)
        return choice

    def _say_delta(self, choice: _Raw) -> bool:
        """Cut what the client has from a delta; return whether something new is left in it."""
        delta = _MEMBERS.decode(choice["delta"])
        if self._role or self._text or self._thought:
            delta.pop("role", None)
        self._role = self._role or "role" in delta
        thought = self._say(delta, _REASONING)
        text = self._say(delta, ("content",))
        rest = any(_ANY.decode(delta[key]) for key in delta.keys() - _TEXTS)
        if rest and (self._text or self._thought):
            self.failure = DIVERGED  # A tool call, where the first stream had text.
        choice["delta"] = _raw(delta)
        return thought or text or rest

    def _say(self, members: _Raw, keys: tuple[str, ...]) -> bool:
        """Cut what the client has from the text under `keys`; return whether any is left.

        More than one key hold the same text: old and new names of one member.
        """
        said = False
        cuts: dict[str, str] = {}
        for key in keys:
            piece = _ANY.decode(members[key]) if key in members else None
            if isinstance(piece, str) and piece:
                if piece not in cuts:
                    cuts[piece] = self._cut(piece, thought=keys is _REASONING)
                members[key] = _raw(cuts[piece])
                said = said or bool(cuts[piece])
        return said

    def _cut(self, piece: str, *, thought: bool) -> str:
        """Return what of the next piece of text is new."""
        if self._seam and not thought:
            return self._cut_seam(piece)
        have = self._thought if thought else self._text
        both = min(len(piece), len(have))
        # Text before the thought is through, or more thought than there was, is another answer.
        early = bool(self._thought) if not thought else len(piece) > both and bool(self._text)
        if piece[:both] != have[:both] or early:
            self.failure = DIVERGED
            return ""
        if thought:
            self._thought = have[both:]
        else:
            self._text = have[both:]
        return piece[both:]

    def _cut_seam(self, piece: str) -> str:
        """Drop what of the seam is repeated; an engine that goes on otherwise may do so."""
        both = 0
        while both < min(len(piece), len(self._seam)) and piece[both] == self._seam[both]:
            both += 1
        self._seam = self._seam[both:] if both == len(piece) else ""
        return piece[both:]


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(_encode(value))


def _count(raw: msgspec.Raw | None) -> int | None:
    return 0 if raw is None else _COUNT.decode(raw)


def length_ending(before: Delivered, *, chat: bool, usage: Usage | None) -> bytes:
    """Return the events that end a stream which has had every token that it asked for.

    `usage` None leaves the usage chunk out, as OpenAI's API reference allows for a stream that was
    interrupted.
    """
    head = {
        "id": before.id,
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": before.created,
        "model": before.model,
    }
    said: dict[str, object] = {"delta": {}} if chat else {"text": ""}
    last = {"index": 0, **said, "logprobs": None, "finish_reason": "length"}
    chunks: list[dict[str, object]] = [head | {"choices": [last]}]
    if usage is not None:
        counts = {
            "prompt_tokens": usage.prompt_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "completion_tokens": usage.completion_tokens,
        }
        chunks.append(head | {"choices": [], "usage": counts})
    return b"".join([b"data: %b\n\n" % _encode(chunk) for chunk in chunks]) + _DONE

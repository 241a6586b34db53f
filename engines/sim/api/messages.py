"""How does `/v1/messages`, Anthropic's route, read its body and write its answers?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engines.sim import errors, template, tokenizer, tools
from engines.sim.api.model import DONE, Generate, Prompt, Served, Tally, settle
from engines.sim.errors import ApiError
from engines.sim.fields import Fields
from engines.sim.generation import Finish, Piece
from engines.sim.sampling import Streaming, read_sampling
from engines.sim.template import Conversation

_encode = msgspec.json.encode
_MODES = {"any": "required", "auto": "auto", "none": "none"}


def read(body: dict[str, Any], served: Served) -> Generate:
    """Return the validated request; `max_tokens` is required here. Errors come in Anthropic's
    shape.
    """
    fields = Fields(body)
    fields.required("messages")
    fields.required("max_tokens")
    sampling = read_sampling(
        fields,
        max_tokens=fields.integer("max_tokens"),
        stop_name="stop_sequences",
        logprobs=None,
    )
    stream = fields.flag("stream")
    top_p = fields.number("top_p")
    chosen = fields.object("tool_choice") or {}
    name = fields.text("model")
    listed = fields.array("tools") or []
    fields.check()
    try:
        model = served.resolve(name)
        conversation = _conversation(fields, model, listed)
        forced = str(chosen.get("name")) if chosen.get("type") == "tool" else None
        mode = _MODES.get(str(chosen.get("type")))
        offered = tools.read_tools(listed, "input_schema")
        call = tools.choose(offered, mode, forced, conversation)
        text = conversation.text
        request = Generate(
            model=model,
            prompts=(Prompt(text, tokenizer.encode(text), conversation.boundary),),
            sampling=sampling,
            streaming=Streaming(stream),
            top_p=top_p,
            script=call.arguments if call else None,
            tool=call,
        )
        return settle(request, served)
    except ApiError as error:
        raise errors.anthropic(error) from error


def count(body: dict[str, Any], served: Served) -> dict[str, object]:
    """Return the answer of `/v1/messages/count_tokens`."""
    fields = Fields(body)
    fields.required("messages")
    name = fields.text("model")
    listed = fields.array("tools") or []
    fields.check()
    try:
        conversation = _conversation(fields, served.resolve(name), listed)
    except ApiError as error:
        raise errors.anthropic(error) from error
    tokens = len(tokenizer.encode(conversation.text))
    return {"input_tokens": tokens, "context_management": {"original_input_tokens": tokens}}


def _conversation(fields: Fields, model: str, listed: list[Any]) -> Conversation:
    messages = fields.array("messages")
    system = fields.raw("system")
    fields.check()
    turns = [*([{"role": "system", "content": system}] if system else []), *(messages or [])]
    # As with the real API, a last assistant message is a prefix to go on from.
    last = turns[-1] if turns else None
    prefilled = isinstance(last, dict) and last.get("role") == "assistant"
    return template.render(
        turns,
        model=model,
        tools=listed,
        add_generation_prompt=not prefilled,
        continue_final=prefilled,
    )


class MessageShape:
    """Writes one message as Anthropic's events or as a whole."""

    __slots__ = ("_ident", "_request", "_started")

    def __init__(self, request: Generate, ident: str, created: int) -> None:
        self._request = request
        self._ident = ident
        self._started = False

    def opening(self, tally: Tally) -> list[bytes]:
        """Return `message_start`."""
        message: dict[str, Any] = {
            "id": f"chatcmpl-{self._ident}",
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self._request.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": tally.prompt_tokens, "output_tokens": 0},
        }
        return [_event({"type": "message_start", "message": message})]

    def event(self, choice: int, piece: Piece, tally: Tally) -> bytes:
        """Return a delta, and around the text the block's start, stop and the closing
        `message_delta`.
        """
        out = b""
        if piece.text:
            if not self._started:
                self._started = True
                out += _event(
                    {
                        "type": "content_block_start",
                        "content_block": self._block("", {}),
                        "index": 0,
                    }
                )
            kind = (
                ("input_json_delta", "partial_json")
                if self._request.tool
                else ("text_delta", "text")
            )
            delta = {"type": kind[0], kind[1]: piece.text}
            out += _event({"type": "content_block_delta", "delta": delta, "index": 0})
        if piece.finish is not None:
            if self._started:
                out += _event({"type": "content_block_stop", "index": 0})
            ended = {
                "stop_reason": self._stop_reason(piece),
                "stop_sequence": _stop_sequence(piece),
            }
            out += _event({"type": "message_delta", "delta": ended, "usage": _usage(tally)})
        return out

    def closing(self, tally: Tally) -> list[bytes]:
        """Return `message_stop`; this route has no `[DONE]`."""
        return [_event({"type": "message_stop"})]

    def failure(self) -> list[bytes]:
        """Return an `error` event."""
        error = {"type": "internal_error", "message": errors.ENGINE_DEAD}
        return [_event({"type": "error", "error": error}), DONE]

    def whole(self, choices: Sequence[Sequence[Piece]], tally: Tally) -> bytes:
        """Return the message."""
        (pieces,) = choices
        last = pieces[-1]
        text = "".join(piece.text for piece in pieces)
        body: dict[str, Any] = {
            "id": f"chatcmpl-{self._ident}",
            "type": "message",
            "role": "assistant",
            "content": [self._block(text, self._tool_input(text))],
            "model": self._request.model,
            "stop_reason": self._stop_reason(last),
        }
        sequence = _stop_sequence(last)
        if sequence is not None:
            body["stop_sequence"] = sequence
        return _encode(body | {"usage": _usage(tally)})

    def _tool_input(self, text: str) -> Any:
        # Arguments cut short by max_tokens are not JSON; an empty input is all this route can say.
        try:
            return msgspec.json.decode(text) if self._request.tool else {}
        except msgspec.DecodeError:
            return {}

    def _block(self, text: str, tool_input: Any) -> dict[str, Any]:
        call = self._request.tool
        if call is None:
            return {"type": "text", "text": text}
        ident = f"chatcmpl-tool-{self._ident}-0"
        return {"type": "tool_use", "id": ident, "name": call.name, "input": tool_input}

    def _stop_reason(self, piece: Piece) -> str | None:
        if piece.finish is Finish.LENGTH:
            return "max_tokens"
        if piece.finish is Finish.ABORT:
            return "refusal"
        if self._request.tool is not None:
            return "tool_use"
        return "end_turn" if piece.stop_reason is None else "stop_sequence"


def _stop_sequence(piece: Piece) -> str | None:
    return piece.stop_reason if isinstance(piece.stop_reason, str) else None


def _usage(tally: Tally) -> dict[str, int]:
    usage = {"input_tokens": tally.prompt_tokens, "output_tokens": tally.completion_tokens}
    if tally.cached_tokens is not None:
        usage["cache_creation_input_tokens"] = tally.created_tokens
        usage["cache_read_input_tokens"] = tally.cached_tokens
    return usage


def _event(body: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (body["type"].encode(), _encode(body))

"""How does `/v1/responses` read its body and write its answers?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engines.sim import errors, template, tokenizer, tools
from engines.sim.api.chat import read_tool_choice, structured_text
from engines.sim.api.model import Generate, Prompt, Served, Tally, settle
from engines.sim.fields import Fields, as_api_error
from engines.sim.generation import Finish, Piece
from engines.sim.sampling import Streaming, read_sampling

_encode = msgspec.json.encode


def read(body: dict[str, Any], served: Served) -> Generate:
    """Return the validated request; the input is text or a list of items."""
    fields = Fields(body)
    given = fields.required("input")
    limit = fields.integer("max_output_tokens")
    sampling = read_sampling(fields, max_tokens=limit, stop_name="stop", logprobs=None)
    top_p = fields.number("top_p")
    name = fields.text("model")
    stream = fields.flag("stream")
    instructions = fields.text("instructions")
    listed = fields.array("tools") or []
    text_options = fields.object("text") or {}
    fields.check()
    model = served.resolve(name)
    choice, forced = read_tool_choice(fields.raw("tool_choice"))
    turns = [*([{"role": "system", "content": instructions}] if instructions else [])]
    turns += _turns(given)
    conversation = template.render(turns, model=model, tools=() if choice == "none" else listed)
    call = tools.choose(tools.read_tools(listed), choice, forced, conversation)
    text = conversation.text
    scripted = structured_text(text_options.get("format") or {}, {}, text)
    request = Generate(
        model=model,
        prompts=(Prompt(text, tokenizer.encode(text), conversation.boundary),),
        sampling=sampling,
        streaming=Streaming(stream),
        top_p=top_p,
        script=call.arguments if call else scripted,
        tool=call,
        echoed={
            "instructions": instructions,
            "metadata": fields.raw("metadata"),
            "tool_choice": fields.raw("tool_choice") or ("auto" if listed else "none"),
            "tools": listed,
            "text": text_options or None,
            "user": fields.raw("user"),
        },
    )
    return settle(request, served)


def _turns(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise as_api_error("body.input", "Input should be a valid string or list", given)
    return [_turn(item) for item in given]


def _turn(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise errors.bad_request("Each input item must be an object")
    match item.get("type"):
        case "function_call":
            return {"role": "assistant", "content": str(item.get("arguments", ""))}
        case "function_call_output":
            return {"role": "tool", "content": str(item.get("output", ""))}
        case "reasoning":
            return {"role": "assistant", "content": ""}
    return item


class ResponseShape:
    """Writes one response: as typed, numbered events or as a whole."""

    __slots__ = ("_created", "_number", "_request", "_response", "_text")

    def __init__(self, request: Generate, ident: str, created: int) -> None:
        self._request = request
        self._response = f"resp_{ident}"
        self._created = created
        self._number = -1
        self._text: list[str] = []

    @property
    def _item(self) -> str:
        return self._response.replace("resp_", "fc_" if self._request.tool else "msg_", 1)

    def _event(self, kind: str, body: dict[str, Any]) -> bytes:
        self._number += 1
        whole = body | {"sequence_number": self._number, "type": kind}
        # vLLM's event members come in alphabetical order, those of the objects inside do not.
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), _encode(dict(sorted(whole.items()))))

    def opening(self, tally: Tally) -> list[bytes]:
        """Return the response's and the output item's beginning."""
        pending = self._body("in_progress", [], None, None)
        events = [
            self._event("response.created", {"response": pending}),
            self._event("response.in_progress", {"response": pending}),
            self._event(
                "response.output_item.added",
                {"item": self._output("", "in_progress"), "output_index": 0},
            ),
        ]
        if self._request.tool is None:
            part = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
            events.append(self._event("response.content_part.added", self._at({"part": part})))
        return events

    def _at(self, body: dict[str, Any]) -> dict[str, Any]:
        where: dict[str, Any] = {"content_index": 0} if self._request.tool is None else {}
        return where | {"item_id": self._item, "output_index": 0} | body

    def event(self, choice: int, piece: Piece, tally: Tally) -> bytes:
        """Return a delta for a token with text; at the end also what closes the response."""
        out = b""
        if piece.text:
            self._text.append(piece.text)
            if self._request.tool is None:
                delta = self._at({"delta": piece.text, "logprobs": []})
                out = self._event("response.output_text.delta", delta)
            else:
                delta = self._at({"delta": piece.text})
                out = self._event("response.function_call_arguments.delta", delta)
        if piece.finish is not None:
            out += self._ending(piece.finish, tally)
        return out

    def _ending(self, finish: Finish, tally: Tally) -> bytes:
        text = "".join(self._text)
        item = self._output(text, "completed")
        if self._request.tool is None:
            done = self._at({"logprobs": [], "text": text})
            part = self._at({"part": _text_part(text)})
            events = [
                self._event("response.output_text.done", done),
                self._event("response.content_part.done", part),
            ]
        else:
            done = self._at({"arguments": text, "name": self._request.tool.name})
            events = [self._event("response.function_call_arguments.done", done)]
        body = self._finished(text, finish, tally)
        events += [
            self._event("response.output_item.done", {"item": item, "output_index": 0}),
            self._event("response.completed", {"response": body}),
        ]
        return b"".join(events)

    def closing(self, tally: Tally) -> list[bytes]:
        """Return nothing: `response.completed` was the end, and this route has no `[DONE]`."""
        return []

    def failure(self) -> list[bytes]:
        """Return an in-band error."""
        return [errors.stream_event()]

    def whole(self, choices: Sequence[Sequence[Piece]], tally: Tally) -> bytes:
        """Return the response."""
        (pieces,) = choices
        text = "".join(piece.text for piece in pieces)
        return _encode(self._finished(text, pieces[-1].finish, tally))

    def _finished(self, text: str, finish: Finish | None, tally: Tally) -> dict[str, Any]:
        cut = finish is Finish.LENGTH
        reason = {"reason": "max_output_tokens"} if cut else None
        status = "incomplete" if cut else "completed"
        return self._body(status, [self._output(text, "completed")], reason, _usage(tally))

    def _output(self, text: str, status: str) -> dict[str, Any]:
        call = self._request.tool
        if call is not None:
            return {
                "arguments": text,
                "call_id": self._item.replace("fc_", "call_", 1),
                "name": call.name,
                "type": "function_call",
                "id": self._item,
                "status": status,
            }
        return {
            "id": self._item,
            "content": [_text_part(text)] if status == "completed" else [],
            "role": "assistant",
            "status": status,
            "type": "message",
            "phase": None,
        }

    def _body(
        self,
        status: str,
        output: list[dict[str, Any]],
        incomplete: dict[str, str] | None,
        usage: dict[str, Any] | None,
    ) -> dict[str, Any]:
        request = self._request
        echoed = request.echoed
        return {
            "id": self._response,
            "created_at": self._created,
            "incomplete_details": incomplete,
            "instructions": echoed["instructions"],
            "metadata": echoed["metadata"],
            "model": request.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "temperature": request.sampling.temperature,
            "tool_choice": echoed["tool_choice"],
            "tools": echoed["tools"],
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "background": False,
            "max_output_tokens": request.endings[0].max_tokens,
            "max_tool_calls": None,
            "previous_response_id": None,
            "prompt": None,
            "reasoning": None,
            "service_tier": "auto",
            "status": status,
            "text": echoed["text"],
            "top_logprobs": None,
            "truncation": "disabled",
            "usage": usage,
            "user": echoed["user"],
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "input_messages": None,
            "output_messages": None,
        }


def _text_part(text: str) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}


def _usage(tally: Tally) -> dict[str, Any]:
    return {
        "input_tokens": tally.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": tally.cached_tokens or 0,
            "cache_write_tokens": 0,
            "input_tokens_per_turn": [],
            "cached_tokens_per_turn": [],
        },
        "output_tokens": tally.completion_tokens,
        "output_tokens_details": {
            "reasoning_tokens": 0,
            "tool_output_tokens": 0,
            "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": [],
        },
        "total_tokens": tally.prompt_tokens + tally.completion_tokens,
    }

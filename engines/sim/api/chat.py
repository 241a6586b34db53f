"""How does `/v1/chat/completions` read its body and write its answers?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engines.sim import errors, example, template, tokenizer, tools
from engines.sim.api.logprobs import chat_logprobs
from engines.sim.api.model import DONE, FINGERPRINT, Generate, Prompt, Served, Tally, settle
from engines.sim.fields import Fields
from engines.sim.generation import Finish, Piece
from engines.sim.sampling import Sampling, read_sampling, read_streaming

_encode = msgspec.json.encode
_AFTER_TEXT = b'},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'


def read(body: dict[str, Any], served: Served) -> Generate:
    """Return the validated request; ApiError in vLLM's order: schema, model, prompt, sampling."""
    fields = Fields(body)
    fields.required("messages")
    messages = fields.array("messages")
    sampling = _read_sampling(fields)
    top_p = fields.number("top_p")
    name = fields.text("model")
    listed = fields.array("tools") or []
    add_prompt = fields.flag("add_generation_prompt", default=True)
    continue_final = fields.flag("continue_final_message")
    with_ids = fields.flag("return_token_ids")
    wanted = fields.object("response_format") or {}
    outputs = fields.object("structured_outputs") or {}
    streaming = read_streaming(fields)
    model = served.resolve(name)
    choice, forced = read_tool_choice(fields.raw("tool_choice"))
    conversation = template.render(
        messages or [],
        model=model,
        tools=() if choice == "none" else listed,
        add_generation_prompt=add_prompt,
        continue_final=continue_final,
    )
    call = tools.choose(tools.read_tools(listed), choice, forced, conversation)
    text, boundary = conversation.text, conversation.boundary
    script = call.arguments if call else structured_text(wanted, outputs, text[:boundary])
    request = Generate(
        model=model,
        prompts=(Prompt(text, tokenizer.encode(text), boundary),),
        sampling=sampling,
        streaming=streaming,
        top_p=top_p,
        script=script,
        tool=call,
        return_token_ids=with_ids,
    )
    return settle(request, served)


def _read_sampling(fields: Fields) -> Sampling:
    wanted = fields.flag("logprobs")
    top = fields.integer("top_logprobs")
    if top and not wanted:
        message = "when using `top_logprobs`, `logprobs` must be set to true."
        raise errors.bad_parameter(message, "top_logprobs")
    asked = fields.integer("max_completion_tokens")
    limit = fields.integer("max_tokens") if asked is None else asked
    return read_sampling(
        fields, max_tokens=limit, stop_name="stop", logprobs=(top or 0) if wanted else None
    )


def read_tool_choice(value: Any) -> tuple[str | None, str | None]:
    """Return the mode and the forced tool's name of a `tool_choice`, nested under `function` or
    flat.
    """
    if isinstance(value, dict):
        function = value.get("function", value)
        return None, str(function.get("name") if isinstance(function, dict) else function)
    return (value if isinstance(value, str) else None), None


def structured_text(wanted: dict[str, Any], outputs: dict[str, Any], key: str) -> str | None:
    """Return the text that a response format or `structured_outputs` prescribes; None when it is
    free.
    """
    if wanted.get("type") == "json_object":
        return example.json_text(None, key)
    if wanted.get("type") == "json_schema":
        inner = wanted.get("json_schema", wanted)
        return example.json_text(inner.get("schema") if isinstance(inner, dict) else None, key)
    if isinstance(outputs.get("json"), dict):
        return example.json_text(outputs["json"], key)
    if outputs.get("choice"):
        return str(outputs["choice"][len(key) % len(outputs["choice"])])
    if outputs.get("regex") or outputs.get("grammar"):
        raise errors.bad_request("regex and grammar are not supported by the simulated engine")
    return None


class ChatShape:
    """Writes one chat answer. The bytes around a plain token's text are made once per choice."""

    __slots__ = (
        "_before",
        "_continuous",
        "_head",
        "_ident",
        "_named_choices",
        "_open",
        "_plain",
        "_request",
    )

    def __init__(self, request: Generate, ident: str, created: int) -> None:
        self._request = request
        self._ident = ident
        self._open = request.choices
        self._named_choices: set[int] = set()
        self._continuous = request.streaming.continuous_usage
        self._head = {
            "id": f"chatcmpl-{ident}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": request.model,
        }
        # Logprobs, token ids, per-chunk usage and tool calls need a chunk built from scratch.
        self._plain = request.sampling.logprobs is None and not (
            request.return_token_ids or self._continuous or request.tool
        )
        head = _encode(self._head)[:-1]
        self._before = [
            b'data: %s,"choices":[{"index":%d,"delta":{"content":' % (head, choice)
            for choice in range(request.choices)
        ]

    def _chunk(self, choices: list[dict[str, Any]], tail: dict[str, Any]) -> bytes:
        return b"data: " + _encode(self._head | {"choices": choices} | tail) + b"\n\n"

    def opening(self, tally: Tally) -> list[bytes]:
        """Return one role chunk for each choice."""
        ids = list(self._request.prompts[0].tokens) if self._request.return_token_ids else None
        tail: dict[str, Any] = {"usage": tally.chunk_usage()} if self._continuous else {}
        tail |= {"prompt_token_ids": ids, "prompt_text": None}
        return [
            self._chunk(
                [
                    {
                        "index": choice,
                        "delta": {"role": "assistant", "content": ""},
                        "logprobs": None,
                        "finish_reason": None,
                    }
                ],
                tail,
            )
            for choice in range(self._request.choices)
        ]

    def event(self, choice: int, piece: Piece, tally: Tally) -> bytes:
        """Return the chunk of one token."""
        if self._plain and piece.finish is None:
            return self._before[choice] + _encode(piece.text) + _AFTER_TEXT
        request = self._request
        top = request.sampling.logprobs
        entry: dict[str, Any] = {
            "index": choice,
            "delta": self._delta(piece),
            "logprobs": None if top is None else chat_logprobs([piece], top),
            "finish_reason": None,
        }
        tail: dict[str, Any] = {}
        named = self._named(choice)
        if piece.finish is not None:
            entry |= {"finish_reason": _finish(request, piece), "stop_reason": piece.stop_reason}
            self._open -= 1
            if self._open == 0 and not request.streaming.include_usage:
                tail["system_fingerprint"] = FINGERPRINT
        entry["token_ids"] = [piece.token] if request.return_token_ids else None
        if self._continuous:
            tail = {"usage": tally.chunk_usage()} | tail
        return named + self._chunk([entry], tail)

    def _named(self, choice: int) -> bytes:
        """Return the chunk that names the called tool, once, before its arguments."""
        call = self._request.tool
        if call is None or choice in self._named_choices:
            return b""
        self._named_choices.add(choice)
        called = {
            "id": _call_id(self._ident, choice),
            "type": "function",
            "index": 0,
            "function": {"name": call.name},
        }
        entry = {
            "index": choice,
            "delta": {"content": None, "tool_calls": [called]},
            "logprobs": None,
            "finish_reason": None,
            "token_ids": None,
        }
        return self._chunk([entry], {})

    def _delta(self, piece: Piece) -> dict[str, Any]:
        if self._request.tool is None:
            return {"content": piece.text}
        if piece.finish is not None and not piece.text:
            return {}
        return {
            "content": None,
            "tool_calls": [{"index": 0, "function": {"arguments": piece.text}}],
        }

    def closing(self, tally: Tally) -> list[bytes]:
        """Return the usage chunk, if asked for, and the end mark."""
        if not self._request.streaming.include_usage:
            return [DONE]
        tail = {"usage": tally.stream_usage(), "system_fingerprint": FINGERPRINT}
        return [self._chunk([], tail), DONE]

    def failure(self) -> list[bytes]:
        """Return vLLM's in-band error, which the end mark follows all the same."""
        return [errors.stream_event(), DONE]

    def whole(self, choices: Sequence[Sequence[Piece]], tally: Tally) -> bytes:
        """Return the body of `chat.completion`."""
        request = self._request
        ids = list(request.prompts[0].tokens) if request.return_token_ids else None
        body = self._head | {
            "object": "chat.completion",
            "choices": [self._choice(at, pieces) for at, pieces in enumerate(choices)],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": tally.full_usage(),
            "prompt_logprobs": None,
            "prompt_token_ids": ids,
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }
        return _encode(body)

    def _choice(self, at: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        request = self._request
        top = request.sampling.logprobs
        last = pieces[-1]
        return {
            "index": at,
            "message": self._message(at, "".join(piece.text for piece in pieces)),
            "logprobs": None if top is None else chat_logprobs(pieces, top),
            "finish_reason": _finish(request, last),
            "stop_reason": last.stop_reason,
            "token_ids": [piece.token for piece in pieces] if request.return_token_ids else None,
            "routed_experts": None,
        }

    def _message(self, at: int, text: str) -> dict[str, Any]:
        call = self._request.tool
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "" if call else text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
        }
        if call:
            function = {"name": call.name, "arguments": text}
            entry = {"id": _call_id(self._ident, at), "type": "function", "function": function}
            message["tool_calls"] = [entry]
        return message | {"reasoning": None}


def _call_id(ident: str, choice: int) -> str:
    return f"chatcmpl-tool-{ident}-{choice}"


def _finish(request: Generate, piece: Piece) -> str | None:
    if piece.finish is Finish.STOP and request.tool is not None:
        return request.tool.finish
    return piece.finish

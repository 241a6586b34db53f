"""How does `/v1/completions` read its body and write its answers?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engines.sim import errors, tokenizer
from engines.sim.api.chat import structured_text
from engines.sim.api.logprobs import completion_logprobs
from engines.sim.api.model import DONE, FINGERPRINT, Generate, Prompt, Served, Tally, settle
from engines.sim.fields import Fields
from engines.sim.generation import Piece
from engines.sim.sampling import read_sampling, read_streaming

_encode = msgspec.json.encode
_DEFAULT_MAX_TOKENS = 16  # OpenAI's default for this route, kept by vLLM


def read(body: dict[str, Any], served: Served) -> Generate:
    """Return the validated request; the prompt may be text or token ids, one or several."""
    fields = Fields(body)
    asked = fields.integer("max_tokens")
    sampling = read_sampling(
        fields,
        max_tokens=_DEFAULT_MAX_TOKENS if asked is None else asked,
        stop_name="stop",
        logprobs=fields.integer("logprobs"),
    )
    top_p = fields.number("top_p")
    name = fields.text("model")
    suffix = fields.text("suffix")
    echo = fields.flag("echo")
    with_ids = fields.flag("return_token_ids")
    wanted = fields.object("response_format") or {}
    outputs = fields.object("structured_outputs") or {}
    streaming = read_streaming(fields)
    model = served.resolve(name)
    if suffix is not None:
        message = "suffix is only supported for models with FIM completion rendering"
        raise errors.bad_request(message, "suffix")
    prompts = read_prompts(fields.raw("prompt"))
    request = Generate(
        model=model,
        prompts=prompts,
        sampling=sampling,
        streaming=streaming,
        top_p=top_p,
        script=structured_text(wanted, outputs, prompts[0].text),
        return_token_ids=with_ids,
        echo=echo,
    )
    return settle(request, served)


def read_prompts(value: Any) -> tuple[Prompt, ...]:
    """Return the prompts of a text, a list of texts, token ids, or a list of lists of token ids."""
    if value is None:
        message = "Either prompt or prompt_embeds must be provided and non-empty."
        raise errors.bad_parameter(message, "prompt")
    if isinstance(value, str) or (_is_tokens(value) and value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise errors.bad_request("You must pass at least one prompt")
    return tuple(_one_prompt(item) for item in value)


def _one_prompt(item: Any) -> Prompt:
    if item in ("", []):
        raise errors.bad_request("The decoder prompt cannot be empty")
    if isinstance(item, str):
        return Prompt(item, tokenizer.encode(item))
    if _is_tokens(item):
        try:
            return Prompt(tokenizer.decode(item), item)
        except ValueError as error:
            raise errors.bad_request(str(error)) from error
    raise errors.bad_request("Each prompt must be a string or a list of token ids")


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) for item in value
    )


class CompletionShape:
    """Writes one completion. With `echo` the prompt's text comes before the first token's."""

    __slots__ = ("_continuous", "_head", "_lengths", "_request")

    def __init__(self, request: Generate, ident: str, created: int) -> None:
        self._request = request
        self._continuous = request.streaming.continuous_usage
        self._lengths: dict[int, int] = {}
        self._head = {
            "id": f"cmpl-{ident}",
            "object": "text_completion",
            "created": created,
            "model": request.model,
        }

    def opening(self, tally: Tally) -> list[bytes]:
        """Return nothing: the first token is the first event."""
        return []

    def event(self, choice: int, piece: Piece, tally: Tally) -> bytes:
        """Return the chunk of one token."""
        request = self._request
        prompt = request.prompt_of(choice)
        first = choice not in self._lengths
        offset = self._lengths.get(choice, 0)
        text = prompt.text + piece.text if first and request.echo else piece.text
        self._lengths[choice] = offset + len(text)
        top = request.sampling.logprobs
        with_ids = request.return_token_ids
        entry = {
            "index": choice,
            "text": text,
            "logprobs": None if top is None else completion_logprobs([piece], top, offset),
            "finish_reason": piece.finish,
            "stop_reason": piece.stop_reason,
            "prompt_token_ids": list(prompt.tokens) if with_ids and first else None,
            "token_ids": [piece.token] if with_ids else None,
        }
        return self._chunk([entry], {"usage": tally.chunk_usage()} if self._continuous else {})

    def _chunk(self, choices: list[dict[str, Any]], tail: dict[str, Any]) -> bytes:
        return b"data: " + _encode(self._head | {"choices": choices} | tail) + b"\n\n"

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
        """Return the body of `text_completion`."""
        body = self._head | {
            "choices": [self._choice(at, pieces) for at, pieces in enumerate(choices)],
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": tally.full_usage(with_created=False),
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }
        return _encode(body)

    def _choice(self, at: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        request = self._request
        prompt = request.prompt_of(at)
        top = request.sampling.logprobs
        offset = len(prompt.text) if request.echo else 0
        text = "".join(piece.text for piece in pieces)
        with_ids = request.return_token_ids
        last = pieces[-1]
        return {
            "index": at,
            "text": prompt.text + text if request.echo else text,
            "logprobs": None if top is None else completion_logprobs(pieces, top, offset),
            "finish_reason": last.finish,
            "stop_reason": last.stop_reason,
            "token_ids": [piece.token for piece in pieces] if with_ids else None,
            "prompt_logprobs": None,
            "prompt_token_ids": list(prompt.tokens) if with_ids else None,
            "routed_experts": None,
        }

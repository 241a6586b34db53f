"""Which prompt text does a conversation become?

ChatML, the template of many open models: `<|im_start|>role`, newline, content, `<|im_end|>`,
newline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from engines.sim import errors
from engines.sim.fields import Fields, as_api_error

_START = "<|im_start|>"
_END = "<|im_end|>\n"
_TEXT_PARTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "tool_result"})


@dataclass(frozen=True, slots=True)
class Conversation:
    """A rendered conversation: its text, and where the assistant's turn under way begins, if
    any.
    """

    text: str
    boundary: int | None
    last_user: str
    last_role: str


def render(
    messages: Sequence[object],
    *,
    model: str,
    tools: Sequence[object] = (),
    add_generation_prompt: bool = True,
    continue_final: bool = False,
) -> Conversation:
    """Return the prompt; ApiError 400 for an empty conversation or content that is not text.

    With `continue_final` the last message stays open, so that the answer goes on where it ends.
    """
    if continue_final and add_generation_prompt:
        raise errors.bad_request(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        )
    if not messages:
        raise errors.bad_request(
            "Cannot apply chat template to an empty conversation. Provide at least one message."
        )
    parts: list[str] = []
    if tools:
        listed = msgspec.json.encode(list(tools)).decode()
        parts.append(f"{_START}system\nTools: {listed}{_END}")
    last_user, role, content = "", "", ""
    for at, message in enumerate(messages):
        role, content = _message(message, f"body.messages.{at}", model)
        last_user = content if role == "user" else last_user
        parts.append(f"{_START}{role}\n{content}{_END}")
    boundary = None
    if continue_final:
        parts[-1] = parts[-1].removesuffix(_END)
        boundary = sum(map(len, parts)) - len(content)
    elif add_generation_prompt:
        parts.append(f"{_START}assistant\n")
        boundary = sum(map(len, parts))
    return Conversation("".join(parts), boundary, last_user, role)


def _message(message: object, where: str, model: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise as_api_error(where, "Input should be a valid dictionary", message)
    fields = Fields(message, where)
    role = fields.required("role")
    fields.check()
    content = _content(message.get("content"), where, model)
    calls = message.get("tool_calls")
    if calls:
        content += msgspec.json.encode(calls).decode()
    return str(role), content


def _content(content: Any, where: str, model: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise as_api_error(f"{where}.content", "Input should be a valid string", content)
    return "".join(_part(part, f"{where}.content.{at}", model) for at, part in enumerate(content))


def _part(part: Any, where: str, model: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise as_api_error(where, "Input should be a valid dictionary", part)
    kind = part.get("type", "text")
    if kind in _TEXT_PARTS:
        inner = part.get("text", part.get("content", part.get("thinking", "")))
        return _content(inner, where, model)
    if kind == "tool_use":
        return msgspec.json.encode(part.get("input")).decode()
    raise errors.bad_request(f"{model} is not a multimodal model")

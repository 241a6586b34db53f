"""Does the answer call a tool, and with which arguments?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engines.sim import errors, example
from engines.sim.generation import Finish
from engines.sim.template import Conversation


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the client offers."""

    name: str
    parameters: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The one call that the answer makes; `arguments` is JSON text."""

    name: str
    arguments: str
    finish: Finish


def read_tools(listed: Sequence[Any], schema_name: str = "parameters") -> tuple[Tool, ...]:
    """Return the function tools of a request, nested under `function` or flat."""
    found = []
    for entry in listed:
        function = entry.get("function", entry) if isinstance(entry, dict) else {}
        name = function.get("name")
        if isinstance(name, str):
            schema = function.get(schema_name)
            found.append(Tool(name, schema if isinstance(schema, dict) else None))
    return tuple(found)


def choose(
    tools: Sequence[Tool], choice: str | None, name: str | None, conversation: Conversation
) -> ToolCall | None:
    """Return the call that `tool_choice` leads to.

    `name` forces one tool, `choice == "required"` some tool. With "auto" the simulated engine calls
    a tool when the user's last message names it and no tool has answered yet; otherwise it answers
    with text. vLLM ends a named call with `stop` and the others with `tool_calls`.
    """
    if name is not None:
        match = next((tool for tool in tools if tool.name == name), None)
        if match is None:
            raise errors.bad_parameter(
                "The tool specified in `tool_choice` does not match any of the specified `tools`",
                "tool_choice",
            )
        return _call(match, conversation, Finish.STOP)
    if not tools or choice == "none":
        return None
    mentioned = next((tool for tool in tools if tool.name in conversation.last_user), None)
    if choice == "required":
        return _call(mentioned or tools[0], conversation, Finish.TOOL_CALLS)
    if mentioned is None or conversation.last_role != "user":
        return None
    return _call(mentioned, conversation, Finish.TOOL_CALLS)


def _call(tool: Tool, conversation: Conversation, finish: Finish) -> ToolCall:
    schema = tool.parameters or {"type": "object", "properties": {}}
    return ToolCall(tool.name, example.json_text(schema, conversation.text), finish)

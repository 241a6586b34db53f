"""What would the simulated engine stream for a body, without a server around it?"""

from __future__ import annotations

import json
from typing import Any

from engines.sim.api.chat import ChatShape
from engines.sim.api.chat import read as read_chat
from engines.sim.api.completions import CompletionShape
from engines.sim.api.completions import read as read_completions
from engines.sim.api.model import Served, Tally

SERVED = Served(("m",), "m", 4096)


def sim_stream(route: str, body: bytes, ident: str = "1", created: int = 1700000000) -> list[bytes]:
    """Return the events of a whole stream, one for each token and the ones around them."""
    value: dict[str, Any] = json.loads(body)
    chat = route == "chat"
    request = read_chat(value, SERVED) if chat else read_completions(value, SERVED)
    shape = (ChatShape if chat else CompletionShape)(request, ident, created)
    tally = Tally(len(request.prompts[0].tokens))
    events = shape.opening(tally)
    generation = request.generation(0)
    while not generation.done:
        piece = generation.step()
        tally.completion_tokens += 1
        events.append(shape.event(0, piece, tally))
    return [*events, *shape.closing(tally)]


def said(events: bytes, key: str = "content") -> str:
    """Return the text of a stream as a client puts it together, read with Python's own parser."""
    text = ""
    for block in events.decode().split("\n\n"):
        if block.startswith("data: {"):
            for choice in json.loads(block[6:])["choices"]:
                text += choice.get("delta", choice).get(key) or ""
    return text

"""What does a mock server overlook that vLLM refuses?

The tests that SDKs publish give every parameter at once, with values that no engine takes
(`max_tokens: 0`, `suffix`, `stream_options` beside `stream: false`): they are made for mock
servers, which answer each request by its schema alone. Pure.
"""

from __future__ import annotations

from typing import Any

_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def overlook(body: dict[str, Any]) -> dict[str, Any]:
    """Return `body` without what it asks in vain.

    Embeddings become floats in any case: openai-python's strict mode refuses the base64 that it
    asks for itself.
    """
    kept = dict(body)
    for name in _LIMITS:
        if isinstance(kept.get(name), int) and kept[name] < 1:
            del kept[name]
    if not kept.get("stream"):
        kept.pop("stream_options", None)
    kept.pop("suffix", None)
    if kept.get("encoding_format") == "base64":
        del kept["encoding_format"]
    return kept

"""What schemathesis cannot know: which models there are. Without, all it met would be a 404."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> Any:
    """Ask the model that ships; its repository's routes have names of their own."""
    if path_parameters and context.operation.path.endswith("/infer"):
        return path_parameters | {"model": "digits"}
    return path_parameters


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Name the model, and of an infer request the input, where something is named."""
    if not isinstance(body, dict):
        return body
    if isinstance(body.get("model"), str):
        body["model"] = "digits"
    if isinstance(inputs := body.get("inputs"), list):
        for one in inputs:
            if isinstance(one, dict) and isinstance(one.get("name"), str):
                one["name"] = "image"
    return body

"""How do `/tokenize` and `/detokenize` answer?"""

from __future__ import annotations

from typing import Any

from engines.sim import errors, template, tokenizer
from engines.sim.api.model import Served
from engines.sim.fields import Fields


def tokenize(body: dict[str, Any], served: Served) -> dict[str, object]:
    """Return the tokens of a prompt, or of a conversation as the chat route would render it."""
    fields = Fields(body)
    prompt = fields.text("prompt")
    messages = fields.array("messages")
    if messages is None:
        fields.required("prompt")
    add_prompt = fields.flag("add_generation_prompt", default=True)
    continue_final = fields.flag("continue_final_message")
    with_texts = fields.flag("return_token_strs")
    listed = fields.array("tools") or []
    name = fields.text("model")
    fields.check()
    model = served.resolve(name)
    if messages is not None:
        prompt = template.render(
            messages,
            model=model,
            tools=listed,
            add_generation_prompt=add_prompt,
            continue_final=continue_final,
        ).text
    tokens = tokenizer.encode(prompt or "")
    return {
        "count": len(tokens),
        "max_model_len": served.max_model_len,
        "tokens": tokens,
        "token_strs": [tokenizer.decode((token,)) for token in tokens] if with_texts else None,
    }


def detokenize(body: dict[str, Any], served: Served) -> dict[str, object]:
    """Return the text of token ids."""
    fields = Fields(body)
    fields.required("tokens")
    tokens = fields.array("tokens") or []
    name = fields.text("model")
    fields.check()
    served.resolve(name)
    try:
        return {"prompt": tokenizer.decode(int(token) for token in tokens)}
    except (TypeError, ValueError) as error:
        raise errors.bad_request(str(error)) from error

"""Which vectors and scores do texts get: `/v1/embeddings`, `/v1/score`, `/v1/rerank`?

A vector is made by feature hashing (Weinberger et al., 2009): every token adds +1 or -1 at a few
positions that its id determines, then the sum is scaled to length 1. Texts that share words are
therefore close, equal texts equal. One simulated engine serves these routes beside the generating
ones, where vLLM serves one kind of model each.
"""

from __future__ import annotations

import base64
import math
from array import array
from collections.abc import Sequence
from typing import Any

from engines.sim import errors
from engines.sim.api.completions import read_prompts
from engines.sim.api.model import Prompt, Served
from engines.sim.errors import ApiError
from engines.sim.fields import Fields

DIMENSIONS = 384
_POSITIONS = 8
_MIX = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def vector(tokens: Sequence[int], dimensions: int = DIMENSIONS) -> array[float]:
    """Return the unit vector of `tokens` in 32-bit floats."""
    sums = [0.0] * dimensions
    for token in tokens:
        state = (token + 1) * _MIX & _MASK
        for _ in range(_POSITIONS):
            state = (state ^ (state >> 29)) * _MIX & _MASK
            sums[(state >> 33) % dimensions] += 1.0 if state >> 63 else -1.0
    norm = math.sqrt(sum(value * value for value in sums))
    if norm == 0.0:  # every feature cancelled another out
        sums[0] = norm = 1.0
    return array("f", (value / norm for value in sums))


def similarity(left: Sequence[int], right: Sequence[int]) -> float:
    """Return the cosine of two token sequences' vectors, from -1 to 1."""
    return sum(a * b for a, b in zip(vector(left), vector(right), strict=True))


def embeddings(body: dict[str, Any], served: Served, ident: str, created: int) -> dict[str, object]:
    """Answer `/v1/embeddings`: texts or token ids in, floats or base64 of little-endian floats
    out.
    """
    fields = Fields(body)
    given = fields.required("input")
    dimensions = fields.integer("dimensions")
    encoding = fields.text("encoding_format")
    name = fields.text("model")
    fields.check()
    model = _resolve(served, name)
    if dimensions is not None and not 1 <= dimensions <= DIMENSIONS:
        message = f"dimensions must be in [1, {DIMENSIONS}], got {dimensions}."
        raise errors.bad_parameter(message, "dimensions", dimensions)
    if encoding not in (None, "float", "base64"):
        raise errors.bad_parameter("unknown encoding format.", "encoding_format", encoding)
    prompts = read_prompts(given)
    _check_lengths(prompts, served)
    data = []
    for index, prompt in enumerate(prompts):
        numbers = vector(prompt.tokens, dimensions or DIMENSIONS)
        shown = _base64(numbers) if encoding == "base64" else numbers.tolist()
        data.append({"index": index, "object": "embedding", "embedding": shown})
    return {
        "id": f"embd-{ident}",
        "object": "list",
        "created": created,
        "model": model,
        "data": data,
        "usage": _usage(sum(len(prompt.tokens) for prompt in prompts)),
    }


def score(body: dict[str, Any], served: Served, ident: str, created: int) -> dict[str, object]:
    """Answer `/v1/score`: the similarity of each pair of `text_1` and `text_2`, one against many
    or pairwise.
    """
    fields = Fields(body)
    first = fields.required("text_1")
    second = fields.required("text_2")
    name = fields.text("model")
    fields.check()
    model = _resolve(served, name)
    lefts, rights = read_prompts(first), read_prompts(second)
    if len(lefts) == 1:
        lefts = lefts * len(rights)
    if len(lefts) != len(rights):
        raise errors.bad_request("Input lengths must be either 1:1, 1:N or N:N")
    _check_lengths((*lefts, *rights), served)
    pairs = list(zip(lefts, rights, strict=True))
    return {
        "id": f"score-{ident}",
        "object": "list",
        "created": created,
        "model": model,
        "data": [
            {"index": at, "object": "score", "score": similarity(left.tokens, right.tokens)}
            for at, (left, right) in enumerate(pairs)
        ],
        "usage": _usage(sum(len(left.tokens) + len(right.tokens) for left, right in pairs)),
    }


def rerank(body: dict[str, Any], served: Served, ident: str) -> dict[str, object]:
    """Answer `/v1/rerank`: the documents by falling similarity to the query, at most `top_n`."""
    fields = Fields(body)
    query = fields.text("query")
    fields.required("query")
    documents = fields.array("documents")
    fields.required("documents")
    top_n = fields.integer("top_n")
    name = fields.text("model")
    fields.check()
    model = _resolve(served, name)
    (asked,) = read_prompts(query)
    texts = [entry.get("text") if isinstance(entry, dict) else entry for entry in documents or []]
    prompts = read_prompts(texts)
    _check_lengths((asked, *prompts), served)
    results = [
        {
            "index": at,
            "document": {"text": prompt.text, "multi_modal": None},
            "relevance_score": similarity(asked.tokens, prompt.tokens),
        }
        for at, prompt in enumerate(prompts)
    ]
    results.sort(key=_relevance, reverse=True)
    tokens = sum(len(asked.tokens) + len(prompt.tokens) for prompt in prompts)
    return {
        "id": f"score-{ident}",
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results[:top_n] if top_n else results,
    }


def _resolve(served: Served, name: str | None) -> str:
    try:
        return served.resolve(name)
    except ApiError as error:
        raise errors.pooling_model_not_found(str(name)) from error


def _relevance(result: dict[str, Any]) -> float:
    return float(result["relevance_score"])


def _check_lengths(prompts: Sequence[Prompt], served: Served) -> None:
    if any(len(prompt.tokens) > served.max_model_len for prompt in prompts):
        raise errors.prompt_too_long(served.max_model_len)


def _base64(numbers: array[float]) -> str:
    if array("H", [1]).tobytes() != b"\x01\x00":
        numbers = array("f", numbers)
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def _usage(tokens: int) -> dict[str, object]:
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }

"""Which kinds of value do policy files hold beyond those of the configuration?

Pure. The types carry their checks, as in `gateway.config.fields`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf, prod
from re import _constants as codes  # type: ignore[attr-defined]  # typeshed leaves it out
from re import _parser as parser  # type: ignore[attr-defined]  # typeshed leaves it out
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gateway.config.fields import ClusterName, Count, ModelName, Spec, Text
from gateway.wire.guard import HOP_BY_HOP

Metric = Literal[
    "success_rate",
    "error_rate",
    "abort_rate",
    "truncation_rate",
    "cancel_rate",
    "ttft",
    "inter_token",
    "latency",
    "tokens_per_s",
    "output_tokens",
    "feedback",
]
"""What is measured for each arm: the names in `gateway.stats.metrics`; a test keeps them equal."""

UNSEEN = HOP_BY_HOP | {
    b"host",
    b"content-length",
    b"content-encoding",
    b"content-type",
    b"expect",
    b"api-key",
    b"authorization",
    b"x-api-key",
    b"accept-encoding",
    b"x-request-id",
    b"x-request-timeout-ms",
}
"""Header fields that the gateway keeps to itself, so that no rule sees them; a test compares this
with what `gateway.wire.guard` forwards."""

MAX_REGEX_CHARS = 256
"""Longest regular expression, and longest value that one is tried on (in bytes)."""

MAX_WAYS = 129.0**3
"""Most ways in which an expression may match, as `_ways` counts them: three times `.*`. That takes
25 ms at the worst, for a value of 256 bytes made for it; four times would take 1.5 s."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_BY = ("user", "session", "api_key", "request")
_FIXED = frozenset({"model", "messages", "prompt", "input", "stream", "stream_options", "n"})


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError(
            "is not a name: use 1 to 63 letters, digits, dots, dashes and underscores, "
            "beginning with a letter or digit"
        )
    return text


def _header_name(text: str) -> str:
    name = text.lower()
    if not _TOKEN.fullmatch(name):
        raise ValueError("is not the name of a header field")
    if name.encode() in UNSEEN:
        raise ValueError("is a field that ends at the gateway; rules see only those that travel on")
    return name


def _sticky_by(text: str) -> str:
    place, colon, name = text.partition(":")
    if colon and place == "header":
        return f"header:{_header_name(name)}"
    if text not in _BY:
        raise ValueError(f"is not a key; write {', '.join(_BY)} or header:NAME")
    return text


def _regex(text: str) -> str:
    if len(text) > MAX_REGEX_CHARS:
        raise ValueError(f"is longer than {MAX_REGEX_CHARS} characters")
    try:
        parsed = parser.parse(text.encode())
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    if _ways(parsed) > MAX_WAYS:
        raise ValueError(
            "could take for ever on some values: it can match them in too many ways; repeat "
            "nothing that itself repeats or has alternatives, and use fewer * + ? and |"
        )
    return text


def _ways(node: Any) -> float:
    """Return about how many ways a backtracking matcher may try before it gives up.

    Stricter than needed, since no cheap test is exact: a repeat of anything that can match in
    several ways counts as endless. Atomic groups and possessive repeats (`(?>...)`, `a++`) are one
    way once they have matched.
    """
    ways = 1.0
    for code, argument in node:
        inside = [_ways(part) for part in _patterns(argument)]
        if code in (codes.ATOMIC_GROUP, codes.POSSESSIVE_REPEAT):
            # Before they match they may try all of theirs.
            ways = inf if max(inside) > MAX_WAYS else ways
        elif code is codes.BRANCH:
            ways *= sum(inside)
        else:
            ways *= prod(inside)
            if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
                least, most, _ = argument
                if most > 1 and inside[0] > 1:
                    return inf
                ways *= min(most - least, MAX_REGEX_CHARS / 2) + 1
    return ways


def _patterns(argument: Any) -> list[Any]:
    if isinstance(argument, parser.SubPattern):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [found for part in argument for found in _patterns(part)]
    return []


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "must be a number, not true or false")
    return value


def _patch(value: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in value:
        if key in _FIXED:
            raise ValueError(f"must not hold `{key}`: the answer's form or its model hang on it")
    return value


Label = Annotated[str, AfterValidator(_label)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
StickyBy = Annotated[
    str,
    AfterValidator(_sticky_by),
    Field(json_schema_extra={"pattern": rf"^({'|'.join(_BY)}|header:.+)$"}),
]
Regex = Annotated[Text, AfterValidator(_regex)]
ArmWeight = Annotated[
    float, Field(ge=0, le=1_000_000, allow_inf_nan=False), BeforeValidator(_no_bool)
]
Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_no_bool)]
Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_no_bool)]
Probability = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), BeforeValidator(_no_bool)]
Patch = Annotated[Mapping[Text, JsonValue], AfterValidator(_patch)]


class Override(Spec):
    """Fields of the request's JSON body that an arm sets. Forms and images are left alone."""

    temperature: Annotated[Number, Field(ge=0, le=2)] | None = Field(
        default=None, description="Sampling temperature in place of the client's; OpenAI: 0 to 2."
    )
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = Field(
        default=None, description="Nucleus sampling in place of the client's."
    )
    max_tokens: Count | None = Field(
        default=None,
        description="Most tokens of the answer, under the name that the client used "
        "(max_completion_tokens, max_tokens), or that its route has (max_output_tokens).",
    )
    system_prompt: Text | None = Field(
        default=None,
        description="System prompt of chat, messages and responses requests; others have none.",
    )
    system_prompt_mode: Literal["replace", "prepend"] = Field(
        default="replace",
        description="Whether the client's own system prompt goes, or follows after an empty line.",
    )
    body: Patch = Field(
        default={},
        description="Merged into the body as a JSON merge patch (RFC 7396): mappings are merged, "
        "other values replaced, null removes. Not for model, messages, prompt, input, stream, "
        "stream_options and n.",
        examples=[{"chat_template_kwargs": {"enable_thinking": False}}],
    )

    @property
    def empty(self) -> bool:
        """Whether it leaves every request as it is."""
        return self == _NOTHING


_NOTHING = Override()


class Target(Spec):
    """Where requests go: a model of the configuration, or a cluster."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["model"]}, {"required": ["cluster"]}]}
    )

    model: ModelName | None = Field(
        default=None,
        description="A model of the configuration or one of its aliases, with its cluster, its "
        "upstream name and its fallbacks. Policies are not applied to it again.",
    )
    cluster: ClusterName | None = Field(
        default=None,
        description="Instead of `model`: a cluster; the requested model is asked for there.",
    )
    upstream_model: ModelName | None = Field(
        default=None,
        description="With `cluster`: the engines' name of the model there; without it the name "
        "that the requested model has upstream.",
    )
    override: Override = Field(
        default=Override(), description="What is changed in the body on the way there."
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.model is None) == (self.cluster is None):
            raise ValueError("needs either a model or a cluster")
        if self.model is not None and self.upstream_model is not None:
            raise ValueError("has upstream_model without cluster; a model brings its own")
        return self

    def same_place(self, other: Target) -> bool:
        """Whether both lead to the same place with the same changes."""
        return all(getattr(self, name) == getattr(other, name) for name in Target.model_fields)

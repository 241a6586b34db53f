"""Which requests may a policy apply to?

Pure: values only; `gateway.plan.match` compiles them.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from gateway.config.fields import ModelName, Percent, Spec, Text
from gateway.config.policy_fields import HeaderName, Regex, StickyBy

RouteName = Literal[
    "chat",
    "completions",
    "embeddings",
    "responses",
    "messages",
    "count_tokens",
    "rerank",
    "score",
    "tokenize",
    "detokenize",
    "transcriptions",
    "predict",
]
"""The names in `gateway.api.routes`; a test keeps the two equal."""


class Header(Spec):
    """One condition on a header field; several conditions must all hold."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": [name]} for name in ("exact", "prefix", "regex", "present")]
        }
    )

    name: HeaderName = Field(description="Name of the field, in any case.")
    exact: str | None = Field(default=None, description="The whole value.")
    prefix: Text | None = Field(default=None, description="What the value begins with.")
    regex: Regex | None = Field(
        default=None,
        description="Python regular expression for the whole value, as Envoy's safe_regex_match; "
        "values over 256 bytes never match.",
    )
    present: bool | None = Field(
        default=None, description="Whether the field is there at all, with whatever value."
    )
    invert: bool = Field(
        default=False, description="Let the condition hold where it otherwise would not."
    )

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        conditions = (self.exact, self.prefix, self.regex, self.present)
        if sum(condition is not None for condition in conditions) != 1:
            raise ValueError("needs one of exact, prefix, regex and present")
        if self.exact == "":
            raise ValueError("cannot compare with an empty value; write present: false")
        return self


class Match(Spec):
    """Which requests a policy applies to: those that meet every condition."""

    models: tuple[ModelName, ...] = Field(
        default=(),
        description="Names that clients ask for; a model's name stands for its aliases too. "
        "Empty: every model.",
    )
    routes: tuple[RouteName, ...] = Field(
        default=(), description="API families, as named in the metrics. Empty: every one."
    )
    headers: tuple[Header, ...] = Field(
        default=(),
        description="Conditions on header fields, of a repeated field on its first value. Fields "
        "that end at the gateway (Authorization, Host, Content-Type …) cannot be matched.",
    )
    users: tuple[Text, ...] = Field(
        default=(), description="Values of the body's `user` field. Empty: everybody."
    )
    tenants: tuple[Text, ...] = Field(
        default=(), description="Tenants that the client's key belongs to. Empty: every one."
    )
    keys: tuple[Text, ...] = Field(
        default=(), description="Names of the clients' keys, never keys. Empty: every one."
    )
    percent: Percent = Field(
        default=100,
        description="Share of the requests that meet everything else, in percent; the others go on "
        "to the next policy.",
    )
    percent_by: StickyBy | None = Field(
        default=None,
        description="What belongs together in that sample: user, session, api_key, header:NAME or "
        "request; without it as the policy's own `by`.",
    )

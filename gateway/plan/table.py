"""Which pool serves a model name, and what is the model called there?

Pure. A table is immutable; discovery and reloads build a new one and swap it in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gateway.errors import model_not_found
from gateway.model import Kind

if TYPE_CHECKING:
    from gateway.plan.junction import Junction
    from gateway.upstream.pool import Pool


@dataclass(frozen=True, slots=True)
class Nature:
    """What is known of a model, whoever serves it."""

    kind: Kind | None = None
    max_model_len: int | None = None


_UNKNOWN = Nature()


@dataclass(frozen=True, slots=True)
class Plan:
    """The decision for one model name, made once for each table and shared by its requests."""

    model: str
    """The name that the client used, and that the answer carries."""
    label: str
    """The name in metrics: the model's own, also for its aliases."""
    pool: Pool
    upstream_model: str
    fallbacks: tuple[str, ...] = ()
    """Names that answer in its place, in order; looked up when they are needed."""
    max_model_len: int | None = None
    """Tokens that prompt and answer may have together, as the engine lists it."""
    kind: Kind | None = None
    """Which routes it answers on; None while nobody has said."""
    rename: Callable[[bytes], bytes] | None = field(default=None, compare=False)
    """Puts `model` where the engine wrote `upstream_model`; None when they are the same."""
    junction: Junction | None = field(default=None, compare=False)
    """The policies that may send its requests elsewhere; None if there are none."""


def plan_for(
    model: str,
    label: str,
    pool: Pool,
    upstream_model: str,
    fallbacks: tuple[str, ...] = (),
    nature: Nature = _UNKNOWN,
) -> Plan:
    """Make the plan of one name."""
    rename = None if model == upstream_model else renamer(upstream_model, model)
    longest, kind = nature.max_model_len, nature.kind
    return Plan(model, label, pool, upstream_model, fallbacks, longest, kind, rename)


def renamer(old: str, new: str) -> Callable[[bytes], bytes]:
    """Return a function that replaces the value of `"model"` keys, `old` by `new`, in JSON text.

    Quotes inside JSON strings are escaped, so content cannot match.
    """
    spellings = {json.dumps(old), json.dumps(old, ensure_ascii=False)}
    value = b"|".join(re.escape(spelling.encode()) for spelling in sorted(spellings))
    pattern = re.compile(rb'(?<!\\)"model"(\s?:\s?)(?:' + value + rb")")
    replacement = json.dumps(new).encode()
    compact, spare = f'"model":{json.dumps(old)}'.encode(), f'"model":{json.dumps(new)}'.encode()

    def rename(text: bytes) -> bytes:
        # The engines' own spelling first: a plain replace costs a third of the pattern.
        if compact in text and b'\\"model"' not in text:
            return text.replace(compact, spare)
        return pattern.sub(lambda match: b'"model"' + match.group(1) + replacement, text)

    return rename


@dataclass(frozen=True, slots=True)
class Entry:
    """What `/v1/models` tells of a name."""

    cluster: str
    metadata: Mapping[str, Any]
    """The engine's own entry; empty until an endpoint has listed it."""
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """Every name that clients may use."""

    plans: Mapping[str, Plan]
    entries: Mapping[str, Entry] = field(default_factory=dict)

    def lookup(self, model: str) -> Plan:
        """Return the plan for a name. Raises `GatewayError` 404."""
        plan = self.plans.get(model)
        if plan is None:
            raise model_not_found(model)
        return plan

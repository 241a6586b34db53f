"""What is to go wrong on purpose?

A fault spec is a list of clauses between commas or semicolons, for example `delay-first=2,
cut-after=5`. Faults compose: delays come first, then at most one way to end, whichever is due
earliest.

    status=503          answer with this status and vLLM's error body
    delay-headers=1.5   wait so many seconds before the status line
    delay-first=2       send the head, then wait so many seconds before the first token
    cut-after=K         after K tokens close the connection properly (FIN), the message unfinished
    reset               reset the connection (RST) instead of answering
    reset-after=K       the same after K tokens
    stall-after=K       after K tokens send nothing more and keep the connection open
    malformed-after=K   after K tokens send an event that is not JSON, then go on
    bad-chunk-after=K   after K tokens send a chunk size that is not a number
    half-after=K        after K tokens send the first half of an event, then FIN
    error-after=K       after K tokens send vLLM's in-band error event and the end mark
    abort-after=K       after K tokens finish with `finish_reason: "abort"`
    no-done             end without the end mark, the message itself complete
    error-200           answer 200 with a JSON error body
    garbage-head        answer with bytes that are not HTTP
    big-header          add a response header of 128 KiB

K = 0 means after the head and before the first token. In an answer that is not streamed, the faults
that break a connection break the body in its middle; malformed-after spoils the JSON; error-after
becomes a 500; the others follow their meaning.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class Break(StrEnum):
    """Ways for an answer to go wrong after so many tokens."""

    CUT = "cut-after"
    RESET = "reset-after"
    STALL = "stall-after"
    MALFORMED = "malformed-after"
    BAD_CHUNK = "bad-chunk-after"
    HALF = "half-after"
    ERROR = "error-after"
    ABORT = "abort-after"


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong with one request; the default is nothing."""

    status: int | None = None
    delay_headers_s: float = 0.0
    delay_first_s: float = 0.0
    broken: Break | None = None
    after_tokens: int = 0
    """When `broken` happens; tokens of all choices count."""
    reset: bool = False
    no_done: bool = False
    error_200: bool = False
    garbage_head: bool = False
    big_header: bool = False


NONE = Faults()

FAILURE_TYPES = {
    "rate_limit": "status=429",
    "invalid_api_key": "status=401",
    "context_length": "status=400",
    "invalid_request": "status=400",
    "model_not_found": "status=404",
    "server_error": "status=503",
}
"""The names of llm-d-inference-sim's `--failure-types`; a fault clause is accepted in their
place.
"""

_SWITCHES = {
    "reset": "reset",
    "no-done": "no_done",
    "error-200": "error_200",
    "garbage-head": "garbage_head",
    "big-header": "big_header",
}
_DELAYS = {"delay-headers": "delay_headers_s", "delay-first": "delay_first_s"}


def parse(spec: str) -> Faults:
    """Return the faults of a spec; ValueError with the clause that is wrong."""
    faults = NONE
    for clause in re.split(r"[,;]", spec):
        if clause.strip():
            faults = _with_clause(faults, clause.strip())
    return faults


def _with_clause(faults: Faults, clause: str) -> Faults:
    name, equals, value = (part.strip() for part in clause.partition("="))
    changes: dict[str, Any]
    try:
        if name in _SWITCHES and not equals:
            changes = {_SWITCHES[name]: True}
        elif name == "status":
            changes = {"status": int(_bounded(value, 400, 599))}
        elif name in _DELAYS:
            changes = {_DELAYS[name]: _bounded(value, 0, 3600)}
        else:
            changes = {"broken": Break(name), "after_tokens": int(_bounded(value, 0, 1 << 31))}
    except ValueError as error:
        raise ValueError(f"not a fault: {clause!r}") from error
    if "broken" in changes and faults.broken and faults.after_tokens <= changes["after_tokens"]:
        return faults
    return replace(faults, **changes)


def _bounded(text: str, least: float, most: float) -> float:
    number = float(text)
    if not least <= number <= most:
        raise ValueError(f"{number} is not between {least} and {most}")
    return number


def draw(rate_percent: float, types: Sequence[Faults], rng: random.Random) -> Faults:
    """Return one of `types` in `rate_percent` of the calls, otherwise no faults."""
    if not types or rng.random() * 100 >= rate_percent:
        return NONE
    return types[rng.randrange(len(types))]


def parse_types(names: str) -> tuple[Faults, ...]:
    """Return the faults of a `--failure-types` list; all of llm-d's types for an empty one."""
    chosen = [name.strip() for name in names.split(",") if name.strip()] or list(FAILURE_TYPES)
    return tuple(parse(FAILURE_TYPES.get(name, name)) for name in chosen)

"""What may a configuration file hold, as JSON Schema for editors and for people?"""

from __future__ import annotations

from typing import Any

from gateway.config.conflicts import Loc
from gateway.config.schemas import keys_at, schema_of
from gateway.config.spec import Config


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file, as JSON values."""
    return schema_of(Config, "Sluice configuration")


def known_keys(loc: Loc) -> list[str]:
    """Return the keys that the mapping at `loc` may have, none if there is no such place."""
    return keys_at(Config, loc)

"""Does the JSON Schema say what the loader does?"""

from __future__ import annotations

import json
import re

from gateway.config.cluster import BALANCERS
from gateway.config.schema import known_keys, schema
from tests.support.schemas import properties, references


def test_it_is_json_of_the_2020_dialect_without_loose_ends() -> None:
    """Plain JSON values, the dialect named, every reference resolvable."""
    made = schema()
    assert json.loads(json.dumps(made)) == made
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert made["required"] == ["clusters"]
    names = {reference.removeprefix("#/$defs/") for reference in references(made)}
    assert names == set(made["$defs"])


def test_every_field_is_described() -> None:
    """An editor can explain each key; times and sizes carry their unit in the name."""
    found = dict(properties(schema()))
    assert len(found) > 40
    assert [name for name, field in found.items() if not field.get("description")] == []
    seconds = {name for name, field in found.items() if "Seconds" in field["description"]}
    timed = {name for name in found if name.endswith("_s") and not name.endswith("_per_s")}
    assert seconds == timed


def test_unknown_keys_are_refused_by_the_schema_too() -> None:
    """Editors underline what the loader would refuse."""
    made = schema()
    objects = [made, *(each for each in made["$defs"].values() if each["type"] == "object")]
    assert all(each["additionalProperties"] is False for each in objects)


def test_bounds_and_choices_are_published() -> None:
    """Limits that the loader applies stand in the schema, next to the way to interpolate."""
    defs = schema()["$defs"]
    assert defs["Server"]["properties"]["port"]["anyOf"] == [
        {"maximum": 65535, "minimum": 0, "type": "integer"},
        {"$ref": "#/$defs/Interpolated"},
    ]
    balancer = defs["Cluster"]["properties"]["balancer"]
    assert balancer["anyOf"][0]["enum"] == list(BALANCERS)
    pattern = defs["Interpolated"]["pattern"]
    assert re.search(pattern, "${PORT:-8000}")
    assert not re.search(pattern, "$PORT")


def test_known_keys_follow_the_way_through_the_schema() -> None:
    """Mappings by name, lists and optional parts are all passed through."""
    assert known_keys(())[:2] == ["server", "clusters"]
    assert known_keys(("clusters", "any", "endpoints", 3)) == ["url", "weight", "max_inflight"]
    assert known_keys(("server", "tls")) == ["cert_file", "key_file"]
    assert known_keys(("no", "such", "place")) == []

"""Does a policy file's JSON Schema say what the loader does?"""

from __future__ import annotations

import json

from gateway.config.policies import policy_schema
from gateway.config.policy import KINDS, Policy
from gateway.config.schema import schema
from gateway.config.schemas import keys_at, schema_of
from gateway.config.spec import Config
from tests.support.schemas import properties, references


def test_it_is_json_without_loose_ends() -> None:
    made = policy_schema()
    assert json.loads(json.dumps(made)) == made
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    names = {reference.removeprefix("#/$defs/") for reference in references(made)}
    assert names == set(made["$defs"])


def test_every_field_is_described_with_its_unit() -> None:
    found = list(properties(policy_schema()))
    assert len(found) > 70
    assert [name for name, field in found if not field.get("description")] == []
    seconds = {name for name, field in found if "Seconds" in field["description"]}
    assert seconds == {name for name, _ in found if name.endswith("_s") and "_per_" not in name}


def test_unknown_keys_and_two_kinds_are_refused_by_the_schema_too() -> None:
    made = policy_schema()
    objects = [made, *(each for each in made["$defs"].values() if "properties" in each)]
    assert all(each["additionalProperties"] is False for each in objects)
    assert made["oneOf"] == [{"required": [kind]} for kind in KINDS]


def test_alternatives_are_published() -> None:
    """One place for requests, one condition for a header: editors say so at once."""
    defs = policy_schema()["$defs"]
    for name in ("Target", "Arm", "ClassifierArm"):
        assert defs[name]["oneOf"] == [{"required": ["model"]}, {"required": ["cluster"]}]
    assert len(defs["Header"]["oneOf"]) == 4


def test_the_configuration_has_the_same_schema_as_ever() -> None:
    """So that `gateway.config.schema` may be made from this."""
    assert schema_of(Config, "Sluice configuration") == schema()


def test_keys_follow_the_way_through_the_schema() -> None:
    assert keys_at(Policy, ("split", "arms", 3))[:2] == ["model", "cluster"]
    assert keys_at(Policy, ("match", "headers", 0))[0] == "name"
    assert keys_at(Config, ("clusters", "any", "endpoints", 3))[0] == "url"
    assert keys_at(Policy, ("no", "such", "place")) == []

"""Is the made-up JSON valid against its schema?"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.sim.errors import ApiError
from engines.sim.example import json_text

_SCALARS: list[dict[str, Any]] = [
    {"type": "string", "minLength": 12, "maxLength": 14},
    {"type": "string", "maxLength": 3},
    {"type": "integer", "minimum": 5, "maximum": 9},
    {"type": "integer", "exclusiveMinimum": 3},
    {"type": "integer", "maximum": -4},
    {"type": "integer", "minimum": 3, "multipleOf": 5},
    {"type": "number", "exclusiveMaximum": 0.25},
    {"type": "boolean"},
    {"type": "null"},
    {"enum": ["a", 3, None]},
    {"const": {"fixed": True}},
]


def _schemas() -> st.SearchStrategy[dict[str, Any]]:
    return st.recursive(
        st.sampled_from(_SCALARS),
        lambda inner: st.one_of(
            st.builds(
                lambda properties: {
                    "type": "object",
                    "properties": properties,
                    "required": list(properties),
                },
                st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
            ),
            st.builds(lambda items: {"type": "array", "items": items, "minItems": 2}, inner),
            st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
            st.builds(lambda parts: {"$defs": {"x": parts}, "allOf": [parts]}, inner),
        ),
        max_leaves=8,
    )


def _check_number(value: Any, schema: dict[str, Any]) -> bool:
    step = schema.get("multipleOf")
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (schema["type"] == "number" or isinstance(value, int))
        and value >= schema.get("minimum", value)
        and value <= schema.get("maximum", value)
        and value > schema.get("exclusiveMinimum", value - 1)
        and value < schema.get("exclusiveMaximum", value + 1)
        and (step is None or value % step == 0)
    )


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    """A validator for what `_schemas` makes."""
    if "const" in schema:
        return bool(value == schema["const"])
    if "enum" in schema:
        return value in schema["enum"]
    for name, combine in (("anyOf", any), ("allOf", all)):
        if name in schema:
            return combine(_fits(value, part) for part in schema[name])
    checks = {
        "object": _check_object,
        "array": lambda v, s: _is_list(v) and all(_fits(item, s["items"]) for item in v),
        "string": lambda v, s: (
            isinstance(v, str) and s.get("minLength", 0) <= len(v) <= s["maxLength"]
        ),
        "boolean": lambda v, _: isinstance(v, bool),
        "null": lambda v, _: v is None,
        "integer": _check_number,
        "number": _check_number,
    }
    return bool(checks[schema["type"]](value, schema))


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 2


def _check_object(value: Any, schema: dict[str, Any]) -> bool:
    properties = schema["properties"]
    return (
        isinstance(value, dict)
        and set(value) == set(properties)
        and all(_fits(value[name], part) for name, part in properties.items())
    )


@given(_schemas(), st.text(max_size=5))
def test_the_value_fits_its_schema(schema: dict[str, Any], key: str) -> None:
    """For any combination of the supported keywords, and the same for the same key."""
    text = json_text(schema, key)
    assert _fits(json.loads(text), schema)
    assert text == json_text(schema, key)


def test_references_are_followed() -> None:
    """$ref points into the schema's own definitions."""
    schema = {"$defs": {"n": {"type": "integer", "minimum": 7}}, "$ref": "#/$defs/n"}
    assert json.loads(json_text(schema, "")) == 7


def test_a_recursive_schema_ends() -> None:
    """A tree of trees is cut at its optional members."""
    node = {"type": "object", "properties": {"next": {"$ref": "#"}, "name": {"type": "string"}}}
    value = json.loads(json_text(node, ""))
    depth = 0
    while "next" in value:
        value, depth = value["next"], depth + 1
    assert 0 < depth < 20


def test_free_strings_say_that_they_are_simulated() -> None:
    """Nobody should take the value for a model's."""
    assert json.loads(json_text({"type": "string"}, "")) == "simulated"
    assert json.loads(json_text(None, ""))["simulated"] is True


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "nonsense"}, "Invalid type: nonsense"),
        ({"$ref": "#/$defs/none"}, "Unresolvable"),
    ],
)
def test_impossible_schemas_are_refused(schema: dict[str, Any], message: str) -> None:
    """As by the grammar compiler of the real engine."""
    with pytest.raises(ApiError, match=message):
        json_text(schema, "")

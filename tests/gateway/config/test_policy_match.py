"""Are conditions on requests one at a time, and on what there is?"""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from gateway.api.routes import ROUTES
from gateway.config.policy_match import Header, Match, RouteName


def test_the_routes_are_those_of_the_data_plane() -> None:
    assert set(get_args(RouteName)) == {route.name for route in ROUTES.values()}


@pytest.mark.parametrize(
    "condition",
    [{"exact": "a"}, {"prefix": "a"}, {"regex": "a+"}, {"present": True}, {"present": False}],
)
def test_a_header_has_one_condition(condition: dict[str, object]) -> None:
    assert Header.model_validate({"name": "X-A", **condition}).name == "x-a"


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({}, "needs one of"),
        ({"exact": "a", "prefix": "a"}, "needs one of"),
        ({"exact": ""}, "empty value"),
        ({"prefix": ""}, "at least 1 character"),
    ],
)
def test_none_two_and_empty_ones_are_refused(condition: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Header.model_validate({"name": "x-a", **condition})


def test_nothing_said_matches_everything() -> None:
    match = Match()
    assert (match.models, match.routes, match.percent, match.percent_by) == ((), (), 100, None)

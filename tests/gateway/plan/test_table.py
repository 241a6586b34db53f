"""Names lead to plans, and a renamed answer differs from the engine's in its model only."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config.cluster import Cluster as ClusterSpec
from gateway.errors import GatewayError
from gateway.plan.table import Table, plan_for, renamer
from gateway.upstream.cluster import Cluster

SPEC = ClusterSpec.model_validate({"registration": True})
POOL = Cluster("c", SPEC, lambda: 0.0).whole()
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


def test_a_known_name_has_its_plan() -> None:
    """Names are compared as they are."""
    plan = plan_for("m", "m", POOL, "engine/m")
    assert Table({"m": plan}).lookup("m") is plan


@pytest.mark.parametrize("name", ["M", "m ", "", "\ud800", "x" * 10_000])
def test_an_unknown_name_is_a_404(name: str) -> None:
    """Its answer can be written whatever the name holds, and does not repeat a long one."""
    with pytest.raises(GatewayError) as caught:
        Table({}).lookup(name)
    assert (caught.value.status, caught.value.code, caught.value.param) == (
        404,
        "model_not_found",
        "model",
    )
    assert len(caught.value.body()) < 1000


def test_equal_names_need_no_rewriting() -> None:
    """The common case leaves the shortcut open."""
    assert plan_for("m", "m", POOL, "m").rename is None
    assert plan_for("alias", "m", POOL, "m").rename is not None


CONTENT = st.sampled_from(['"model":"old"', 'x"model": "old"', "\\", "old", "{"])


@given(NAMES, NAMES, CONTENT, st.sampled_from([None, (",", ":")]), st.booleans())
@example('a"b\\', "c\\1\\g<0>", "old", None, True)
@example("a/ä", "ö", '"model":"a/ä"', (",", ":"), False)
def test_only_the_models_name_is_replaced(
    old: str, new: str, content: str, separators: tuple[str, str] | None, ascii_only: bool
) -> None:
    """In any spelling of JSON, content that quotes it stays; the result is the same JSON else."""
    value: dict[str, Any] = {"id": old, "model": old, "choices": [{"text": content, "x": old}]}
    text = json.dumps(value, separators=separators, ensure_ascii=ascii_only).encode()
    assert json.loads(renamer(old, new)(text)) == {**value, "model": new}


def test_other_models_names_stay() -> None:
    """A name that only begins alike is another."""
    rename = renamer("m", "alias")
    for text in (b'{"model":"m2"}', b'{"models":"m"}', b'{"x":"model","y":"m"}'):
        assert rename(text) == text

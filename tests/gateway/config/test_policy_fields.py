"""Do the values of policy files refuse what could not be meant, or could do harm?"""

from __future__ import annotations

import time
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from gateway.config.policy_fields import (
    MAX_REGEX_CHARS,
    UNSEEN,
    ArmWeight,
    HeaderName,
    Label,
    Metric,
    Override,
    Regex,
    StickyBy,
    Target,
)
from gateway.config.policy_rollout import GateMetric
from gateway.stats.metrics import METRICS
from gateway.wire.guard import Limits, read_head


def refused(kind: object, value: object) -> str:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(value)
    return str(caught.value.errors()[0]["msg"])


def test_the_metrics_are_those_that_can_be_compared() -> None:
    assert set(get_args(Metric)) == set(METRICS)
    assert set(get_args(GateMetric)) < set(METRICS)


@pytest.mark.parametrize("name", ["a", "new-llama_2.1", "x" * 63])
def test_names_are_labels(name: str) -> None:
    assert TypeAdapter(Label).validate_python(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a b", "x" * 64, "ü", "a/b"])
def test_other_names_are_refused(name: str) -> None:
    assert "is not a name" in refused(Label, name)


def test_fields_that_end_at_the_gateway_are_refused() -> None:
    """Just those that the guard does not forward: a rule on them would never see a value."""
    adapter = TypeAdapter(HeaderName)
    assert adapter.validate_python("X-Team") == "x-team"
    assert "is not the name" in refused(HeaderName, "x team")
    for name in (*UNSEEN, b"x-team", b"x-priority", b"user-agent", b"cookie", b"accept"):
        value = {
            b"content-length": b"3",
            b"transfer-encoding": b"chunked",
            b"content-encoding": b"identity",
            b"expect": b"100-continue",
            b"x-request-timeout-ms": b"5",
        }.get(name, b"x")
        fields = [(name, value)] if name == b"host" else [(b"host", b"h"), (name, value)]
        seen = read_head(fields, Limits()).field(name) != b""
        assert seen == (name not in UNSEEN)
        if not seen:
            assert "ends at the gateway" in refused(HeaderName, name.decode().upper())


@pytest.mark.parametrize("by", ["user", "session", "api_key", "request", "header:x-team"])
def test_keys_to_go_by(by: str) -> None:
    assert TypeAdapter(StickyBy).validate_python(by) == by


def test_other_keys_are_refused() -> None:
    assert TypeAdapter(StickyBy).validate_python("header:X-Team") == "header:x-team"
    for wrong in ("", "users", "header", "cookie:a"):
        assert "is not a key" in refused(StickyBy, wrong)
    assert "is not the name" in refused(StickyBy, "header:")
    assert "ends at the gateway" in refused(StickyBy, "header:authorization")


@pytest.mark.parametrize(
    "regex",
    [
        "research(-[a-z0-9]+)?",
        "(a|b)+c",  # One character each: a class, in effect.
        "(?:foo|bar)-[0-9]{1,3}",
        "(?>a+|b)*x",
        "(?:[0-9]{3})+",
        "((?:ab)++c)*",
        "a?b*c+",
        ".*foo.*bar.*",
        "a?" * 20,
        "(?>.*x.*y.*)z",
        "^x-(?=y).*$",
    ],
)
def test_expressions_that_end_soon_are_let_in(regex: str) -> None:
    assert TypeAdapter(Regex).validate_python(regex) == regex


@pytest.mark.parametrize(
    "regex",
    [
        "(a+)+$",
        "(a*)*b",
        "(?:a|aa)*b",
        "(x+x+)+y",
        "(a?){30}a{30}",
        r"(?:(a)\1?)*b",
        r"(a)(?:\1|\1)*b",
        "((ab)*)*",
        ".*a.*b.*c.*d",
        "a?" * 30,
        "(?:a|aa)" * 30,
        "(?>(a+)+)b",
        "((a+)+)++b",
        "(?:(?=a+)b)*",
    ],
)
def test_expressions_that_could_take_for_ever_are_refused(regex: str) -> None:
    began = time.process_time()
    assert "for ever" in refused(Regex, regex)
    assert time.process_time() - began < 5


def test_expressions_that_are_none_are_refused() -> None:
    assert "is not a regular expression" in refused(Regex, "(a")
    assert "is longer than" in refused(Regex, "a" * (MAX_REGEX_CHARS + 1))


def test_weights_are_numbers() -> None:
    assert TypeAdapter(ArmWeight).validate_python("2.5") == 2.5
    assert "not true or false" in refused(ArmWeight, True)
    for wrong in (-1, float("inf"), float("nan"), 1e7):
        assert refused(ArmWeight, wrong)


def test_an_override_leaves_the_form_of_the_answer_alone() -> None:
    for name in ("model", "stream", "n", "messages", "prompt", "input", "stream_options"):
        assert f"must not hold `{name}`" in refused(Override, {"body": {name: 1}})
    made = Override.model_validate({"temperature": "0.2", "body": {"seed": None, "k": {"a": [1]}}})
    assert made.temperature == 0.2
    assert made.body == {"seed": None, "k": {"a": [1]}}
    assert not made.empty
    assert Override().empty


def test_a_target_is_one_place() -> None:
    assert "either a model or a cluster" in refused(Target, {})
    assert "either a model or a cluster" in refused(Target, {"model": "m", "cluster": "c"})
    assert "brings its own" in refused(Target, {"model": "m", "upstream_model": "u"})
    one = Target(cluster="c", upstream_model="u")
    assert one.same_place(Target(cluster="c", upstream_model="u"))
    assert not one.same_place(Target(cluster="c"))
    assert not one.same_place(
        Target(cluster="c", upstream_model="u", override=Override(temperature=1))
    )

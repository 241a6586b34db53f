"""A balancer is told of a request what it asks for, and no more."""

from __future__ import annotations

import pytest

from gateway.api.body import Facts, read_json
from gateway.api.traits import session_of, traits_of
from gateway.upstream.traits import STREAM, WHOLE
from gateway.wire.guard import Head, Limits, read_head
from tests.support.pools import pool_of

KEYS = ("header:x-session-id", "header:x-user-id", "body:user")


def head(**fields: str) -> Head:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
    return read_head([(b"host", b"h"), *named], Limits())


def facts(text: str) -> Facts:
    return read_json(text.encode(), 9)


def test_most_balancers_need_no_object_of_their_own() -> None:
    """The two that all requests share."""
    for stream, expected in (("true", STREAM), ("false", WHOLE), ('"yes"', WHOLE)):
        asked = facts(f'{{"model":"m","stream":{stream}}}')
        assert traits_of(head(), asked, pool_of(2, balancer="p2c")) is expected


@pytest.mark.parametrize(
    ("fields", "body", "key"),
    [
        ({"x_session_id": "s", "x_user_id": "u"}, '"user":"b"', b"s"),
        ({"x_user_id": "u"}, '"user":"b"', b"u"),
        ({}, '"user":"b\\u00e9"', "bé".encode()),
        ({}, '"user":7', b""),
        ({"x_session_id": ""}, '"user":""', b""),
        ({"x_other": "x-session-id: no"}, '"n":1', b""),
    ],
)
def test_the_first_key_that_is_there_counts(fields: dict[str, str], body: str, key: bytes) -> None:
    """In the order of the configuration."""
    assert session_of(head(**fields), facts(f'{{"model":"m",{body}}}'), KEYS) == key


def test_other_places_of_a_key() -> None:
    """Whatever the operator names; a field at the end and one in the middle."""
    asked = facts('{"model":"m","user":"b"}')
    assert session_of(head(x_a="1", x_tenant="t"), asked, ("header:x-tenant",)) == b"t"
    assert session_of(head(x_tenant="t", x_a="1"), asked, ("header:x-tenant",)) == b"t"
    assert session_of(head(x_tenant="t"), asked, ("body:user", "header:x-tenant")) == b"b"


@pytest.mark.parametrize("key", ["messages", "prompt"])
def test_the_prompt_is_the_text_as_it_was_written(key: str) -> None:
    """Equal beginnings have equal bytes."""
    asked = facts(f'{{"model":"m","{key}": ["a",  1]}}')
    traits = traits_of(head(), asked, pool_of(2, balancer="prefix"))
    assert (traits.prompt, traits.session, traits.stream) == (b'["a",  1]', b"", False)


def test_a_session_is_read_where_the_cluster_says() -> None:
    """And the prompt is not."""
    asked = facts('{"model":"m","user":"b","prompt":"p","stream":true}')
    pool = pool_of(2, balancer="session", session={"keys": ["body:user"]})
    traits = traits_of(head(x_session_id="s"), asked, pool)
    assert (traits.session, traits.prompt, traits.stream) == (b"b", b"", True)

"""Bodies are checked as strict JSON and changed by splicing, all else byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.api.body import Facts, ask_for_usage, read_json, rename_model, spans
from gateway.errors import GatewayError

DEPTH = 128

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
KEYS = st.sampled_from(["model", "stream", "n", "user", "mod\\el", 'q"model"', "ä"]) | TEXT
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Write an object with a string model among any members, in any JSON style."""
    members: dict[str, Any] = draw(st.dictionaries(KEYS, JSON, max_size=4))
    members["model"] = draw(TEXT.filter(bool))
    order = draw(st.permutations(list(members)))
    text = json.dumps(
        {key: members[key] for key in order},
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1])),
        separators=draw(st.sampled_from([None, (",", ":"), (" ,\t", " :\r\n")])),
    )
    if draw(st.booleans()):
        text = text.replace("model", draw(st.sampled_from(["\\u006dodel", "mode\\u006C"])))
    return text.encode()


def refuse_constant(name: str) -> None:
    raise ValueError(name)


def python_reads(body: bytes) -> dict[str, Any] | None:
    """Return what the standard library reads, made strict; None if that is no routable object."""
    try:
        text = body.decode()
        value = json.loads(text, parse_constant=refuse_constant)
        json.dumps(value, ensure_ascii=False).encode()  # No half of a surrogate pair.
    except (ValueError, RecursionError):
        return None
    if text.startswith("\ufeff") or not isinstance(value, dict):
        return None
    return value if isinstance(value.get("model"), str) and value["model"] else None


@given(bodies())
def test_a_valid_body_is_accepted_and_its_model_read(body: bytes) -> None:
    """In any style of JSON, whatever the fields hold that are not ours to read."""
    expected = python_reads(body)
    assert expected is not None
    facts = read_json(body, DEPTH)
    assert facts.model == expected["model"]
    assert facts.stream == expected.get("stream")


@given(bodies(), st.integers(0, 200), st.binary(max_size=2), st.integers(0, 2))
@example(b'{"model":"m","a":01}', 0, b"", 0)
@example(b'{"model":"m","a":NaN}', 0, b"", 0)
@example(b'{"model":"m","a":"\xff"}', 0, b"", 0)
@example(b'{"model":"m","a":"\\ud800"}', 0, b"", 0)
@example(b'\xef\xbb\xbf{"model":"m"}', 0, b"", 0)
def test_a_damaged_body_is_never_accepted(body: bytes, at: int, insert: bytes, remove: int) -> None:
    """What we accept, the standard library's parser accepts, with the same model."""
    at %= len(body)
    damaged = body[:at] + insert + body[at + remove :]
    try:
        facts = read_json(damaged, DEPTH)
    except GatewayError as error:
        assert error.status == 400  # noqa: PT017
        return
    expected = python_reads(damaged)
    assert expected is not None
    assert facts.model == expected["model"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"null", None),
        (b"[]", None),
        (b'"m"', None),
        (b"{}", "model"),
        (b'{"model":null}', "model"),
        (b'{"model":""}', "model"),
        (b'{"model":3}', "model"),
        (b'{"model":"m","stream_options":3}', "stream_options"),
        (b'{"model":"m","model":"n"}', "model"),
        (b'{"model":"m","\\u006dodel":"n"}', "model"),
        (b'{"\\u006dodel":"m","\\u006Dodel":"n"}', "model"),
        (b'{"model":"m","a":[1,]}', None),
        (b'{"model":"m"} {}', None),
        (b"{'model':'m'}", None),
    ],
)
def test_a_refusal_is_a_400_that_names_the_field(body: bytes, param: str | None) -> None:
    """The client learns which field is at fault, where one is."""
    with pytest.raises(GatewayError) as caught:
        read_json(body, DEPTH)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("limit", [2, 128])
def test_depth_is_capped_exactly(opening: bytes, limit: int) -> None:
    """The deepest that may come, may; one level more may not. Brackets in strings do not count."""
    closing = b"]" if opening == b"[" else b"}"

    def nested(levels: int) -> bytes:
        return b'{"model":"m","t":"%b","x":%b0%b}' % (
            b"[{" * 200,
            opening * (levels - 1),
            closing * (levels - 1),
        )

    assert read_json(nested(limit), limit).model == "m"
    with pytest.raises(GatewayError, match="deeper"):
        read_json(nested(limit + 1), limit)


def test_a_depth_that_breaks_parsers_is_refused_alike() -> None:
    """A megabyte of brackets costs one answer, not the process."""
    with pytest.raises(GatewayError) as caught:
        read_json(b'{"model":"m","x":' + b"[" * (1 << 20) + b"]" * (1 << 20) + b"}", DEPTH)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "choices"),
    [
        (b'{"model":"m"}', 1),
        (b'{"model":"m","n":3}', 3),
        (b'{"model":"m","n":0}', 1),
        (b'{"model":"m","n":"3"}', 3),
        (b'{"model":"m","n":3.0}', 3),
        (b'{"model":"m","n":"many"}', 1),
        (b'{"model":"m","n":[2]}', 1),
        (b'{"model":"m","n":-1}', 1),
        (b'{"model":"m","n":null}', 1),
        (b'{"model":"m","prompt":"a"}', 1),
        (b'{"model":"m","prompt":["a","b"],"n":2}', 4),
        (b'{"model":"m","prompt":[1,2,3]}', 1),
        (b'{"model":"m","prompt":[[1],[2,3]]}', 2),
        (b'{"model":"m","prompt":[],"n":2}', 2),
        (b'{"model":"m","prompt":["a",1e999]}', 2),
        (b'{"model":"m","prompt":[1e999,-1]}', 1),
        (b'{"model":"m","prompt": ["a","b"]}', 2),
    ],
)
def test_choices_are_counted_over_prompts_and_n(body: bytes, choices: int) -> None:
    """One stream carries `n` answers for each prompt; token ids are one prompt."""
    assert read_json(body, DEPTH).choices == choices


@given(bodies(), TEXT.filter(bool))
@example(b'{"messages":[{"model":"m"}],"model":"m"}', "n")
@example(b'{"a":"\\"model\\":\\"x\\"","model":"m"}', "n")
@example(b'{"a":%b,"model":"m"}' % (b"9" * 5000), "n")
@example(b'{"model" :\t"m\\"\\\\"}', 'n"\\')
def test_a_renamed_body_differs_in_its_model_only(body: bytes, name: str) -> None:
    """The other bytes are the client's own, and the name is read back as it was given."""
    try:
        read_json(body, DEPTH)
    except GatewayError:
        return
    renamed = rename_model(body, name)
    ((start, end),) = spans(body, "model")
    tail = len(body) - end
    assert renamed[:start] == body[:start]
    assert renamed[len(renamed) - tail :] == body[end:]
    assert json.loads(renamed[start : len(renamed) - tail]) == name


@given(bodies(), KEYS)
def test_spans_are_those_of_the_top_level_members(body: bytes, key: str) -> None:
    """Each span is the JSON text of one member's value; nested keys have none."""
    pairs: list[tuple[str, Any]] = json.loads(body, object_pairs_hook=list)
    expected = [json.dumps(value) for name, value in pairs if name == key]
    found = [body[start:end] for start, end in spans(body, key)]
    assert [json.dumps(json.loads(text, object_pairs_hook=list)) for text in found] == expected


def usage_facts(body: bytes) -> Facts:
    facts = read_json(body, DEPTH)
    assert not facts.wants_usage
    return facts


OPTIONS = st.dictionaries(
    st.sampled_from(["include_usage", "continuous_usage_stats", "x"]),
    st.none() | st.just(False) | st.integers() | TEXT,
    max_size=3,
)


@given(bodies(), st.none() | OPTIONS, st.booleans())
def test_usage_is_asked_for_and_nothing_else_changed(
    body: bytes, options: dict[str, Any] | None, given_at_all: bool
) -> None:
    """Every other member keeps its value, every other option too."""
    if given_at_all:
        body = body.rstrip()[:-1] + b',"stream_options":' + json.dumps(options).encode() + b"}"
    try:
        facts = read_json(body, DEPTH)
    except GatewayError:
        return
    before, after = json.loads(body), json.loads(ask_for_usage(body, facts))
    expected = {**(before.pop("stream_options", None) or {}), "include_usage": True}
    assert after.pop("stream_options") == expected
    assert after == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"{}", b'{"include_usage":true}'),
        (b" { } ", b' {"include_usage":true} '),
        (b"null", b'{"include_usage":true}'),
        (b'{"include_usage" : null, "x":1.0}', b'{"include_usage" : true, "x":1.0}'),
        (b'{"a":%b}' % (b"9" * 5000), b'{"include_usage":true,"a":%b}' % (b"9" * 5000)),
        (b'{"a":1e999}', b'{"include_usage":true,"a":1e999}'),
    ],
)
def test_options_are_spliced_too(options: bytes, expected: bytes) -> None:
    """Numbers that Python cannot hold reach the engine as the client wrote them."""
    body = b'{"model":"m","stream":true,"stream_options":%b}'
    assert ask_for_usage(body % options, usage_facts(body % options)) == body % expected


def test_a_key_behind_escapes_is_the_same_key() -> None:
    """`stream_options` written with an escape is not asked for twice."""
    body = b'{"model":"m","stream\\u005foptions":{"x":1}}'
    assert json.loads(ask_for_usage(body, usage_facts(body))) == {
        "model": "m",
        "stream_options": {"x": 1, "include_usage": True},
    }


@pytest.mark.parametrize(
    ("options", "wants"),
    [
        ("null", False),
        ("{}", False),
        ('{"include_usage":true}', True),
        ('{"include_usage":1}', False),
    ],
)
def test_only_true_asks_for_usage(options: str, wants: bool) -> None:
    """As the engines read it."""
    body = '{"model":"m","stream_options":%s}' % options  # noqa: UP031  braces all over
    assert read_json(body.encode(), DEPTH).wants_usage is wants

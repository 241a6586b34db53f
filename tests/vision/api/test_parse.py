"""What is wrong with a body, in words that name the field."""

import msgspec
import pytest

from vision.api import parse
from vision.errors import BadInput


class Inner(msgspec.Struct):
    name: str


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: list[Inner]


DECODER = msgspec.json.Decoder(Outer)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b'{"inner":[{"name":"a"},{"name":1}]}', "inner[1].name", "invalid_request"),
        (b'{"inner":1}', "inner", "invalid_request"),
        (b"{}", None, "invalid_request"),
        (b'{"inner":[],"other":1}', None, "invalid_request"),
        (b'{"inner":[{"name":"\xff"}]}', None, "invalid_json"),
        (b'{"inner":NaN}', None, "invalid_json"),
        (b'{"inner":[],}', None, "invalid_json"),
        (b'{"inner":[]} x', None, "invalid_json"),
        (b'{"a":' * 10**5, None, "invalid_request"),
    ],
)
def test_the_field_is_named(body: bytes, param: str | None, code: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse.read_json(DECODER, body)
    assert (caught.value.param, caught.value.code) == (param, code)
    if param:
        assert f"`{param}`" in caught.value.message


def test_depth_is_bounded() -> None:
    with pytest.raises(BadInput, match="too deep"):
        parse.read_json(msgspec.json.Decoder(), b"[" * 10**5)


def test_of_a_key_that_stands_twice_the_last_value_holds() -> None:
    read = parse.read_json(DECODER, b'{"inner":[{"name":"a"}],"inner":[]}')
    assert read.inner == []


@pytest.mark.parametrize(
    ("given", "version"), [(None, None), ("", None), ("2", 2), (2, 2), ("002", 2)]
)
def test_versions(given: str | int | None, version: int | None) -> None:
    assert parse.version_of(given) == version


@pytest.mark.parametrize("given", ["0", 0, -1, "-1", "x", "1.5", "²", "9" * 19, 10**18])
def test_what_is_no_version(given: str | int) -> None:
    with pytest.raises(BadInput):
        parse.version_of(given)


@pytest.mark.parametrize("given", ["0", "", "x", "-1", "²", "9" * 10])
def test_what_is_no_top_k(given: str) -> None:
    with pytest.raises(BadInput):
        parse.top_k_of(given)
    assert parse.top_k_of("3") == 3

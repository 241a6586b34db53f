"""The model of a query is found as the endpoint would find it, and nothing else is touched."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.api.query import model_of, with_model
from gateway.errors import GatewayError


@pytest.mark.parametrize(
    ("query", "model"),
    [
        (b"model=digits", "digits"),
        (b"top_k=3&model=digits&version=", "digits"),
        (b"model=org%2Fnet+v2", "org/net v2"),
        (b"%6dodel=digits", "digits"),
        (b"model=a=b&flag", "a=b"),
        (b"models=x&model=digits&xmodel=y", "digits"),
    ],
)
def test_the_model_is_found(query: bytes, model: str) -> None:
    """Decoded, wherever it stands."""
    assert model_of(query) == model


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (b"", "needs `.model=`"),
        (b"model=", "needs `.model=`"),
        (b"model=a%0Ab", "needs `.model=`"),
        (b"model=a&model=b", "more than one"),
        (b"model=a&%6Dodel=b", "more than one"),
        (b"model=a b", "visible ASCII"),
        (b"model=a\r\nx: y", "visible ASCII"),
        (b"model=\xff", "visible ASCII"),
    ],
)
def test_what_names_no_one_model_is_refused(query: bytes, words: str) -> None:
    """With a 400 that says how it is done."""
    with pytest.raises(GatewayError, match=words) as caught:
        model_of(query)
    assert (caught.value.status, caught.value.param) == (400, "model")


PLAIN = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=12)


@given(PLAIN, PLAIN, st.text(min_size=1, max_size=9).filter(lambda one: one.isprintable()))
@example("a=1", "b", "&=%+ ü")
def test_another_model_takes_its_place(before: str, after: str, name: str) -> None:
    """What stands around it is as it was, byte for byte, and the name survives its coding."""
    query = f"{before}&model=old&{after}".encode()
    try:
        model_of(query)
    except GatewayError:
        return  # Hypothesis has found the word.
    changed = with_model(query, name)
    assert changed.startswith(f"{before}&model=".encode())
    assert changed.endswith(f"&{after}".encode())
    assert model_of(changed) == name
    assert dict(parse_qsl(changed.decode()))["model"] == name

"""The model is found in a form's bytes however many have come, and nowhere but in its field."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.api.form import (
    MAX_PART_HEAD_BYTES,
    ModelSearch,
    boundary_of,
    find_model,
    only_boundary_of,
    only_model,
)
from gateway.errors import GatewayError

BOUNDARY = b"b0Und"


def part(disposition: bytes, content: bytes, *more: bytes) -> bytes:
    head = b"\r\n".join([b"Content-Disposition: form-data; " + disposition, *more])
    return b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY, head, content)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


MODEL = part(b'name="model"', b"whisper")
FILE = part(
    b'name="file"; filename="a.wav"', b"RIFF\r\n\r\nname=model\r\n--b0", b"Content-Type: a/b"
)


@pytest.mark.parametrize(
    ("value", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data;boundary="a b;c"', b"a b;c"),
        (b"multipart/form-data; charset=utf-8; boundary=abc; x=y", b"abc"),
        (b"multipart/form-data; boundary=%b" % (b"x" * 70), b"x" * 70),
    ],
)
def test_the_boundary_is_read(value: bytes, boundary: bytes) -> None:
    """Plain or quoted, among other parameters, in any case."""
    assert boundary_of(value) == boundary


@pytest.mark.parametrize(
    "value",
    [b"", b"application/json", b"multipart/form-data", b"multipart/mixed; boundary=abc"],
)
def test_a_form_without_a_boundary_is_refused(value: bytes) -> None:
    """Nothing can be found in it."""
    with pytest.raises(GatewayError) as caught:
        boundary_of(value)
    assert caught.value.status == 400


@given(
    st.lists(st.binary(max_size=30).filter(lambda data: b"--" + BOUNDARY not in data), max_size=3),
    st.integers(0, 3),
)
@example([b"", b"\r\n"], 1)
def test_any_beginning_says_the_same_or_asks_for_more(files: list[bytes], position: int) -> None:
    """Every prefix of the form gives either the one span or None, and never an error."""
    parts = [part(b'name="file"; filename="f"', content) for content in files]
    parts.insert(min(position, len(parts)), MODEL)
    body = form(*parts)
    start = body.index(b"whisper")
    known = False
    growing = ModelSearch(BOUNDARY)
    for size in range(len(body) + 1):
        span = ModelSearch(BOUNDARY).find(body[:size], whole=False)
        assert span in ({(start, start + 7)} if known else {None, (start, start + 7)})
        if not known:
            assert growing.find(bytearray(body[:size]), whole=False) == span
        known = span is not None
    assert known
    assert find_model(body, BOUNDARY) == (start, start + 7)


@pytest.mark.parametrize("content", [b"x" * (1 << 20), b"\r\n--b0Un" * (1 << 17)])
def test_a_large_file_before_the_model_is_looked_at_once(content: bytes) -> None:
    """The work does not grow with the number of pieces that the file comes in."""
    body = form(part(b'name="file"; filename="f"', content), MODEL)
    looked: list[int] = []

    class Counting(bytearray):
        def find(self, *args: Any) -> int:
            if args[0] != b"\r\n\r\n":  # A head ends within its first bytes.
                looked.append(len(self) - args[1])
            return super().find(*args)

    search, data = ModelSearch(BOUNDARY), Counting()
    for at in range(0, len(body), 1 << 14):
        data += body[at : at + (1 << 14)]
        span = search.find(data, whole=False)
    assert span is not None
    assert sum(looked) < 2 * len(body)


@pytest.mark.parametrize(
    "disposition",
    [b"name=model", b'name="model"; x=y', b'x="a;b"; name="model"', b'NAME="model"'],
)
def test_spellings_of_the_field_are_known(disposition: bytes) -> None:
    """Quoted or not, wherever it stands among the parameters."""
    body = form(FILE, part(disposition, b"m"))
    assert body[slice(*find_model(body, BOUNDARY))] == b"m"


@pytest.mark.parametrize(
    "other",
    [
        part(b'name="models"', b"x"),
        part(b'name="a-model"', b"x"),
        part(b'name="file"; filename="a; name=model"', b"x"),
        part(b'name="file"; filename="a; name=\\"model\\""', b"x"),
        part(b'name="file"', b"x", b"X-Content-Disposition: form-data; name=model"),
        FILE,
    ],
)
def test_what_only_looks_like_the_field_is_passed_by(other: bytes) -> None:
    """Neither other names, nor file names, nor contents are taken for the model."""
    body = form(other, MODEL)
    assert body[slice(*find_model(body, BOUNDARY))] == b"whisper"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b0",
        b"junk, not a form",
        form(),
        form(FILE),
        form(part(b'name="model"', b"")),
        form(part(b'name="model"', b"a\x00b")),
        form(part(b'name="model"', b"a\r\nb")),
        form(part(b'name="model"', b"\xff")),
        MODEL[:-2],
    ],
)
def test_a_whole_form_without_a_usable_model_is_refused(body: bytes) -> None:
    """When no more will come, there is a model or a 400."""
    with pytest.raises(GatewayError) as caught:
        find_model(body, BOUNDARY)
    assert caught.value.status == 400


def test_an_endless_part_head_is_refused_before_the_end() -> None:
    """A client cannot make us hold a form by never ending a head."""
    body = b"--%b\r\nX: %b" % (BOUNDARY, b"x" * MAX_PART_HEAD_BYTES)
    with pytest.raises(GatewayError, match="head"):
        ModelSearch(BOUNDARY).find(body, whole=False)


def test_a_false_start_is_refused_at_once() -> None:
    """Bytes that cannot become a form are not waited on."""
    with pytest.raises(GatewayError, match="boundary"):
        ModelSearch(BOUNDARY).find(b"--other", whole=False)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (form(MODEL, MODEL), "more than one"),
        (form(MODEL, FILE, part(b"name=model", b"x")), "more than one"),
        (form(MODEL, part(b"name*=utf-8''model", b"x")), "two ways"),
        (form(part(b'name = "model"', b"x"), MODEL), "two ways"),
        (form(part(b'name= "model"', b"x"), MODEL), "two ways"),
        (form(MODEL, part(b'name="mod\\el"', b"x")), "two ways"),
        (form(MODEL)[:-4], "does not end"),
        (form(FILE), "needs a `model`"),
    ],
)
def test_a_whole_form_has_one_model(body: bytes, words: str) -> None:
    """Else its reader might take another one than the gateway."""
    with pytest.raises(GatewayError, match=words):
        only_model(body, BOUNDARY)


@pytest.mark.parametrize(
    "other", [FILE, part(b"name=\"file\"; filename*=utf-8''a%20b", b"x"), part(b'name="x"', b"--")]
)
def test_other_parts_of_a_whole_form_may_be_what_they_are(other: bytes) -> None:
    """Before the model and after it."""
    for body in (form(other, MODEL), form(MODEL, other)):
        assert body[slice(*only_model(body, BOUNDARY))] == b"whisper"


@pytest.mark.parametrize(
    "value",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=a; boundary=b",
        b"multipart/form-data; boundary=a; Boundary*=utf-8''b",
        b"multipart/form-data; boundary=a; boundary*0=b",
    ],
)
def test_a_whole_form_has_one_boundary(value: bytes) -> None:
    """Of two, each reader might take another."""
    with pytest.raises(GatewayError, match="one boundary"):
        only_boundary_of(value)


def test_a_boundary_may_have_the_word_in_it() -> None:
    """As that of WebKit does."""
    value = b"multipart/form-data; boundary=----WebKitFormBoundaryx"
    assert only_boundary_of(value) == b"----WebKitFormBoundaryx"

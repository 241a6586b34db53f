"""Forms in any pieces, whole and broken."""

import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision.api.form import Form, boundary_of, read_form
from vision.errors import BadInput, TooLarge


async def pieces(body: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    at = 0
    for cut in [*sorted(cuts), len(body)]:
        yield body[at:cut]
        at = max(at, cut)


async def read(body: bytes, cuts: list[int] | None = None, images: int = 3) -> Form:
    return await read_form(pieces(body, cuts or []), b"x", images, 100)


def field(name: str, content: bytes, more: str = "") -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content


IMAGES = [b"\x89PNG\r\n--y\r\n --x not at a line's start", b"", b"\r\n--"]
BODY = (
    b"\r\n".join(
        [
            field("model", b"m"),
            *(
                field("image", one, '; filename="a.png"\r\ncontent-type: image/png')
                for one in IMAGES
            ),
            field("note", "grün".encode()),
        ]
    )
    + b"\r\n--x--\r\n"
)


@given(st.lists(st.integers(0, len(BODY)), max_size=8))
async def test_in_whatever_pieces_it_comes(cuts: list[int]) -> None:
    form = await read(BODY, cuts)
    assert form.images == IMAGES
    assert form.fields == {"model": "m", "note": "grün"}


@given(st.binary(max_size=200), st.integers(0, len(BODY)), st.integers(0, len(BODY)))
async def test_broken_forms_are_refusals(junk: bytes, start: int, end: int) -> None:
    """Whatever is put into the middle, or cut out of it."""
    with contextlib.suppress(BadInput, TooLarge):
        await read(BODY[:start] + junk + BODY[end:])


async def test_a_file_in_another_field_is_told_where_it_goes() -> None:
    named = '; filename="a.png"'
    with pytest.raises(BadInput, match="Files go in the field `image`") as caught:
        await read(field("file", b"\x89PNG" * 100, named) + b"\r\n--x--\r\n")
    assert caught.value.param == "file"
    told = await read(field("model", b"m", named) + b"\r\n--x--\r\n")
    assert told.fields == {"model": "m"}


async def test_a_form_that_breaks_off() -> None:
    for end in range(len(BODY) - len(b"--\r\n")):
        with pytest.raises(BadInput):
            await read(BODY[:end])


async def test_caps() -> None:
    with pytest.raises(TooLarge, match="2 images"):
        await read(BODY, images=2)
    with pytest.raises(TooLarge, match="100 bytes"):
        await read(field("image", b"a" * 101) + b"\r\n--x--\r\n")
    with pytest.raises(TooLarge, match="1024 bytes"):
        await read(field("model", b"a" * 1025) + b"\r\n--x--\r\n")
    many = b"\r\n".join(field(f"f{index}", b"") for index in range(17))
    with pytest.raises(TooLarge, match="16 fields"):
        await read(many + b"\r\n--x--\r\n")


@pytest.mark.parametrize(
    "body",
    [
        b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n",
        b"--x\r\n\r\na\r\n--x--\r\n",
        field("model", b"\xff") + b"\r\n--x--\r\n",
        field("model", b"a") + b"\r\n" + field("model", b"b") + b"\r\n--x--\r\n",
        b"--y\r\n",
    ],
)
async def test_parts_that_say_nothing(body: bytes) -> None:
    with pytest.raises(BadInput):
        await read(body)


def test_boundaries() -> None:
    assert boundary_of(b'multipart/form-data; boundary="a b"') == b"a b"
    for kind in (b"multipart/form-data", b"multipart/form-data; boundary=" + b"a" * 201):
        with pytest.raises(BadInput):
            boundary_of(kind)

"""Which files become pixels, upright, and which are refused before they cost anything."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.pictures import claimed_png, encoded, noise
from vision import images
from vision.errors import BadInput, TooLarge
from vision.images import ImageLimits, decode, open_image

LIMITS = ImageLimits()
SMALL = ImageLimits(max_bytes=10_000, max_pixels=1000)
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
EXIF_ORIENTATION = 0x0112


def code_of(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(BadInput) as caught:
        decode(data, limits)
    return caught.value.code


@pytest.mark.parametrize("kind", KINDS)
def test_each_format_is_decoded(kind: str) -> None:
    image = decode(encoded(noise(), kind), LIMITS)
    assert image.size == (24, 16)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "TGA", "PCX", "EPS", "JPEG2000", "AVIF"])
def test_other_formats_are_not_even_opened(kind: str) -> None:
    assert code_of(encoded(noise(32, 32), kind)) == "invalid_image"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"not an image",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"RIFF\x00\x00\x00\x00WEBPVP8X" + b"\x00" * 18,
        b"RIFF\xff\xff\xff\xffWEBPnone" + b"\x00" * 40,
        b"BM" + b"\x00" * 60,
    ],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert code_of(data) == "invalid_image"


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_refused(kind: str) -> None:
    """At each length, but for the last bytes behind all pixels that some formats have."""
    whole = encoded(noise(), kind)
    decodable = 0
    for length in range(len(whole)):
        try:
            decode(whole[:length], LIMITS)
        except BadInput as refusal:
            assert refusal.code == "invalid_image"  # noqa: PT017 - some lengths do not raise
        else:
            decodable += 1
            assert length > len(whole) - 24
    assert decodable <= 24


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:.*corrupt MPO")
@settings(max_examples=150)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255))),
    st.data(),
)
def test_damaged_files_never_raise_anything_else(
    kind: str, damage: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Bytes changed and the end cut: an image or `BadInput`."""
    file = bytearray(encoded(noise(), kind))
    for position, value in damage:
        file[position % len(file)] = value
    cut = data.draw(st.integers(0, len(file)))
    with contextlib.suppress(BadInput):
        decode(bytes(file[:cut]), ImageLimits(max_pixels=100_000))


def test_bytes_over_the_cap_are_not_looked_at() -> None:
    with pytest.raises(TooLarge) as caught:
        decode(b"x" * 10_001, SMALL)
    assert caught.value.status == 413


@pytest.mark.parametrize(("width", "height"), [(25, 41), (1001, 1), (2**31 - 1, 2**31 - 1)])
def test_the_header_s_pixels_are_capped_before_any_is_decoded(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", never)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    assert code_of(claimed_png(width, height), SMALL) == "image_too_large"


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1), (1, 50_000_000)])
def test_a_side_is_capped_too(size: tuple[int, int]) -> None:
    """Resizing 1 x 50,000,000 pixels took 18 s and 1.9 GB."""
    assert code_of(claimed_png(*size), ImageLimits()) == "image_too_large"


def test_the_longest_side_is_decoded() -> None:
    assert decode(encoded(noise(2, 65_535)), ImageLimits()).size == (2, 65_535)


def test_an_image_at_the_cap_is_decoded() -> None:
    assert decode(encoded(noise(25, 40)), SMALL).size == (25, 40)


@pytest.mark.parametrize("pixels", [60_000_000, 100_000_000, 200_000_000])
def test_bombs_are_refused_alike_under_and_over_pillow_s_own_limits(pixels: int) -> None:
    """Pillow warns at 89 million and raises at 179 million; neither is seen, nor changed."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert code_of(claimed_png(pixels // 1000, 1000)) == "image_too_large"
    assert code_of(claimed_png(pixels // 1000, 1000)) == "image_too_large"
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_gif_s_frame_counts_if_it_is_larger_than_the_screen() -> None:
    screen = bytearray(encoded(noise(4, 4, "P"), "GIF"))
    at = screen.index(b",\x00\x00\x00\x00")
    screen[at + 5 : at + 9] = struct.pack("<HH", 5000, 5000)
    assert code_of(bytes(screen), SMALL) == "image_too_large"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lossless": True},
        {"exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00"},
    ],
)
def test_a_webp_s_canvas_is_read_without_its_decoder(options: dict[str, object]) -> None:
    """The decoder allocates when it opens: Pillow is not asked for one over the cap."""
    file = encoded(noise(200, 100), "WEBP", **options)
    assert images._webp_size(file) == (200, 100)
    assert code_of(file, ImageLimits(max_pixels=19_999)) == "image_too_large"
    assert decode(file, ImageLimits(max_pixels=20_000)).size == (200, 100)


def scans_of(file: bytes) -> tuple[bytes, bytes, bytes]:
    """Split a progressive JPEG into its head, its first scan and the rest."""
    start = file.index(b"\xff\xda")
    end = file.index(b"\xff\xda", start + 2)
    return file[:start], file[start:end], file[end:]


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_jpeg_of_endless_scans_is_refused(pictures: int) -> None:
    """Also as one of several pictures in a file, which Pillow calls by another name."""
    more = {"format": "MPO", "save_all": True, "append_images": [noise()]} if pictures > 1 else {}
    file = encoded(noise(), more.pop("format", "JPEG"), progressive=True, **more)
    head, scan, rest = scans_of(file)
    assert decode(file, LIMITS).size == (24, 16)
    assert code_of(head + scan * 101 + rest) == "invalid_image"


@pytest.mark.parametrize(("budget", "scans", "refused"), [(3840, 20, True), (384 * 40, 20, False)])
def test_large_images_have_fewer_scans(
    budget: int, scans: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 384 pixels, here: a pass over all of them is what a scan costs."""
    monkeypatch.setattr(images, "_MAX_PASSED_PIXELS", budget)
    head, scan, rest = scans_of(encoded(noise(), "JPEG", progressive=True))
    file = head + scan * scans + rest
    assert images._has_endless_scans(file, noise()) == refused


def test_a_scan_s_bytes_elsewhere_are_no_scans() -> None:
    """Phones put films behind the picture, and other programs anything into its comments."""
    file = encoded(noise(), "JPEG", progressive=True, comment=b"\xff\xda" * 200)
    assert decode(file + b"\xff\xda" * 200, LIMITS).size == (24, 16)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_exif_orientation_is_turned_upright(kind: str, orientation: int) -> None:
    """The file shows a red corner at the top left only if it is turned as its tag says."""
    upright = Image.new("RGB", (48, 32), "blue")
    upright.paste("red", (0, 0, 16, 16))
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if inverse is None else upright.transpose(inverse)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    image = decode(encoded(stored, kind, exif=exif.tobytes(), **options), LIMITS)
    assert image.size == (48, 32)
    red, blue = image.convert("RGB").getpixel((8, 8)), image.convert("RGB").getpixel((40, 24))
    assert isinstance(red, tuple)
    assert isinstance(blue, tuple)
    assert red[0] - red[2] > 150
    assert blue[2] - blue[0] > 150


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [b"Exif\x00\x00", b"Exif\x00\x00II*\x00\xff\xff\xff\xff", b"Exif\x00\x00garbage!", b"garbage"],
)
def test_broken_exif_does_not_spoil_the_picture(exif: bytes, kind: str) -> None:
    assert decode(encoded(noise(), kind, exif=exif), LIMITS).size == (24, 16)


def test_an_orientation_that_is_none_turns_nothing() -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 9
    assert decode(encoded(noise(), "JPEG", exif=exif.tobytes()), LIMITS).size == (24, 16)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG")],
)
def test_each_mode_becomes_the_rgb_of_pillow(mode: str, kind: str) -> None:
    """`convert("RGB")`, which torchvision's and transformers' users call: alpha is dropped."""
    stored = noise(mode=mode)
    if mode == "RGBA":
        stored.putalpha(0)
    file = encoded(stored, kind)
    expected = stored.convert("RGB")
    if kind == "JPEG":  # Lossy: what Pillow itself reads back.
        with Image.open(io.BytesIO(file)) as read:
            expected = read.convert("RGB")
    got = decode(file, LIMITS).convert("RGB")
    assert np.array_equal(np.asarray(got), np.asarray(expected))


def test_transparency_of_a_palette_is_dropped_without_a_warning() -> None:
    stored = noise(mode="P")
    got = decode(encoded(stored, transparency=b"\x00\x80"), LIMITS)
    assert np.array_equal(np.asarray(got.convert("RGB")), np.asarray(stored.convert("RGB")))


def test_16_bit_grey_keeps_its_range() -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    got = decode(encoded(Image.fromarray(values)), LIMITS)
    assert got.mode == "L"
    assert np.asarray(got).tolist() == [[0, 0, 1, 128, 255]]


def test_of_an_animation_the_first_frame_is_taken() -> None:
    first, second = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    for kind in ("GIF", "WEBP", "PNG"):
        file = encoded(first, kind, save_all=True, append_images=[second])
        pixel = decode(file, LIMITS).convert("RGB").getpixel((0, 0))
        assert isinstance(pixel, tuple)
        assert pixel[0] > 200, kind


def test_the_header_alone_tells_size_and_format() -> None:
    opened = open_image(claimed_png(10, 20), LIMITS)
    assert (opened.format, opened.size) == ("PNG", (10, 20))

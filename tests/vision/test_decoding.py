"""What a request's inputs become: images by bytes, base64 and URL, tensors, and their refusals."""

from __future__ import annotations

import base64
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.pictures import claimed_png, encoded, noise
from vision import decoding
from vision.config import Preprocessing
from vision.decoding import Decoder, Source, read_base64, read_inputs
from vision.errors import BadInput, TooLarge
from vision.fetch import Fetcher
from vision.images import ImageLimits, finish
from vision.preprocess import Preprocessor
from vision.tensors import DataType, TensorSpec

LIMITS = ImageLimits(max_bytes=200_000, max_pixels=100_000)
GREY = TensorSpec("pixels", DataType.FP32, (1, 8, 8))
RESIZED = Preprocessing.model_validate({"color": "gray", "resize": {"size": (8, 8)}})
PICTURE = encoded(noise(8, 8))
TEXT = base64.b64encode(PICTURE).decode()


class Web(Fetcher):
    """A fetcher that has everything at hand, and keeps what it was asked for."""

    def __init__(self, answer: bytes | BadInput = PICTURE) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def get(self, url: str) -> bytes:
        self.asked.append(url)
        if isinstance(self.answer, BadInput):
            raise self.answer
        return self.answer


@pytest.fixture
async def web() -> Web:
    return Web()


@pytest.fixture
async def decoder(web: Web) -> AsyncIterator[Decoder]:
    made = Decoder(LIMITS, web, threads=2)
    yield made
    made.close()


def step(config: Preprocessing = RESIZED, spec: TensorSpec = GREY) -> Preprocessor:
    return Preprocessor(config, spec)


async def rows(decoder: Decoder, inputs: object, param: str = "inputs") -> Any:
    sources, _ = read_inputs(inputs, 64)
    return (await decoder.rows(sources[0], [GREY], step())).arrays["pixels"]


async def refusal(decoder: Decoder, inputs: object) -> BadInput | TooLarge:
    with pytest.raises((BadInput, TooLarge)) as caught:
        await rows(decoder, inputs)
    return caught.value


# What the JSON says


def test_one_item_and_a_list_of_items_are_told_apart() -> None:
    assert read_inputs({"image": "AAAA"}, 64) == ([Source("inputs.image", image="AAAA")], False)
    assert read_inputs([{"image": "AAAA"}, {"pixels": [1]}], 64) == (
        [Source("inputs[0].image", image="AAAA"), Source("inputs[1]", tensors={"pixels": [1]})],
        True,
    )


@pytest.mark.parametrize("inputs", [None, "AAAA", 1, [], True])
def test_what_is_neither_is_refused_whole(inputs: object) -> None:
    with pytest.raises(BadInput) as caught:
        read_inputs(inputs, 64)
    assert (caught.value.code, caught.value.param) == ("invalid_request", "inputs")


def test_too_many_items_are_refused_before_any_is_looked_at() -> None:
    """Each would be an object with an error: 600 bytes for the two of the body."""

    class Untouched(list[object]):
        def __iter__(self) -> Iterator[object]:
            raise AssertionError

    assert len(read_inputs([0] * 3, 3)[0]) == 3
    with pytest.raises(TooLarge) as caught:
        read_inputs(Untouched([0] * 4), 3)
    assert (caught.value.status, caught.value.param) == (413, "inputs")


async def test_a_bad_item_fails_when_its_turn_comes_and_its_mates_do_not(decoder: Decoder) -> None:
    sources, _ = read_inputs([{"image": TEXT}, "AAAA", {}, {"image": TEXT, "more": 1}, [1]], 64)
    assert (await decoder.rows(sources[0], [GREY], step())).arrays["pixels"].shape == (1, 1, 8, 8)
    for index, source in enumerate(sources[1:], 1):
        with pytest.raises(BadInput) as caught:
            await decoder.rows(source, [GREY], step())
        assert caught.value.param is not None
        assert caught.value.param.startswith(f"inputs[{index}]")


@pytest.mark.parametrize(
    "url", ["http://a.example/x.png", "HTTPS://a.example/", "file:///etc/passwd"]
)
async def test_a_url_of_any_scheme_is_the_fetcher_s_to_judge(
    url: str, decoder: Decoder, web: Web
) -> None:
    assert (await rows(decoder, {"image": url})).shape == (1, 1, 8, 8)
    assert web.asked == [url]


async def test_a_refusal_of_the_fetcher_names_the_item(decoder: Decoder, web: Web) -> None:
    web.answer = BadInput("no", code="url_refused")
    refused = await refusal(decoder, [{"image": "http://a.example/"}])
    assert (refused.code, refused.param) == ("url_refused", "inputs[0].image")


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"data:image/png;base64,{TEXT}",
        f"DATA:image/png;charset=x;BASE64,{TEXT}",
        f"data:;base64,{TEXT}",
        f"data:application/octet-stream;base64,{TEXT}",
        f"data:image/png;base64,{TEXT.replace('+', '%2B').replace('=', '%3D')}",
        "data:image/png," + "".join(f"%{byte:02x}" for byte in PICTURE),
        "\n".join(TEXT[at : at + 76] for at in range(0, len(TEXT), 76)) + "\r\n",
        TEXT.replace("+", "-").replace("/", "_"),
    ],
)
async def test_base64_and_data_urls_are_images(text: str, decoder: Decoder, web: Web) -> None:
    expected = (await decoder.rows(Source("body", image=PICTURE), [GREY], step())).arrays["pixels"]
    assert np.array_equal(await rows(decoder, {"image": text}), expected)
    assert web.asked == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_image"),
        ("AAAA", "invalid_image"),
        ("A", "invalid_base64"),
        ("AAA", "invalid_base64"),
        ("AA==AA==", "invalid_base64"),
        ("not base64!", "invalid_base64"),
        ("\u00e4\u00f6", "invalid_base64"),
        ("\U0001f600", "invalid_base64"),
        ("data:image/png;base64,***", "invalid_base64"),
        ("data:image/png;base64,", "invalid_image"),
        ("data:image/png;base64", "invalid_request"),
        ("data:text/html,<b>", "invalid_request"),
        ("data:", "invalid_request"),
    ],
)
async def test_what_is_no_image_says_what_it_is_not(text: str, code: str, decoder: Decoder) -> None:
    refused = await refusal(decoder, {"image": text})
    assert (refused.code, refused.param, refused.status) == (code, "inputs.image", 400)


@given(st.binary(max_size=200), st.booleans(), st.integers(1, 80))
def test_base64_comes_back_in_both_alphabets_and_across_lines(
    data: bytes, url_safe: bool, width: int
) -> None:
    encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
    text = encode(data).decode()
    lines = "\r\n".join(text[at : at + width] for at in range(0, len(text), width))
    assert read_base64(text, LIMITS) == data
    assert read_base64(lines, LIMITS) == data


@given(st.text(max_size=60))
def test_any_text_is_bytes_or_a_refusal(text: str) -> None:
    try:
        read_base64(text, LIMITS)
    except BadInput as refused:
        assert refused.code == "invalid_base64"  # noqa: PT017 - most texts do not raise


async def test_text_over_the_cap_is_not_decoded(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "binascii", None)
    refused = await refusal(decoder, {"image": "A" * 300_000})
    assert (refused.status, refused.param) == (413, "inputs.image")


async def test_bytes_over_the_cap_are_too_large(decoder: Decoder) -> None:
    with pytest.raises(TooLarge):
        await decoder.rows(Source("body", image=b"x" * 200_001), [GREY], step())


# What the model takes


async def test_an_image_needs_a_model_with_preprocessing(decoder: Decoder) -> None:
    with pytest.raises(BadInput) as caught:
        await decoder.rows(Source("body", image=PICTURE), [GREY], None)
    assert (caught.value.code, caught.value.param) == ("unsupported_input", "body")
    assert "pixels" in caught.value.message


async def test_an_image_does_not_feed_a_second_input(decoder: Decoder, web: Web) -> None:
    more = TensorSpec("mask", DataType.FP32, (1,))
    with pytest.raises(BadInput) as caught:
        await decoder.rows(Source("i", url="http://a.example/"), [GREY, more], step())
    assert (caught.value.code, web.asked) == ("unsupported_input", [])


async def test_tensors_by_name_need_no_preprocessing(decoder: Decoder) -> None:
    values = np.arange(64, dtype=np.float32).reshape(1, 8, 8)
    for item in (
        values.tolist(),
        {"shape": [1, 8, 8], "datatype": "FP32", "data": list(range(64))},
    ):
        sources, _ = read_inputs({"pixels": item}, 64)
        decoded = await decoder.rows(sources[0], [GREY], None)
        assert np.array_equal(decoded.arrays["pixels"], values[None])
        assert decoded.geometry is None


async def test_a_tensor_may_be_called_image(decoder: Decoder) -> None:
    spec = TensorSpec("image", DataType.FP32, (2,))
    sources, _ = read_inputs({"image": [1, 2]}, 64)
    assert (await decoder.rows(sources[0], [spec], None)).arrays["image"].tolist() == [[1, 2]]


async def test_a_bad_tensor_names_its_path(decoder: Decoder) -> None:
    refused = await refusal(decoder, [{"pixels": [["x"]]}])
    assert (refused.code, refused.param) == ("invalid_tensor", "inputs[0].pixels")


async def test_rows_come_first_and_the_geometry_is_the_image_s(decoder: Decoder) -> None:
    data = encoded(noise(20, 10))
    decoded = await decoder.rows(Source("image[0]", image=data), [GREY], step())
    assert decoded.arrays["pixels"].shape == (1, 1, 8, 8)
    assert decoded.geometry is not None
    assert (decoded.geometry.width, decoded.geometry.height) == (20, 10)


async def test_each_stage_s_time_is_told(web: Web) -> None:
    ticks = iter(range(100))
    decoder = Decoder(LIMITS, web, 1, monotonic=lambda: float(next(ticks)))
    decoded = await decoder.rows(Source("i", url="http://a.example/"), [GREY], step())
    assert (decoded.fetch_s, decoded.decode_s, decoded.preprocess_s) == (1, 2, 1)
    large = await decoder.rows(Source("i", image=encoded(noise(100, 100))), [GREY], step())
    assert (large.decode_s, large.preprocess_s) == (2, 1)
    decoder.close()


# Where it happens


@pytest.mark.parametrize(
    ("data", "config", "inline"),
    [
        (PICTURE, RESIZED, True),
        (encoded(noise(40, 40)), RESIZED, True),
        (encoded(noise(65, 8)), RESIZED, False),
        (encoded(noise(64, 64)), RESIZED, False),  # 12 kB of noise
        (encoded(noise(300, 300).point(lambda _: 0)), RESIZED, False),  # few bytes, many pixels
    ],
)
async def test_only_what_is_small_in_bytes_and_pixels_is_decoded_on_the_loop(
    data: bytes,
    config: Preprocessing,
    inline: bool,
    decoder: Decoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where: list[int] = []

    def noted(image: Any) -> Any:
        where.append(threading.get_ident())
        return finish(image)

    monkeypatch.setattr(decoding, "finish", noted)
    await decoder.rows(Source("body", image=data), [GREY], step(config))
    assert (where[0] == threading.get_ident()) == inline


async def test_a_small_image_for_a_large_input_goes_to_a_thread(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[int] = []
    monkeypatch.setattr(
        decoding, "finish", lambda image: where.append(threading.get_ident()) or finish(image)
    )
    spec = TensorSpec("pixels", DataType.FP32, (3, 224, 224))
    config = Preprocessing.model_validate({"resize": {"size": (224, 224)}})
    await decoder.rows(Source("body", image=PICTURE), [spec], step(config, spec))
    assert where[0] != threading.get_ident()


@pytest.mark.parametrize("size", [(5000, 5000), (2**31 - 1, 2**31 - 1)])
async def test_a_bomb_is_refused_on_its_header(size: tuple[int, int], decoder: Decoder) -> None:
    with pytest.raises(BadInput) as caught:
        await decoder.rows(Source("image[1]", image=claimed_png(*size)), [GREY], step())
    assert (caught.value.code, caught.value.param) == ("image_too_large", "image[1]")


async def test_large_tensors_are_read_in_a_thread(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[int] = []
    spec = TensorSpec("x", DataType.FP32, (None,))

    class Noted(dict[str, object]):
        def __iter__(self) -> Any:
            where.append(threading.get_ident())
            return super().__iter__()

    for count in (10, 5000):
        source = Source("inputs", tensors=Noted(x=[0.5] * count))
        decoded = await decoder.rows(source, [spec], None)
        assert decoded.arrays["x"].shape == (1, count)
    assert (where[0] == threading.get_ident(), where[-1] == threading.get_ident()) == (True, False)

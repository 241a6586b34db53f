"""Image processors' configurations in the words of config.yaml."""

from __future__ import annotations

from typing import Any

import pytest

from vision.config import Preprocessing, Resize
from vision.convert.processor import UnknownProcessorError, image_size, preprocessing

VIT = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 200},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
}
CONVNEXT = {
    "feature_extractor_type": "ConvNextFeatureExtractor",
    "size": 224,
    "crop_pct": 0.875,
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def test_vit_resizes_to_exactly_its_size() -> None:
    assert preprocessing(VIT, "pixel_values") == Preprocessing(
        input="pixel_values",
        resize=Resize(size=(224, 200), mode="exact", filter="bilinear"),
        scale=0.00392156862745098,
        mean=(0.5, 0.4, 0.3),
        std=(0.5, 0.6, 0.7),
        rounding="transformers",
    )


def test_convnext_under_384_resizes_larger_and_crops() -> None:
    made = preprocessing(CONVNEXT)
    assert made.resize == Resize(size=(256, 256), mode="shortest", filter="bicubic")
    assert made.crop == (224, 224)


@pytest.mark.parametrize("absent", [{}, {"crop_pct": None}])
def test_convnext_without_a_crop_share_has_that_of_transformers(absent: dict[str, Any]) -> None:
    config = {key: value for key, value in CONVNEXT.items() if key != "crop_pct"} | absent
    assert preprocessing(config).resize == Resize(
        size=(256, 256), mode="shortest", filter="bicubic"
    )


def test_convnext_from_384_on_is_not_cropped() -> None:
    made = preprocessing(CONVNEXT | {"size": {"shortest_edge": 384}})
    assert (made.resize, made.crop) == (Resize(size=(384, 384), filter="bicubic"), None)


def test_clip_style_crops_the_centre_of_the_shorter_side() -> None:
    made = preprocessing(
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 224},
            "do_center_crop": True,
            "crop_size": {"height": 224, "width": 220},
            "resample": 3,
        }
    )
    assert made.resize == Resize(size=(224, 224), mode="shortest", filter="bicubic")
    assert made.crop == (224, 220)


def test_old_configurations_say_sizes_as_one_number() -> None:
    made = preprocessing({"size": 256, "do_center_crop": True, "crop_size": 224})
    assert (made.resize, made.crop) == (Resize(size=(256, 256)), (224, 224))


@pytest.mark.parametrize("kind", ["CLIPFeatureExtractor", "BitImageProcessor"])
def test_one_number_is_the_shorter_side_where_transformers_takes_it_so(kind: str) -> None:
    made = preprocessing({"feature_extractor_type": kind, "size": 224, "resample": 3})
    assert made.resize == Resize(size=(224, 224), mode="shortest", filter="bicubic")


def test_efficientnet_divides_twice_by_the_deviation() -> None:
    config = VIT | {"image_processor_type": "EfficientNetImageProcessor"}
    once = preprocessing(config | {"include_top": False})
    assert once.std == (0.5, 0.6, 0.7)
    for twice in (preprocessing(config), preprocessing(config | {"include_top": True})):
        assert twice.std == pytest.approx((0.25, 0.36, 0.49))
        assert twice.mean == once.mean
    with pytest.raises(UnknownProcessorError, match="include_top"):
        preprocessing(config | {"do_normalize": False})


@pytest.mark.parametrize(
    "kind",
    ["LevitFeatureExtractor", "PoolFormerImageProcessor", "PerceiverImageProcessorFast"],
)
def test_processors_whose_code_does_more_than_the_keys_say_are_unknown(kind: str) -> None:
    with pytest.raises(UnknownProcessorError, match=kind):
        preprocessing(VIT | {"image_processor_type": kind})


def test_steps_that_are_off_are_left_out() -> None:
    off = {"do_resize": False, "do_normalize": False, "do_rescale": False}
    assert preprocessing(VIT | off) == Preprocessing(scale=1.0, rounding="transformers")
    assert preprocessing(CONVNEXT | {"do_resize": False}).crop is None


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"do_pad": True}, "do_pad"),
        ({"rescale_offset": True}, "rescale_offset"),
        ({"size": {"longest_edge": 300}}, "size"),
        ({"size": {"shortest_edge": 300, "longest_edge": 400}}, "size"),
        ({"resample": 9}, "resample 9"),
        ({"image_mean": [0.5]}, "has to have 3 values"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 3}}, "crop_size"),
    ],
)
def test_what_has_no_words_here_is_said(extra: dict[str, Any], word: str) -> None:
    with pytest.raises(UnknownProcessorError, match=word):
        preprocessing(VIT | extra)


def test_convnext_of_other_sizes_is_unknown() -> None:
    with pytest.raises(UnknownProcessorError, match="size"):
        preprocessing(CONVNEXT | {"size": {"height": 3, "width": 3}})


def test_image_size_is_that_of_the_last_step() -> None:
    assert image_size(preprocessing(CONVNEXT), (1, 1)) == (224, 224)
    assert image_size(preprocessing(VIT), (1, 1)) == (224, 200)
    assert image_size(preprocessing({"size": {"shortest_edge": 9}}), (1, 2)) == (1, 2)

"""Samples from images, npz files and noise; what calibrates is never held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision.config import ModelConfig, Preprocessing, Resize
from vision.convert.failures import ConversionError
from vision.convert.samples import HELD_OUT, Samples, noise, read, split
from vision.tensors import DataType, TensorSpec

IMAGE = (TensorSpec("image", DataType.FP32, (1, 2, 3)),)
TEXT = (TensorSpec("ids", DataType.INT64, (None,)), TensorSpec("mask", DataType.INT64, (None,)))
GRAY = ModelConfig(preprocessing=Preprocessing(color="gray", resize=Resize(size=(2, 3))))
RAW = ModelConfig()


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for at in range(count):
        Image.new("L", (3, 2), at).save(folder / f"{at:03}.png")


def greys(samples: Samples) -> list[int]:
    return [round(float(row["image"][0, 0, 0, 0]) * 255) for row in samples]


def numbered(count: int) -> Samples:
    readers = tuple(lambda at=at: {"x": np.full((1, 1), at)} for at in range(count))
    return Samples("numbers", readers, tuple(range(count)))


def values(samples: Samples) -> list[int]:
    return [int(row["x"][0, 0]) for row in samples]


def test_images_of_a_folder_and_below_go_through_the_preprocessing(tmp_path: Path) -> None:
    write_images(tmp_path / "a" / "b", 3)
    (tmp_path / "notes.txt").write_text("no image")
    found = read(str(tmp_path), IMAGE, GRAY)
    assert len(found) == 3
    assert greys(found) == [0, 1, 2]
    assert next(iter(found))["image"].shape == (1, 1, 2, 3)
    assert next(iter(found))["image"].dtype == np.float32


def test_images_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 2)
    found = read(str(tmp_path), IMAGE, GRAY)
    (tmp_path / "a" / "001.png").write_bytes(b"broken")
    rows = iter(found)
    assert next(rows)["image"].any() is np.False_
    with pytest.raises(ConversionError, match=r"001\.png: "):
        next(rows)


def test_npz_of_images_and_labels(tmp_path: Path) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.savez(tmp_path / "x.npz", images=pixels, labels=np.array([7, 8]))
    found = read(str(tmp_path / "x.npz"), IMAGE, GRAY)
    assert found.labels == (7, 8)
    assert greys(found) == [0, 6]


def test_folder_of_npz_files_is_one_set(tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", images=np.zeros((2, 2, 3), np.uint8), labels=[1, 2])
    found = read(str(tmp_path), IMAGE, GRAY)
    assert (len(found), found.labels) == (4, (1, 2, 1, 2))


def test_npz_of_tensors_by_the_names_of_the_inputs(tmp_path: Path) -> None:
    ids = np.arange(10).reshape(2, 5)
    np.savez(tmp_path / "x.npz", ids=ids, mask=np.ones_like(ids))
    rows = list(read(str(tmp_path / "x.npz"), TEXT, RAW))
    assert [row["ids"].tolist() for row in rows] == [[[0, 1, 2, 3, 4]], [[5, 6, 7, 8, 9]]]
    assert rows[0].keys() == {"ids", "mask"}


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"ids": np.ones((2, 5))}, r"needs arrays named ids, mask, or images; it has ids"),
        ({"ids": np.ones((2, 5), int), "mask": np.ones((3, 5), int)}, "different numbers of rows"),
        ({"ids": np.ones((2, 5)), "mask": np.ones((2, 5))}, "ids is float64"),
        ({"images": np.zeros((2, 2, 3), np.uint8)}, "`preprocessing` section: give --config"),
        (
            {"ids": np.ones((2, 5), int), "mask": np.ones((2, 5), int), "labels": np.ones(3)},
            r"2 samples, but labels of \(3,\)",
        ),
        (
            {"ids": np.ones((2, 5), int), "mask": np.ones((2, 5), int), "labels": np.ones(2)},
            "labels are float64; they have to be integers",
        ),
        (
            {"ids": np.ones((2, 5), int), "mask": np.ones((2, 5), int), "labels": ["a", "b"]},
            "labels are <U1; they have to be integers",
        ),
        ({"ids": np.ones((2, 5), int), "mask": np.array(1)}, "an array without rows"),
        ({"ids": np.ones((0, 5), int), "mask": np.ones((0, 5), int)}, "holds no samples"),
    ],
)
def test_npz_that_does_not_fit_says_why(
    tmp_path: Path, arrays: dict[str, np.ndarray], why: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ConversionError, match=rf"^--calibration .*x\.npz: .*{why}"):
        list(read(str(tmp_path / "x.npz"), TEXT, RAW))


def test_images_of_floats_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 2, 3)))
    with pytest.raises(ConversionError, match="not uint8"):
        read(str(tmp_path / "x.npz"), IMAGE, GRAY)


def test_pickles_in_an_npz_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.array([{}, []], dtype=object))
    with pytest.raises(ConversionError, match="not an npz file of plain arrays"):
        read(str(tmp_path / "x.npz"), IMAGE, RAW)
    (tmp_path / "y.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ConversionError, match="not an npz file of plain arrays"):
        read(str(tmp_path / "y.npz"), IMAGE, RAW)


def test_place_without_samples_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"no images in it \(\.bmp, .*\), and no npz files"):
        read(str(tmp_path), IMAGE, GRAY)
    with pytest.raises(ConversionError, match="neither a folder nor an npz file"):
        read(str(tmp_path / "nowhere"), IMAGE, GRAY)


def test_images_feed_no_model_with_several_inputs(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 1)
    config = ModelConfig(preprocessing=Preprocessing(color="gray"))
    with pytest.raises(ConversionError, match="one input"):
        read(str(tmp_path), TEXT, config)


@pytest.mark.parametrize(("count", "wanted", "used"), [(10, 200, 8), (100, 20, 20), (1, 5, 1)])
def test_calibration_leaves_samples_to_judge_by(count: int, wanted: int, used: int) -> None:
    calibration, held_out = split(numbered(count), wanted)
    assert len(calibration) == used
    assert sorted(values(calibration) + values(held_out)) == list(range(count))
    assert calibration.labels == tuple(values(calibration))
    assert held_out.labels == tuple(values(held_out))


def test_samples_are_dealt_in_a_shuffled_but_steady_order() -> None:
    first, second = split(numbered(50), 20), split(numbered(50), 20)
    assert values(first[0]) == values(second[0]) != sorted(values(first[0]))


def test_without_calibration_all_are_held_out_up_to_a_cap() -> None:
    calibration, held_out = split(numbered(HELD_OUT + 5), 0)
    assert (len(calibration), len(held_out)) == (0, HELD_OUT)


def test_noise_fits_every_input_and_is_marked() -> None:
    found = noise(TEXT, RAW)
    assert found.random
    row = next(iter(found))
    assert row["ids"].shape == row["mask"].shape
    assert set(row["mask"].ravel().tolist()) == {1}
    assert 0 <= row["ids"].min() <= row["ids"].max() < 100
    assert read("random", IMAGE, GRAY).random


def test_noise_for_a_standardized_input_is_about_zero() -> None:
    standard = Preprocessing(color="gray", mean=(0.5,), std=(0.5,))
    values_of = [
        np.concatenate(
            [row["image"].ravel() for row in noise(IMAGE, ModelConfig(preprocessing=one))]
        )
        for one in (standard, Preprocessing(color="gray"))
    ]
    assert values_of[0].min() < 0 <= values_of[1].min() <= values_of[1].max() <= 1


def test_npz_with_nan_is_refused(tmp_path: Path) -> None:
    """One would make a scale of NaN, or errors that compare as none."""
    array = np.zeros((3, 4), np.float32)
    array[1, 2] = np.nan
    np.savez(tmp_path / "x.npz", x=array)
    spec = TensorSpec("x", DataType.FP32, (4,))
    with pytest.raises(ConversionError, match="x has values that are not finite"):
        read(str(tmp_path / "x.npz"), (spec,), RAW)

"""Which samples is a model calibrated with, and which are held out to judge it?

    folder     images in it and in folders below, through the model's own preprocessing;
               or npz files, if there are no images
    x.npz      arrays by the names of the inputs, rows first; or `images` [n, h, w(, 3)] of uint8,
               through the preprocessing; `labels` [n] beside them give accuracy, too
    random     noise: only to try things out

The order is shuffled with a fixed seed; what calibrates is never held out.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vision.config import ModelConfig
from vision.convert.failures import ConversionError
from vision.errors import VisionError
from vision.images import ImageLimits, decode
from vision.preprocess import Preprocessor
from vision.tensors import Array, TensorSpec

RANDOM = "random"
SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})
HELD_OUT = 500
"""The most samples that are held out; more would only take time."""
CALIBRATION_SHARE = 0.8
"""The most of the samples that calibrate, so that a few are left to judge by."""
RANDOM_SAMPLES = 64
_SEED = 0
_TOKENS = 100  # Noise for integers: any vocabulary has as many.

Row = dict[str, Array]
"""One row of every input, with the batch axis."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Rows that are read when they are asked for: a thousand images would fill the memory."""

    origin: str
    readers: tuple[Callable[[], Row], ...]
    labels: tuple[int, ...] | None = None
    random: bool = False

    def __len__(self) -> int:
        return len(self.readers)

    def __iter__(self) -> Iterator[Row]:
        return (read() for read in self.readers)

    def part(self, indices: Sequence[int]) -> Samples:
        """Some of them, in this order."""
        labels = None if self.labels is None else tuple(self.labels[index] for index in indices)
        readers = tuple(self.readers[index] for index in indices)
        return Samples(self.origin, readers, labels, self.random)


def read(
    where: str, inputs: Sequence[TensorSpec], config: ModelConfig, option: str = "--calibration"
) -> Samples:
    """Find the samples. Raises `ConversionError` for a place without any, or that do not fit.

    `option` is what named the place, for the errors.
    """
    if where == RANDOM:
        return noise(inputs, config)
    path = Path(where)
    if path.is_dir():
        images = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES)
        if images:
            return _images(path, images, inputs, config, option)
        archives = sorted(path.rglob("*.npz"))
        if archives:
            parts = [_archive(one, inputs, config, option) for one in archives]
            labels = [label for part in parts for label in part.labels or ()]
            readers = tuple(reader for part in parts for reader in part.readers)
            complete = len(labels) == len(readers)
            return Samples(where, readers, tuple(labels) if complete else None)
        kinds = ", ".join(sorted(SUFFIXES))
        raise ConversionError(f"{option} {where}: no images in it ({kinds}), and no npz files")
    if path.suffix == ".npz" and path.is_file():
        return _archive(path, inputs, config, option)
    raise ConversionError(f"{option} {where}: neither a folder nor an npz file")


def split(
    samples: Samples, wanted: int, share: float = CALIBRATION_SHARE
) -> tuple[Samples, Samples]:
    """Deal the samples out: for calibration at most `wanted` and a share, held out at most 500.

    With `wanted` 0 all are held out. A single sample calibrates, and nothing is held out.
    """
    order = np.random.default_rng(_SEED).permutation(len(samples)).tolist()
    used = min(wanted, max(1, int(len(samples) * share))) if wanted else 0
    return samples.part(order[:used]), samples.part(order[used : used + HELD_OUT])


def noise(inputs: Sequence[TensorSpec], config: ModelConfig) -> Samples:
    """Rows of random values: normal if the preprocessing standardizes, else from 0 to 1."""
    rng = np.random.default_rng(_SEED)
    made = config.preprocessing
    normal = made is not None and bool(made.mean)
    rows = [_random_row(rng, inputs, normal) for _ in range(RANDOM_SAMPLES)]
    return Samples(RANDOM, tuple(_given(row) for row in rows), random=True)


def _random_row(rng: np.random.Generator, inputs: Sequence[TensorSpec], normal: bool) -> Row:
    row: Row = {}
    length = int(rng.integers(8, 33))  # Of free axes, which are mostly a text's tokens.
    for spec in inputs:
        shape = (1, *(length if size is None else size for size in spec.shape))
        kind = spec.dtype.numpy.kind
        values: Array
        if kind == "f":
            values = rng.standard_normal(shape) if normal else rng.random(shape)
        elif "mask" in spec.name or kind == "b":
            values = np.ones(shape)
        else:
            values = rng.integers(0, _TOKENS, shape)
        row[spec.name] = values.astype(spec.dtype.numpy)
    return row


def _given(row: Row) -> Callable[[], Row]:
    return lambda: row


def _images(
    folder: Path,
    files: Sequence[Path],
    inputs: Sequence[TensorSpec],
    config: ModelConfig,
    option: str,
) -> Samples:
    preprocessor = _preprocessor(inputs, config, f"{option} {folder}")
    limits = ImageLimits()

    def reader(file: Path) -> Callable[[], Row]:
        def read_image() -> Row:
            try:
                array, _ = preprocessor.row(decode(file.read_bytes(), limits))
            except VisionError as error:
                raise ConversionError(f"{option} {file}: {error.message}") from error
            return {preprocessor.input: array[None]}

        return read_image

    return Samples(str(folder), tuple(reader(file) for file in files))


def _archive(file: Path, inputs: Sequence[TensorSpec], config: ModelConfig, option: str) -> Samples:
    """Samples of an npz file; no pickles in it."""
    where = f"{option} {file}"
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConversionError(f"{where}: not an npz file of plain arrays: {error}") from error
    labels = arrays.pop("labels", None)
    if all(spec.name in arrays for spec in inputs):
        readers = _tensors(arrays, inputs, where)
    elif "images" in arrays:
        readers = _pixels(arrays["images"], inputs, config, where)
    else:
        names = ", ".join(spec.name for spec in inputs)
        raise ConversionError(
            f"{where}: needs arrays named {names}, or images; it has {', '.join(arrays) or 'none'}"
        )
    if not readers:
        raise ConversionError(f"{where}: holds no samples")
    if labels is not None and labels.shape != (len(readers),):
        raise ConversionError(f"{where}: {len(readers)} samples, but labels of {labels.shape}")
    if labels is not None and labels.dtype.kind not in "iu":
        raise ConversionError(f"{where}: labels are {labels.dtype}; they have to be integers")
    return Samples(
        str(file), readers, None if labels is None else tuple(int(one) for one in labels)
    )


def _tensors(
    arrays: dict[str, Array], inputs: Sequence[TensorSpec], where: str
) -> tuple[Callable[[], Row], ...]:
    if any(arrays[spec.name].ndim == 0 for spec in inputs):
        raise ConversionError(f"{where}: an array without rows")
    counts = {len(arrays[spec.name]) for spec in inputs}
    if len(counts) != 1:
        raise ConversionError(f"{where}: its arrays have different numbers of rows")
    for spec in inputs:
        array = arrays[spec.name]
        if array.dtype != spec.dtype.numpy or not spec.fits(array.shape[1:]):
            raise ConversionError(
                f"{where}: {spec.name} is {array.dtype} {array.shape[1:]}, "
                f"the model takes {spec.dtype} {spec.shape}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ConversionError(f"{where}: {spec.name} has values that are not finite")

    def reader(at: int) -> Callable[[], Row]:
        return lambda: {spec.name: arrays[spec.name][at : at + 1] for spec in inputs}

    return tuple(reader(at) for at in range(counts.pop()))


def _pixels(
    images: Array, inputs: Sequence[TensorSpec], config: ModelConfig, where: str
) -> tuple[Callable[[], Row], ...]:
    preprocessor = _preprocessor(inputs, config, where)
    if images.dtype != np.uint8 or images.ndim not in {3, 4}:
        raise ConversionError(
            f"{where}: images are {images.dtype} {images.shape}, not uint8 "
            "[n, height, width] or [n, height, width, 3]"
        )

    def reader(at: int) -> Callable[[], Row]:
        return lambda: {preprocessor.input: preprocessor.row(Image.fromarray(images[at]))[0][None]}

    return tuple(reader(at) for at in range(len(images)))


def _preprocessor(inputs: Sequence[TensorSpec], config: ModelConfig, where: str) -> Preprocessor:
    made = config.preprocessing
    if made is None:
        raise ConversionError(
            f"{where}: images need a `preprocessing` section: give --config FILE, or tensors as npz"
        )
    spec = next((one for one in inputs if made.input in (None, one.name)), None)
    if spec is None or len(inputs) != 1:
        raise ConversionError(f"{where}: images feed models with one input; give tensors as npz")
    return Preprocessor(made, spec)

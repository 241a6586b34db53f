"""How does a version's folder become something that answers?

    hashes ──► file, by its runtime ──► labels, pre- and postprocessing ──► instances ──► warm-up
    └───────────── in a thread ────────────────────────────────────────┘

Whatever is wrong ends the load with a `LoadError` that names the file and the reason; nothing of a
load that failed stays behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import numpy as np

from vision.config import Batching, Classification, Detection, ModelConfig
from vision.configs import FILE_NAME
from vision.errors import BadInput, ConfigError, LoadError, OperatorError, TooLarge
from vision.images import ImageLimits, decode
from vision.labels import read_labels
from vision.lane import Lane, LaneObserver
from vision.listing import restamp
from vision.postprocess import Postprocessor, compile_postprocessing
from vision.preprocess import Preprocessor
from vision.runtime import registry
from vision.runtime.base import Loaded
from vision.tensors import Array, Arrays, TensorSpec
from vision.versions import Found

R = TypeVar("R")


class OffLoop(Protocol):
    """Runs what blocks in a thread."""

    def __call__(self, call: Callable[[], R]) -> Awaitable[R]:
        """Return what the call returns, or raise what it raises."""


@dataclass(slots=True, eq=False)
class Model:
    """One version of a model, in memory and warm."""

    name: str
    version: int
    config: ModelConfig
    loaded: Loaded
    lane: Lane
    preprocessor: Preprocessor | None
    postprocessor: Postprocessor
    labels: tuple[str, ...] | None
    off_loop: OffLoop = field(repr=False)

    @property
    def runtime(self) -> str:
        """Return the name of what executes it."""
        return self.loaded.runtime

    @property
    def device(self) -> str:
        """Return where it executes: `cpu`, `cuda:0`."""
        return self.loaded.device

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Return what it takes."""
        return self.loaded.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Return what it gives."""
        return self.loaded.outputs

    @property
    def memory_bytes(self) -> int:
        """Return what its weights take, as an estimate."""
        return self.loaded.memory_bytes

    @property
    def idle(self) -> bool:
        """Say whether nothing waits or runs."""
        return not self.lane.waiting and not self.lane.running

    @property
    def broken(self) -> bool:
        """Say whether all its instances broke down, so that only another load helps."""
        return self.lane.broken

    async def close(self) -> None:
        """Answer what waits, end the instances, give the memory back."""
        await self.lane.close()
        await self.off_loop(self.loaded.close)


async def load(name: str, found: Found, observer: LaneObserver, off_loop: OffLoop) -> Model:
    """Load a version and warm it up. Raises `LoadError`."""
    parts = await off_loop(partial(_read, found))
    lane = Lane(parts.loaded, found.config.batching, found.config.instances.count, observer)
    try:
        await _warm(lane, parts, found)
        await off_loop(partial(_check_unchanged, found))
    except BaseException:
        await lane.close()
        await off_loop(parts.loaded.close)
        raise
    return Model(
        name=name,
        version=found.version,
        config=found.config,
        loaded=parts.loaded,
        lane=lane,
        preprocessor=parts.preprocessor,
        postprocessor=parts.postprocessor,
        labels=parts.labels,
        off_loop=off_loop,
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a thread has made of a folder."""

    loaded: Loaded
    preprocessor: Preprocessor | None
    postprocessor: Postprocessor
    labels: tuple[str, ...] | None
    samples: tuple[Arrays, ...]
    """Inputs of one row each, for the warm-up."""


def _read(found: Found) -> _Parts:
    """Do all that blocks. Raises `LoadError`."""
    _check_pins(found)
    loaded = registry.load(found.folder, found.config)
    try:
        return _parts(found, loaded)
    except BaseException as error:
        loaded.close()
        if isinstance(error, ConfigError):
            raise LoadError(f"{found.base / FILE_NAME}: {error}") from error
        raise


def _parts(found: Found, loaded: Loaded) -> _Parts:
    config = found.config
    labels = _labels(found)
    postprocessor = compile_postprocessing(config.postprocessing, loaded.outputs, labels)
    preprocessor = None
    if config.preprocessing is not None:
        wanted = config.preprocessing.input or loaded.inputs[0].name
        spec = next((one for one in loaded.inputs if one.name == wanted), None)
        if spec is None:
            names = ", ".join(one.name for one in loaded.inputs)
            raise ConfigError(f"preprocessing.input: no input is called {wanted}; it has {names}")
        preprocessor = Preprocessor(config.preprocessing, spec)
    samples = tuple(_samples(found, loaded.inputs, preprocessor))
    return _Parts(loaded, preprocessor, postprocessor, labels, samples)


def _check_pins(found: Found) -> None:
    """Compare the pinned files' hashes; blocks for about a second each 1.5 GB."""
    pins = found.config.sha256
    for key, wanted in pins.items():
        file = found.folder / key.partition("/")[2]
        if not file.is_file():
            raise LoadError(f"{file}: is pinned, but it is not there")
        try:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise LoadError(f"{file}: cannot be read: {error.strerror or error}") from error
        if digest != wanted.lower():
            raise LoadError(
                f"{file}: its SHA-256 is {digest}, not the {wanted.lower()} that is pinned"
            )
    free = [name for name in found.model_files if f"{found.version}/{name}" not in pins]
    if pins and free:
        raise LoadError(
            f"{found.folder / free[0]}: has no pinned hash, though other files of this version "
            f"have one: add `{found.version}/{free[0]}` to `sha256`"
        )


def _check_unchanged(found: Found) -> None:
    """Make sure that what was loaded is what was listed, and what was hashed."""
    if restamp(found) != found.files:
        raise LoadError(f"{found.folder}: its files changed while they were loaded")


def _labels(found: Found) -> tuple[str, ...] | None:
    post = found.config.postprocessing
    if not isinstance(post, (Classification, Detection)) or post.labels is None:
        return None
    try:
        return read_labels(found.base / post.labels)
    except ConfigError as error:  # It names the file already.
        raise LoadError(str(error)) from error


def _samples(
    found: Found, inputs: tuple[TensorSpec, ...], preprocessor: Preprocessor | None
) -> list[Arrays]:
    """Make rows of the sample images; without any, one row of zeros."""
    blank = {spec.name: _zeros(spec) for spec in inputs}
    if not found.config.warmup.samples:
        return [blank]
    if preprocessor is None:
        raise ConfigError("warmup.samples: images need `preprocessing`")
    made: list[Arrays] = []
    for name in found.config.warmup.samples:
        file = found.base / name
        try:
            row, _ = preprocessor.row(decode(file.read_bytes(), ImageLimits()))
        except (OSError, BadInput, TooLarge) as error:
            raise LoadError(f"{file}: is no sample for the warm-up: {error}") from error
        made.append({**blank, preprocessor.input: row[np.newaxis]})
    return made


def _zeros(spec: TensorSpec) -> Array:
    """Return a row of zeros; sizes that may be any are 1."""
    return np.zeros((1, *(size or 1 for size in spec.shape)), spec.dtype.numpy)


async def _warm(lane: Lane, parts: _Parts, found: Found) -> None:
    """Start the instances and run each of them on the sizes that it will meet."""
    warmup = found.config.warmup
    try:
        await lane.start()
        if warmup.runs:
            sizes = _sizes(found.config.batching, parts.loaded.max_batch)
            for row in parts.samples:
                await lane.warm(sizes, row, warmup.runs)
    except OperatorError:
        raise
    except Exception as error:  # What a runtime raises is anything.
        said = " ".join(str(error).split()) or type(error).__name__
        raise LoadError(f"{found.folder}: the warm-up failed: {said}") from error


def _sizes(batching: Batching, max_batch: int) -> list[int]:
    """Return the batch sizes to warm up, the largest last."""
    return sorted({min(size, max_batch) for size in (1, *batching.preferred, max_batch)})

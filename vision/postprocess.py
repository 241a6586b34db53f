"""What does a model's output say, in words that a client reads?

Each kind of `postprocessing` is one class here and one case of `compile_postprocessing`. What it
needs of the outputs' shapes is checked when the model is loaded. JSON has no NaN: an output that
is not finite is the model's failure, not a prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, isfinite, tanh
from typing import Any, ClassVar, Final, Protocol

import numpy as np

from vision.config import Classification, Detection, Embedding, Postprocessing, Raw
from vision.errors import ConfigError, ExecutionFailed
from vision.geometry import Geometry
from vision.nms import suppress
from vision.tensors import Array, Arrays, TensorSpec, data_type_of

Predictions = list[dict[str, Any]]

# Below it a whole sort is as fast as a partition and a sort of k.
_PARTITION: Final = 512
# Up to here plain floats are quicker than arrays: for ten classes 9 µs instead of 25.
_FEW: Final = 32
# Boxes that enter suppression, best first; Ultralytics' `max_nms`.
_MAX_CANDIDATES: Final = 30_000


class Postprocessor(Protocol):
    """Reads the outputs of one row; it holds no state of a request, threads may share it."""

    heavy: ClassVar[bool]
    """Whether it belongs in a thread."""

    def read(self, outputs: Arrays, geometry: Geometry | None, top_k: int | None) -> Predictions:
        """Return the predictions of one row, whose arrays have no batch axis.

        `top_k` is what the request asks for; more than the model is configured for is not given.
        Raises `ExecutionFailed` for an output that is not finite or not of the shape it was to
        have.
        """


def compile_postprocessing(
    config: Postprocessing, outputs: Sequence[TensorSpec], labels: Sequence[str] | None
) -> Postprocessor:
    """Return what reads such outputs. Raises `ConfigError` if they are not what `config` reads."""
    if isinstance(config, Raw):
        return RawReader()
    spec = _output(config.output, outputs)
    match config:
        case Classification():
            return ClassReader(config, spec, labels)
        case Detection():
            return BoxReader(config, spec, labels)
    return VectorReader(config, spec)


class ClassReader:
    """Logits to the most likely classes; 9 µs for ten classes, 60 µs for a thousand."""

    heavy: ClassVar[bool] = False
    __slots__ = ("_activate", "_activate_few", "_labels", "_name", "_top_k")

    def __init__(
        self, config: Classification, spec: TensorSpec, labels: Sequence[str] | None
    ) -> None:
        sizes = [size for size in spec.shape if size != 1]
        if len(sizes) > 1:
            raise _wrong(spec, "classification reads one score for each class")
        _check_labels(spec, labels, sizes[0] if sizes else 1)
        self._name = spec.name
        self._labels = labels
        self._activate, self._activate_few = _ACTIVATIONS[config.activation]
        self._top_k = config.top_k

    def read(self, outputs: Arrays, geometry: Geometry | None, top_k: int | None) -> Predictions:
        """Return `class` and `confidence`, most likely first; of equal ones the lower index."""
        most = _most(top_k, self._top_k)
        array = outputs[self._name]
        if 0 < array.size <= _FEW:
            ranked = self._few(array.astype(np.float64).reshape(-1).tolist(), most)
        else:
            logits = _filled(outputs, self._name).astype(np.float64).reshape(-1)
            best = _best(logits, most)
            scores = self._activate(logits)[best]
            ranked = list(zip(best.tolist(), scores.tolist(), strict=True))
        return [
            {"class": _label(self._labels, index), "confidence": score} for index, score in ranked
        ]

    def _few(self, logits: list[float], most: int) -> list[tuple[int, float]]:
        if not all(map(isfinite, logits)):
            raise _not_finite(self._name)
        scores = self._activate_few(logits)
        # By the logits: of two that are 40 and 50, a sigmoid is 1.
        best = sorted(range(len(logits)), key=logits.__getitem__, reverse=True)[:most]
        return [(index, scores[index]) for index in best]


class BoxReader:
    """YOLO's candidates to objects."""

    heavy: ClassVar[bool] = True
    __slots__ = ("_config", "_labels", "_name", "_values")

    def __init__(self, config: Detection, spec: TensorSpec, labels: Sequence[str] | None) -> None:
        if len(spec.shape) != 2:
            raise _wrong(spec, "detection reads a matrix of candidates and their values")
        before = 5 if config.objectness else 4
        width = spec.shape[0 if config.anchors == "last" else 1]
        if width is not None and width <= before:
            raise _wrong(spec, f"a candidate has {width} values, no class behind {before}")
        _check_labels(spec, labels, None if width is None else width - before)
        self._name = spec.name
        self._labels = labels
        self._config = config
        self._values = before

    def read(self, outputs: Arrays, geometry: Geometry | None, top_k: int | None) -> Predictions:
        """Return `class`, `confidence` and `box`, best first.

        A box is x1, y1, x2, y2 in pixels of the original image, or of the input if there is no
        geometry. Boxes outside of the image are none.
        """
        config = self._config
        table = _finite(outputs, self._name)
        table = table.T if config.anchors == "last" else table
        if table.shape[1] <= self._values:
            raise ExecutionFailed(f"The output {self._name} has no classes.")
        scores, classes, candidates = self._candidates(table)
        boxes = candidates.astype(np.float64)
        if config.boxes == "cxcywh":
            half = boxes[:, 2:] / 2
            boxes = np.concatenate((boxes[:, :2] - half, boxes[:, :2] + half), axis=1)
        shown = boxes if geometry is None else geometry.to_original(boxes)
        # What is not shown takes nobody's place; an inverted one would suppress all of its class.
        there = np.flatnonzero((shown[:, 0] < shown[:, 2]) & (shown[:, 1] < shown[:, 3]))
        most = _most(top_k, config.max_detections)
        found = boxes[there], scores[there], classes[there]
        kept = there[suppress(*found, config.max_iou, most)]
        return [
            {"class": _label(self._labels, index), "confidence": score, "box": box}
            for index, score, box in zip(
                classes[kept].tolist(), scores[kept].tolist(), shown[kept].tolist(), strict=True
            )
        ]

    def _candidates(self, table: Array) -> tuple[Array, Array, Array]:
        """Return scores, classes and boxes of the candidates over `min_score`."""
        by_class = table[:, self._values :]
        # The highest score first, for all; whose it is, only for those that are looked at.
        scores = by_class.max(axis=1)
        if self._config.objectness:
            scores = scores * table[:, 4]
        over = np.flatnonzero(scores > self._config.min_score)
        if over.size > _MAX_CANDIDATES:
            over = over[_best(scores[over], _MAX_CANDIDATES)]
        classes = by_class[over].argmax(axis=1)
        return scores[over].astype(np.float64), classes, table[over, :4]


class VectorReader:
    """One vector for the item."""

    heavy: ClassVar[bool] = False
    __slots__ = ("_config", "_name")

    def __init__(self, config: Embedding, spec: TensorSpec) -> None:
        wanted = 1 if config.pool == "none" else 2
        sizes = spec.shape if config.pool != "none" else [n for n in spec.shape if n != 1]
        if len(sizes) != wanted:
            raise _wrong(spec, f"`pool: {config.pool}` reads {wanted} dimension(s)")
        self._config = config
        self._name = spec.name

    def read(self, outputs: Arrays, geometry: Geometry | None, top_k: int | None) -> Predictions:
        """Return `embedding`; of a vector of zeros the length is not divided by."""
        vector = _filled(outputs, self._name).astype(np.float64)
        if self._config.pool == "mean":
            vector = vector.mean(axis=0)
        elif self._config.pool == "first":
            vector = vector[0]
        vector = vector.reshape(-1)
        if self._config.normalize:
            length = float(np.linalg.norm(vector))
            vector = vector / length if length > 0 else vector
        return [{"embedding": vector.tolist()}]


class RawReader:
    """The outputs as they are."""

    heavy: ClassVar[bool] = False
    __slots__ = ()

    def read(self, outputs: Arrays, geometry: Geometry | None, top_k: int | None) -> Predictions:
        """Return `outputs` by name, each with shape, datatype and flat data, row-major."""
        return [
            {
                "outputs": {
                    name: {
                        "shape": list(array.shape),
                        "datatype": data_type_of(array.dtype),
                        "data": _finite(outputs, name).reshape(-1).tolist(),
                    }
                    for name, array in outputs.items()
                }
            }
        ]


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max())
    scores: Array = powers / powers.sum()
    return scores


def _sigmoid(logits: Array) -> Array:
    """1 / (1 + exp(-x)), written so that no exponential overflows."""
    scores: Array = 0.5 * (1 + np.tanh(logits / 2))
    return scores


def _as_is(logits: Array) -> Array:
    return logits


def _softmax_few(logits: list[float]) -> list[float]:
    highest = max(logits)
    powers = [exp(logit - highest) for logit in logits]
    total = sum(powers)
    return [power / total for power in powers]


def _sigmoid_few(logits: list[float]) -> list[float]:
    return [0.5 * (1 + tanh(logit / 2)) for logit in logits]


def _as_is_few(logits: list[float]) -> list[float]:
    return logits


_ACTIVATIONS: Final = {
    "softmax": (_softmax, _softmax_few),
    "sigmoid": (_sigmoid, _sigmoid_few),
    "none": (_as_is, _as_is_few),
}


def _most(asked: int | None, configured: int) -> int:
    return configured if asked is None else max(1, min(asked, configured))


def _best(scores: Array, most: int) -> Array:
    """Return the indices of the highest scores, best first; of equal ones the lower index."""
    if scores.size > max(_PARTITION, most):
        least = np.partition(scores, -most)[-most]
        # All that equal the last one: which of them stay is for the sort to say.
        among = np.flatnonzero(scores >= least)
        return among[np.argsort(-scores[among], kind="stable")[:most]]
    return np.argsort(-scores, kind="stable")[:most]


def _finite(outputs: Arrays, name: str) -> Array:
    array = outputs[name]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _not_finite(name)
    return array


def _not_finite(name: str) -> ExecutionFailed:
    return ExecutionFailed(f"The model's output {name} has values that are not finite.")


def _filled(outputs: Arrays, name: str) -> Array:
    if outputs[name].size == 0:
        raise ExecutionFailed(f"The model's output {name} is empty.")
    return _finite(outputs, name)


def _label(labels: Sequence[str] | None, index: int) -> str:
    return labels[index] if labels is not None and index < len(labels) else str(index)


def _output(name: str | None, outputs: Sequence[TensorSpec]) -> TensorSpec:
    for spec in outputs:
        if name in (None, spec.name):
            return spec
    known = ", ".join(spec.name for spec in outputs)
    raise ConfigError(f"postprocessing: output: there is no {name!r}; there is {known}")


def _check_labels(spec: TensorSpec, labels: Sequence[str] | None, classes: int | None) -> None:
    if labels is not None and classes is not None and len(labels) != classes:
        raise _wrong(spec, f"it has {classes} classes, the labels are {len(labels)}")


def _wrong(spec: TensorSpec, why: str) -> ConfigError:
    sizes = [-1 if size is None else size for size in spec.shape]
    return ConfigError(f"postprocessing: output {spec.name!r} of shape {sizes}: {why}")

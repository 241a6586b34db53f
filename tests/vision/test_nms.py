"""Suppression of overlapping boxes, against the definition written as loops."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vision.nms import suppress

Box = tuple[float, float, float, float]


def overlap(a: Box, b: Box) -> float:
    """Intersection over union by its definition."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def naive(boxes: list[Box], scores: list[float], classes: list[int], max_iou: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda one: (-scores[one], one)):
        rivals = (other for other in kept if classes[other] == classes[index])
        if all(overlap(boxes[index], boxes[other]) <= max_iou for other in rivals):
            kept.append(index)
    return kept


# Quarters: areas and unions are exact, so that both sides compare the same numbers.
EDGE = st.integers(0, 40).map(lambda quarters: quarters / 4)
BOX = st.tuples(EDGE, EDGE, EDGE, EDGE).map(
    lambda edges: (edges[0], edges[1], edges[0] + edges[2], edges[1] + edges[3])
)
CANDIDATES = st.lists(st.tuples(BOX, st.integers(0, 9), st.integers(0, 2)), max_size=30)


@given(CANDIDATES, st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.integers(1, 30))
def test_it_keeps_what_the_definition_keeps(
    candidates: list[tuple[Box, int, int]], max_iou: float, most: int
) -> None:
    boxes = [box for box, _, _ in candidates]
    scores = [score / 10 for _, score, _ in candidates]
    classes = [kind for _, _, kind in candidates]
    got = suppress(
        np.array(boxes).reshape(-1, 4), np.array(scores), np.array(classes), max_iou, most
    )
    assert got == naive(boxes, scores, classes, max_iou)[:most]


def test_boxes_of_two_classes_do_not_suppress_each_other() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10], [1, 0, 10, 10]])
    scores = np.array([0.5, 0.9, 0.8])
    assert suppress(boxes, scores, np.array([0, 1, 1]), 0.5, 10) == [1, 0]


def test_a_detection_s_end_is_its_number() -> None:
    boxes = np.arange(40.0).reshape(10, 4) * np.array([1, 1, 1, 1])
    assert suppress(boxes, np.linspace(1, 0.1, 10), np.zeros(10), 0.45, 3) == [0, 1, 2]


def test_nothing_is_nothing() -> None:
    assert suppress(np.zeros((0, 4)), np.zeros(0), np.zeros(0), 0.5, 5) == []

"""Which of overlapping boxes are the objects?

Greedy non-maximum suppression: of boxes of one class that overlap by more than `max_iou`, only the
one with the highest score stays; `torchvision.ops.batched_nms` keeps the same. Pure.
"""

from __future__ import annotations

import numpy as np

from vision.tensors import Array


def suppress(boxes: Array, scores: Array, classes: Array, max_iou: float, most: int) -> list[int]:
    """Return the indices of the boxes that stay, best first, at most `most`.

    `boxes` are [n, 4] of x1, y1, x2, y2 with x1 ≤ x2 and y1 ≤ y2; of equal scores the earlier box
    is the better one. Costs about 20 µs for each box that stays, and one sort.
    """
    order = np.argsort(-scores, kind="stable")
    # Float64: areas of large boxes lose digits that a comparison with `max_iou` needs.
    left, top, right, bottom = boxes[order].astype(np.float64).T
    areas = (right - left) * (bottom - top)
    kinds = classes[order]
    kept: list[int] = []
    remaining = np.arange(order.size)
    while remaining.size and len(kept) < most:
        best, others = remaining[0], remaining[1:]
        kept.append(int(order[best]))
        width = np.minimum(right[best], right[others]) - np.maximum(left[best], left[others])
        height = np.minimum(bottom[best], bottom[others]) - np.maximum(top[best], top[others])
        shared = width.clip(0) * height.clip(0)
        # Without a division: two boxes without area have no union either.
        overlap = shared > max_iou * (areas[best] + areas[others] - shared)
        remaining = others[~(overlap & (kinds[others] == kinds[best]))]
    return kept

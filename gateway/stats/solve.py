"""Where does a falling function reach a value?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

_POINTS = 33
_ROUNDS = 5


def crossing(falls: Callable[[Any], Any], target: float, low: float, high: float) -> float:
    """Return the x in [low, high] at which the function falls through the target.

    `low` if it lies below the target everywhere, `high` if it lies above. The function takes an
    array of points, so five calls narrow the range by 32^5, a factor of 3e7.
    """
    if not falls(np.array([high]))[0] < target:
        return high
    if not falls(np.array([low]))[0] > target:
        return low
    for _ in range(_ROUNDS):
        points = np.linspace(low, high, _POINTS)
        # The ends are known to lie on either side; what is between them decides.
        above = int(np.count_nonzero(falls(points[1:-1]) > target))
        low, high = float(points[above]), float(points[above + 1])
    return (low + high) / 2

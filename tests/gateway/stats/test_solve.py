"""Where does a falling function reach a value?"""

import numpy as np
import pytest

from gateway.stats.solve import crossing


@pytest.mark.parametrize("target", [-0.9, -0.1, 0.0, 0.7])
def test_the_crossing_of_a_smooth_function_is_found(target: float) -> None:
    assert crossing(np.cos, target, 0.0, np.pi) == pytest.approx(np.arccos(target), abs=1e-6)


def test_the_crossing_of_a_step_is_found() -> None:
    """Where the function jumps over the target."""
    at = crossing(lambda x: np.where(x < 0.3, 1.0, -1.0), 0.0, -1.0, 1.0)
    assert at == pytest.approx(0.3, abs=1e-6)


def test_a_function_that_stays_on_one_side_gives_the_end_of_the_range() -> None:
    assert crossing(lambda x: -x, 5.0, 0.0, 1.0) == 0.0
    assert crossing(lambda x: -x, -5.0, 0.0, 1.0) == 1.0

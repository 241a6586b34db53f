"""What a client has adds up over the streams that it came from."""

from __future__ import annotations

import pytest

from gateway.relay.delivered import TEXT_CHARACTERS, Delivered, Obstacle

FIRST = Delivered("a", "r", "id-1", 1, "m", role=True, tokens=2)


def test_the_first_streams_names_stay_and_the_rest_adds_up() -> None:
    """Texts and tokens are added; one id, one time, one model."""
    second = Delivered("b", "s", "id-2", 2, "n", finished=True, tokens=3, logprobs=True)
    assert FIRST.then(second) == Delivered(
        "ab", "rs", "id-1", 1, "m", role=True, finished=True, tokens=5, logprobs=True
    )


def test_a_stream_without_names_takes_the_next_ones() -> None:
    """Where nothing was decoded yet there is no id to keep."""
    assert Delivered().then(FIRST) == FIRST


@pytest.mark.parametrize("first", [Obstacle.CALL, None])
def test_an_obstacle_stays(first: Obstacle | None) -> None:
    """The first obstacle is the one that is told."""
    one, two = Delivered(obstacle=first), Delivered(obstacle=Obstacle.OTHER)
    assert one.then(two).obstacle is (first or Obstacle.OTHER)


def test_two_texts_may_be_too_long_together() -> None:
    """The bound is for the whole answer; an obstacle that was there stays the reason."""
    half = Delivered("x" * (TEXT_CHARACTERS // 2))
    assert half.then(half).obstacle is None
    long = half.then(half).then(Delivered(reasoning="y"))
    assert long.obstacle is Obstacle.TOO_LONG
    assert long.then(Delivered(obstacle=Obstacle.CALL)).obstacle is Obstacle.TOO_LONG

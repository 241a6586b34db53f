"""A score finds the arm of its request, once, and memory is bounded."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.arms import ArmTallies
from gateway.telemetry.feedback import MAX_SCORE, Given, Remembered
from gateway.telemetry.record import Record

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = b"00-%b-00f067aa0ba902b7-01" % TRACE


class Served:
    """Requests that a policy has divided."""

    def __init__(self, most: int = 100) -> None:
        self.tallies = ArmTallies()
        self.remembered = Remembered(most)

    def serve(self, request_id: str, arm: str = "a", traceparent: bytes = b"") -> None:
        record = Record("chat", request_id.encode(), "client", 0.0)
        record.policy, record.arm = "p", arm
        record.tally = self.tallies.of("p", 0, arm)
        self.remembered.remember(record, traceparent)

    def scores(self, arm: str = "a") -> tuple[int, float]:
        found = self.tallies.of("p", 0, arm).feedback
        return found.n, found.total


def test_a_score_counts_for_the_arm_of_its_request() -> None:
    """And once: a repeated one changes nothing."""
    served = Served()
    served.serve("r-1", "a")
    served.serve("r-2", "b")
    assert served.remembered.give("r-2", 4.0) is Given.COUNTED
    assert served.remembered.give("r-2", 1.0) is Given.REPEATED
    assert served.remembered.give("r-3", 1.0) is Given.UNKNOWN
    assert (served.scores("a"), served.scores("b")) == ((0, 0), (1, 4.0))


@pytest.mark.parametrize(
    "parent", [PARENT, b"cc-%b-00f067aa0ba902b7-01-more" % TRACE], ids=["00", "later version"]
)
def test_a_trace_means_its_last_request(parent: bytes) -> None:
    """Its id is known from `traceparent`."""
    served = Served()
    served.serve("r-1", "a", parent)
    served.serve("r-2", "b", parent)
    assert served.remembered.give(TRACE.decode(), 1.0) is Given.COUNTED
    assert served.scores("b") == (1, 1.0)
    assert served.remembered.give("r-1", 0.5) is Given.COUNTED


def test_a_malformed_traceparent_is_no_trace() -> None:
    """The request's own id still is."""
    served = Served()
    served.serve("r-1", traceparent=PARENT[:-4])
    assert served.remembered.give(TRACE.decode(), 1.0) is Given.UNKNOWN
    assert served.remembered.give("r-1", 1.0) is Given.COUNTED


@given(st.lists(st.integers(0, 20), max_size=60), st.integers(1, 10))
def test_the_newest_requests_are_remembered(names: list[int], most: int) -> None:
    """As many as may be, whatever ids come again."""
    served = Served(most)
    for name in names:
        served.serve(str(name), traceparent=b"00-%032x-00f067aa0ba902b7-01" % name)
    newest = list(dict.fromkeys(reversed(names)))[:most]
    assert len(served.remembered) == len(newest)
    for name in range(21):
        wanted = Given.COUNTED if name in newest else Given.UNKNOWN
        assert served.remembered.give(f"{name:032x}", 1.0) is wanted


def test_the_same_id_again_is_another_request() -> None:
    """Which may be scored, too."""
    served = Served()
    served.serve("r")
    served.remembered.give("r", 1.0)
    served.serve("r", "b")
    assert served.remembered.give("r", 2.0) is Given.COUNTED
    assert (served.scores("a"), served.scores("b")) == ((1, 1.0), (1, 2.0))


@pytest.mark.parametrize("score", [MAX_SCORE * 1.01, -1e300, float("nan"), float("inf")])
def test_absurd_scores_are_refused(score: float) -> None:
    """The request may still be scored."""
    served = Served()
    served.serve("r")
    with pytest.raises(ValueError, match="between"):
        served.remembered.give("r", score)
    assert served.remembered.give("r", 1.0) is Given.COUNTED


def test_a_label_is_logged_on_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it holds; without one the line is short."""
    served = Served()
    served.serve("r-1")
    served.serve("r-2")
    with caplog.at_level(logging.INFO, "sluice.feedback"):
        served.remembered.give("r-1", 0.5, "wrong\nlanguage")
        served.remembered.give("r-2", 1)
    assert [record.getMessage() for record in caplog.records] == [
        'p/a: request r-1: 0.5 label="wrong\\nlanguage"',
        "p/a: request r-2: 1",
    ]


def test_requests_that_nobody_scores_do_not_pile_up() -> None:
    """They are noted in one go, and the old ones let go of, without a score ever coming."""
    served = Served(10)
    for number in range(1000):
        served.serve(str(number))
    assert len(served.remembered._fresh) < 256
    assert len(served.remembered._known) == 10
    assert served.remembered.give("999", 1.0) is Given.COUNTED
    assert served.remembered.give("500", 1.0) is Given.UNKNOWN

"""Pairs become sums that merge, and the worst of them are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.plan.likeness import Figures, Likeness
from gateway.releases.mirrored import (
    MOST_CONTENT,
    RATES,
    VALUES,
    WORST,
    Case,
    Content,
    Mirrored,
    Pair,
    cases_of,
)

LIKE = Likeness(same_status=True, exact=True, normalised=True, similarity=1.0, same_finish=True)
GOOD = Figures(200, 2.0, 0.5, 10)


def pair(
    likeness: Likeness = LIKE,
    *,
    live: Figures = GOOD,
    copy: Figures = GOOD,
    at_s: float = 1.0,
    policy: str = "p",
    **rest: Any,
) -> Pair:
    return Pair(policy, 0, "r", "m", "chat", at_s, live, copy, likeness, **rest)


def unlike(similarity: float) -> Likeness:
    return Likeness(same_status=True, exact=False, similarity=similarity)


def test_sums_are_named_by_policy_and_epoch_and_hold_what_is_new() -> None:
    """The second time only what came since."""
    mirrored = Mirrored()
    mirrored.heard(pair())
    mirrored.heard(pair(unlike(0.5)))
    taken = mirrored.take()
    assert taken["p/0/mirror/failed"] == {"n": 2, "hits": 0}
    assert taken["p/0/mirror/same_status"] == {"n": 2, "hits": 2}
    assert taken["p/0/mirror/exact"] == {"n": 2, "hits": 1}
    assert taken["p/0/mirror/same_finish"] == {"n": 1, "hits": 1}
    assert taken["p/0/mirror/similarity"]["total"] == 1.5
    assert taken["p/0/mirror/live_latency"]["n"] == 2
    assert taken["p/0/mirror/copy_ttft"]["total"] == 1.0
    assert "p/0/mirror/top1" not in taken
    assert {name.rpartition("/")[2] for name in taken} <= {*RATES, *VALUES}
    assert mirrored.take() == {}


def test_every_figure_of_a_likeness_is_counted() -> None:
    """None is forgotten here when one is added there."""
    everything = Likeness(
        *(True, 1.5, 1.5, 1.5, True, True, 0.5, True, True, True, True, 0.9, True, 0.8)
    )
    mirrored = Mirrored()
    mirrored.heard(pair(everything))
    assert {name.rpartition("/")[2] for name in mirrored.take()} == {*RATES, *VALUES}


@pytest.mark.parametrize(
    ("copy", "failed"),
    [(Figures(500, 1.0), 1), (Figures(failure="gone"), 1), (Figures(404, 1.0), 0)],
)
def test_failures_tell_no_times(copy: Figures, failed: int) -> None:
    """And are told from an answer with another status."""
    mirrored = Mirrored()
    mirrored.heard(pair(Likeness(), copy=copy))
    taken = mirrored.take()
    assert taken["p/0/mirror/failed"] == {"n": 1, "hits": failed}
    assert taken["p/0/mirror/same_status"] == {"n": 1, "hits": 0}
    assert len(taken) == 2


def test_times_that_are_not_known_count_nowhere() -> None:
    """A live answer that took two attempts, for one."""
    mirrored = Mirrored()
    mirrored.heard(pair(live=Figures(200), copy=Figures(200, 1.0)))
    taken = mirrored.take()
    assert "p/0/mirror/live_latency" not in taken
    assert taken["p/0/mirror/copy_latency"]["n"] == 1
    assert "p/0/mirror/copy_ttft" not in taken


def test_the_worst_cases_are_kept() -> None:
    """The least alike first, of equals the newest; what is alike is no case."""
    mirrored = Mirrored()
    mirrored.heard(pair())
    for number in range(WORST * 2):
        mirrored.heard(pair(unlike(0.5 if number % 2 else 0.9), at_s=float(number)))
    cases = mirrored.worst("p")
    assert len(cases) == WORST
    assert {case.score for case in cases} == {0.5}
    assert cases[0].pair.at_s == WORST * 2 - 1
    revision = mirrored.revision
    mirrored.heard(pair(unlike(0.7)))
    assert mirrored.worst("p") == cases
    assert mirrored.revision == revision
    mirrored.heard(pair(unlike(0.5), at_s=999.0))
    assert mirrored.revision == revision + 1
    assert mirrored.worst("p")[0].pair.at_s == 999.0
    assert len(mirrored.worst("p")) == WORST
    assert mirrored.worst("other") == ()


@given(st.lists(st.floats(0, 1), max_size=3 * WORST))
def test_the_worst_of_any(scores: list[float]) -> None:
    """As if all had been kept and sorted."""
    mirrored = Mirrored()
    for score in scores:
        mirrored.heard(pair(unlike(score)))
    kept = [case.score for case in mirrored.worst("p")]
    assert kept == sorted(score for score in scores if score < 1.0)[:WORST]


def test_cases_go_through_json() -> None:
    """Each process reports its own, and the worst of all are shown."""
    one, other = Mirrored(), Mirrored()
    content = Content.of("prompt", "live", "copy")
    one.heard(pair(unlike(0.5), content=content))
    one.heard(pair(unlike(0.1), policy="q"))
    other.heard(pair(unlike(0.2)))
    snapshots = json.loads(json.dumps([one.snapshot(), other.snapshot()]))
    cases = cases_of("p", 0, snapshots)
    assert [case.score for case in cases] == [0.2, 0.5]
    assert cases[1] == Case(0.5, pair(unlike(0.5), content=content))
    assert len(cases_of("p", 0, snapshots * 30)) == WORST


@pytest.mark.parametrize("snapshot", [None, {}, {"p": 7}, {"p": [{}]}, {"p": [{"score": "x"}]}])
def test_what_is_no_case_is_passed_over(snapshot: Any) -> None:
    """Another version may have written it."""
    assert cases_of("p", 0, [snapshot]) == ()


def test_policies_that_are_gone_are_forgotten() -> None:
    """Their cases, that is; sums that were not taken yet are still handed on."""
    mirrored = Mirrored()
    mirrored.heard(pair(unlike(0.5)))
    mirrored.heard(pair(unlike(0.5), policy="q"))
    mirrored.keep({"p": 0, "q": 0})
    assert mirrored.revision == 2
    mirrored.keep({"q": 0})
    assert mirrored.revision == 3
    assert mirrored.worst("p") == ()
    assert len(mirrored.worst("q")) == 1
    assert "p/0/mirror/failed" in mirrored.take()


def test_the_cases_of_another_target_make_room() -> None:
    """Else twenty copies without any likeness would be all that was ever shown."""
    mirrored = Mirrored()
    for _ in range(WORST):
        mirrored.heard(pair(unlike(0.0)))
    mirrored.keep({"p": 7})
    mirrored.heard(replace(pair(unlike(0.5)), epoch=7))
    assert [case.score for case in cases_of("p", 7, [mirrored.snapshot()])] == [0.5]


def test_content_is_bounded_and_not_shown() -> None:
    """Not even in a traceback."""
    content = Content.of("secret" * MOST_CONTENT, "b" * (MOST_CONTENT + 1), "c")
    assert (len(content.prompt), len(content.live), content.copy) == (
        MOST_CONTENT,
        MOST_CONTENT,
        "c",
    )
    assert "secret" not in repr(pair(content=content))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (pair(), ""),
        (
            pair(Likeness(), copy=Figures(failure="It broke.")),
            "no whole answer: It broke.",
        ),
        (pair(Likeness(), copy=Figures(404)), "status 404 instead of 200"),
        (pair(Likeness(True, same_calls=False)), "other tool calls"),
        (pair(Likeness(True, live_json=True, copy_json=False)), "no valid JSON"),
        (pair(Likeness(True, live_json=False, copy_json=False)), ""),
        (pair(Likeness(True, top1=False)), "another class"),
        (pair(Likeness(True, cosine=0.5)), "cosine 0.500"),
        (
            pair(Likeness(True, exact=False, similarity=0.25, same_finish=False)),
            "text, 25 % alike, ended for another reason",
        ),
    ],
)
def test_why(made: Pair, why: str) -> None:
    """In words, the worst first."""
    assert made.why == why

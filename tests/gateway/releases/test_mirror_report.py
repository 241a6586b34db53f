"""The sums and cases of all processes become one report."""

from __future__ import annotations

import json

import pytest

from gateway.plan.likeness import Figures, Likeness
from gateway.releases.mirror_report import report
from gateway.releases.mirrored import Case, Mirrored, Pair

GOOD = Figures(200, 2.0, 0.5, 10)


def pair(likeness: Likeness, copy: Figures = GOOD, epoch: int = 0) -> Pair:
    return Pair("p", epoch, "r", "m", "chat", 1.0, GOOD, copy, likeness)


def text(similarity: float) -> Likeness:
    return Likeness(
        True, latency_ratio=1.5, exact=similarity == 1, similarity=similarity, same_finish=True
    )


def test_sums_of_epochs_and_others() -> None:
    """Epochs add up; other policies, arms and metrics are none of this one's."""
    mirrored = Mirrored()
    mirrored.heard(pair(text(1.0)))
    mirrored.heard(pair(text(0.5), epoch=3))
    mirrored.heard(pair(Likeness(), Figures(500), epoch=3))
    totals = {
        **mirrored.take(),
        "p2/0/mirror/failed": {"n": 9, "hits": 9},
        "p/0/other/failed": {"n": 9, "hits": 9},
        "p/0/mirror/unknown": {"n": 9},
        "p": {"n": 9},
    }
    made = report("p", totals)
    assert (made.policy, made.pairs) == ("p", 3)
    failed, similarity = made.row("failed"), made.row("similarity")
    assert failed is not None
    assert similarity is not None
    assert (failed.n, failed.mean, failed.p50) == (3, pytest.approx(1 / 3), None)
    assert (similarity.n, similarity.mean) == (2, 0.75)
    assert similarity.p5 == pytest.approx(0.5, rel=0.03)
    assert similarity.p95 == pytest.approx(1.0, rel=0.03)
    assert made.row("top1") is None
    assert [row.metric for row in made.rows][:3] == ["failed", "same_status", "exact"]


def test_nothing_is_more_alike_than_1() -> None:
    """Quantiles of a histogram are up to 1.1 % off, also beyond the end of the scale."""
    mirrored = Mirrored()
    mirrored.heard(pair(text(1.0)))
    similarity = report("p", mirrored.take()).row("similarity")
    assert similarity is not None
    assert (similarity.p5, similarity.p50, similarity.p95) == (1.0, 1.0, 1.0)


def test_words_for_texts() -> None:
    """What a person wants to know first."""
    mirrored = Mirrored()
    mirrored.heard(pair(text(1.0)))
    mirrored.heard(pair(text(0.5)))
    assert report("p", mirrored.take()).words == (
        "2 pairs were compared; 0 % of the copies failed. 50 % of the texts are equal, and they "
        "are 75 % alike on average. The copy takes 1.49 times as long (median)."
    )


def test_words_for_predictions_and_embeddings() -> None:
    """Each in its own terms."""
    mirrored = Mirrored()
    mirrored.heard(pair(Likeness(True, top1=True, top5=0.8)))
    assert "The best class is the same in 100 % of" in report("p", mirrored.take()).words
    mirrored.heard(pair(Likeness(True, cosine=0.75)))
    assert "cosine is 0.7500 on average" in report("p", mirrored.take()).words


def test_words_without_the_share_of_equal_texts() -> None:
    """A store may have lost a name."""
    mirrored = Mirrored()
    mirrored.heard(pair(text(1.0)))
    totals = mirrored.take()
    del totals["p/0/mirror/exact"]
    assert "0 % of the texts are equal" in report("p", totals).words


def test_a_mirror_without_pairs() -> None:
    """Says so."""
    made = report("p", {})
    assert (made.pairs, made.rows, made.words) == (0, (), "Nothing has been compared yet.")


def test_the_report_is_json_with_its_worst_cases() -> None:
    """The worst first."""
    cases = [Case(score, pair(text(score))) for score in (0.5, 0.1)]
    value = json.loads(json.dumps(report("p", {}, cases).json()))
    assert [case["score"] for case in value["worst"]] == [0.1, 0.5]
    assert value["worst"][0]["pair"]["live"]["status"] == 200
    assert value["worst"][0]["pair"]["content"] is None

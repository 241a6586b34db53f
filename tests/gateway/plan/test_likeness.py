"""Two answers to one request are compared, each figure where there is something to compare."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.plan.likeness import (
    MOST_CHARACTERS,
    Figures,
    Likeness,
    all_json,
    compare,
    cosine,
    normalised,
    same_calls,
    similarity,
)
from gateway.plan.saying import Call, Prediction, Saying

GOOD = Figures(200, 2.0, 0.5, 100)


def text(*texts: str, finish: str = "stop", calls: tuple[Call, ...] = ()) -> Saying:
    return Saying(texts, (finish,) * len(texts), calls)


def alike(one: Saying, other: Saying, *, wants_json: bool = False) -> Likeness:
    return compare(GOOD, GOOD, (one, other), wants_json=wants_json)


# Figures.


def test_ratios_are_the_copys_by_the_live_ones() -> None:
    """Of latency, time to first token and length."""
    found = compare(GOOD, Figures(200, 3.0, 1.0, 50), (text("a"), text("a")))
    assert found.same_status
    assert (found.latency_ratio, found.ttft_ratio, found.tokens_ratio) == (1.5, 2.0, 0.5)
    assert found.score == 1.0


def test_ratios_that_cannot_be_told() -> None:
    """No time to first token for whole answers; nothing is divided by zero."""
    none = compare(Figures(200, 0.0), Figures(200, 1.0, 1.0, 5))
    assert none == Likeness(same_status=True)
    assert compare(GOOD, Figures(200)) == Likeness(same_status=True)


@pytest.mark.parametrize("copy", [Figures(500, 1.0), Figures(200, 1.0, failure="cut")])
def test_failures_are_like_nothing(copy: Figures) -> None:
    """Their times are no latencies."""
    found = compare(GOOD, copy, (text("a"), text("a")))
    assert found == Likeness()
    assert found.score == 0.0


def test_two_refusals_with_one_status_are_alike() -> None:
    """There is no text to compare."""
    found = compare(Figures(400, 1.0), Figures(400, 1.0))
    assert (found.same_status, found.exact, found.score) == (True, None, 1.0)


# Texts.


def test_equal_texts() -> None:
    """Are equal in every way."""
    found = alike(text("one two"), text("one two"))
    assert (found.exact, found.normalised, found.similarity) == (True, True, 1.0)
    assert (found.same_finish, found.same_calls, found.live_json) == (True, None, None)


def test_texts_that_differ_in_form_only() -> None:
    """Case, white space, and Unicode's several ways to write a letter."""
    found = alike(text("Caf\u00e9  au lait\n"), text("cafe\u0301 AU lait"))
    assert (found.exact, found.normalised) == (False, True)


def test_other_texts() -> None:
    """Are as alike as the pairs of words that they share: two of four and four here."""
    found = alike(text("a b c"), text("a b d"))
    assert (found.exact, found.normalised) == (False, False)
    assert found.similarity == pytest.approx(0.5)
    assert found.score == pytest.approx(0.5)


def test_each_choice_has_its_counterpart() -> None:
    """A missing one is an empty one."""
    assert alike(text("a", "b"), text("a", "c")).similarity == 0.5
    assert alike(text("a", "b"), text("a")).similarity == 0.5
    assert alike(text("a"), text("a", "b")).similarity == 0.5
    assert alike(text("a"), Saying()).similarity == 0.0


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("", "", 1.0),
        (" ", "", 1.0),
        ("", "a", 0.0),
        ("a", "a", 1.0),
        ("a b", "b a", 0.0),
        ("the cat sat", "the cat sat", 1.0),
        ("the cat sat.", "The cat sat!", 2 * 3 / 10),
        ("a a a a", "a a", 2 * 3 / 8),
        ("猫が好き", "猫が嫌い", 2 * 2 / 10),
        ("สวัสดี", "สวัสดี", 1.0),
    ],
)
def test_similarity(one: str, other: str, expected: float) -> None:
    """Words where a script has spaces, characters where it has none."""
    assert similarity(one, other) == pytest.approx(expected)


def test_only_the_beginning_of_long_texts_is_compared() -> None:
    """What comes behind it costs nothing, and says nothing."""
    long = "word " * (MOST_CHARACTERS // 5)
    assert similarity(long + "this", long + "that") == 1.0


@given(st.text(max_size=60), st.text(max_size=60))
def test_similarity_is_a_measure(one: str, other: str) -> None:
    """Symmetric, from 0 to 1, and 1 for a text and itself."""
    found = similarity(one, other)
    assert 0.0 <= found <= 1.0
    assert found == similarity(other, one)
    assert similarity(one, one) == 1.0


@given(st.text(max_size=60))
def test_normalised_is_final(one: str) -> None:
    """Nothing changes the second time, but for what casefolding composes anew."""
    twice = normalised(normalised(one))
    assert normalised(twice) == normalised(normalised(twice))


def test_an_end_for_another_reason_counts_half() -> None:
    """The same text, cut by `length`, may be chance."""
    found = alike(text("a"), text("a", finish="length"))
    assert found.same_finish is False
    assert found.score == 0.5


# Calls of tools and JSON.


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([("f", '{"a":1,"b":2}')], [("f", '{"b": 2, "a": 1.0}')], True),
        ([("f", "{}")], [("g", "{}")], False),
        ([("f", "{}")], [("f", '{"a":1}')], False),
        ([("f", "{}"), ("g", "{}")], [("g", "{}"), ("f", "{}")], False),
        ([("f", "{}")], [], False),
        ([("f", "{what")], [("f", "{what")], True),
        ([("f", "{what")], [("f", "{")], False),
        ([("f", "[" * 100_000)], [("f", "[" * 100_000)], True),
    ],
)
def test_calls(one: list[tuple[str, str]], other: list[tuple[str, str]], same: bool) -> None:
    """Names and order, and arguments as JSON has them."""
    ours, theirs = [Call(*call) for call in one], [Call(*call) for call in other]
    assert same_calls(ours, theirs) is same


def test_other_calls_are_as_bad_as_can_be() -> None:
    """Also where only one of the two calls a tool."""
    found = alike(text("", calls=(Call("f", "{}"),)), text(""))
    assert (found.exact, found.same_calls, found.score) == (True, False, 0.0)
    assert alike(text(""), text("", calls=(Call("f", "{}"),))).same_calls is False
    same = text("", calls=(Call("f", "{}"),))
    assert alike(same, same).same_calls is True


@pytest.mark.parametrize(
    ("texts", "valid"),
    [
        (['{"a":1}', "[]"], True),
        (['{"a":1}', "[] or so"], False),
        (["NaN"], False),
        ([""], False),
        (["[" * 100_000], False),
        ([], True),
    ],
)
def test_all_json(texts: list[str], valid: bool) -> None:
    """Strictly, and nothing raises."""
    assert all_json(texts) is valid


def test_json_is_looked_at_where_it_was_asked_for() -> None:
    """A copy that breaks what the live answer holds is as bad as can be."""
    found = alike(text('{"a":1}'), text('{"a":1'), wants_json=True)
    assert (found.live_json, found.copy_json, found.score) == (True, False, 0.0)
    both = alike(text("no"), text("no"), wants_json=True)
    assert (both.live_json, both.copy_json, both.score) == (False, False, 1.0)


# Numbers.


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((1.0, 0.0), (1.0, 0.0), 1.0),
        ((1.0, 0.0), (0.0, 2.0), 0.0),
        ((1.0, 1.0), (-1.0, -1.0), -1.0),
        ((0.0, 0.0), (1.0, 0.0), 0.0),
        ((1.0,), (1.0, 0.0), 0.0),
        ((math.inf,), (1.0,), 0.0),
        ((), (), 0.0),
    ],
)
def test_cosine(one: tuple[float, ...], other: tuple[float, ...], expected: float) -> None:
    """Without a direction it is 0."""
    assert cosine(one, other) == pytest.approx(expected)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_cosine_is_bounded(vector: list[float]) -> None:
    """Rounding does not take it past 1."""
    assert -1.0 <= cosine(vector, vector) <= 1.0


def test_the_embedding_that_differs_most_counts() -> None:
    """Another number of them is no answer to the same request."""
    one = Saying(vectors=((1.0, 0.0), (1.0, 0.0)))
    other = Saying(vectors=((1.0, 0.0), (1.0, 1.0)))
    found = alike(one, other)
    assert found.cosine == pytest.approx(math.sqrt(0.5))
    assert found.score == pytest.approx(math.sqrt(0.5))
    assert alike(one, Saying(vectors=((1.0, 0.0),))).cosine == 0.0
    assert alike(one, Saying(vectors=((-1.0, 0.0),) * 2)).score == 0.0


def classes(**confidences: float) -> tuple[Prediction, ...]:
    return tuple(Prediction(label, value) for label, value in confidences.items())


def test_predictions_agree_by_rank() -> None:
    """The best class, and how many of the five best are the same."""
    one = Saying(predictions=(classes(a=0.5, b=0.2, c=0.1, d=0.05, e=0.04, f=0.01),))
    other = Saying(predictions=(classes(f=0.05, a=0.6, b=0.1, c=0.1, d=0.1),))
    found = alike(one, other)
    assert (found.top1, found.top5) == (True, 0.8)
    assert found.score == 0.8


def test_another_best_class() -> None:
    """Is the worst that can be said of a classifier's answer with the same classes."""
    found = alike(
        Saying(predictions=(classes(a=0.6, b=0.4),)), Saying(predictions=(classes(a=0.4, b=0.6),))
    )
    assert (found.top1, found.top5, found.score) == (False, 1.0, 0.5)


def test_inputs_are_compared_one_by_one() -> None:
    """All best classes must agree; shares are averaged. Other numbers of inputs do not agree."""
    one = Saying(predictions=(classes(a=1.0), classes(b=1.0)))
    found = alike(one, Saying(predictions=(classes(a=1.0), classes(c=1.0))))
    assert (found.top1, found.top5) == (False, 0.5)
    less = alike(one, Saying(predictions=(classes(a=1.0),)))
    assert (less.top1, less.top5) == (False, 0.0)


def test_predictions_without_classes() -> None:
    """Agree with each other, and with no others."""
    none, some = Saying(predictions=((),)), Saying(predictions=(classes(a=1.0),))
    assert alike(none, none).top5 == 1.0
    assert alike(none, none).top1 is True
    assert (alike(none, some).top1, alike(some, none).top5) == (False, 0.0)


def test_answers_that_say_nothing_of_the_kind() -> None:
    """Have equal figures, and that is all there is."""
    assert alike(Saying(), text("a")) == Likeness(True, 1.0, 1.0, 1.0)

"""How like each other are two answers to one request?

Pure. What an answer says is read in `gateway.plan.reading`; here two of them are compared, in time
linear in their length: 0.4 ms for 250 tokens, 4 ms for the longest (`MOST_CHARACTERS`).

Texts are compared by the Dice coefficient of their pairs of neighbouring words: twice the pairs in
common, by all pairs (Dice 1945; for n-grams of texts Kondrak, "N-gram similarity and distance",
2005). It is 1 for equal texts and 0 for such that share no two words in a row. An edit distance or
`difflib` would tell moved paragraphs better, but takes quadratic time.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from math import hypot, isfinite
from operator import mul
from typing import Any

from gateway.plan.saying import Call, Prediction, Saying

MOST_CHARACTERS = 20_000
"""What of a text is compared word by word: its beginning, about 5,000 tokens."""

TOP = 5
"""How many of a classifier's best classes are compared; ImageNet's customary second figure."""

_VECTORS = 4
"""Embeddings of one request that are compared: its first."""

# Characters of scripts without spaces are words of their own: kana, CJK, hangul, Thai to Khmer.
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]"
)
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Figures:
    """How an answer came, whatever it says."""

    status: int = 0
    """0 where no answer came."""
    latency_s: float | None = None
    """From its sending to its end; None where that tells nothing of the endpoint."""
    ttft_s: float | None = None
    """To the first event of a stream."""
    output_tokens: int | None = None
    failure: str = ""
    """Why it is no whole answer; "" if it is."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """What the comparison of a live answer and its copy came to; None where nothing was to compare.

    Ratios are the copy's figure by the live one's.
    """

    same_status: bool = False
    latency_ratio: float | None = None
    ttft_ratio: float | None = None
    tokens_ratio: float | None = None
    exact: bool | None = None
    """Whether the texts are equal."""
    normalised: bool | None = None
    """Whether they are, but for case, white space and the ways that Unicode writes one letter."""
    similarity: float | None = None
    """0 to 1; see the module."""
    same_finish: bool | None = None
    same_calls: bool | None = None
    """Whether the same tools are called with arguments that are equal as JSON."""
    live_json: bool | None = None
    """Where JSON was asked for: whether the live answer is."""
    copy_json: bool | None = None
    cosine: float | None = None
    """Of the embeddings that differ most, -1 to 1."""
    top1: bool | None = None
    """Whether the best class of each prediction is the same."""
    top5: float | None = None
    """The mean share of the `TOP` best classes that are the same."""

    @property
    def score(self) -> float:
        """One number to find the worst pairs by: 1 for alike, 0 for as different as can be."""
        if not self.same_status or self.same_calls is False:
            return 0.0
        if self.live_json and not self.copy_json:
            return 0.0
        parts = (
            self.similarity,
            self.cosine,
            self.top5,
            None if self.top1 is None else 0.5 + self.top1 / 2,
            None if self.same_finish is None else 0.5 + self.same_finish / 2,
        )
        return max(0.0, min((part for part in parts if part is not None), default=1.0))


def compare(
    live: Figures,
    copy: Figures,
    said: tuple[Saying, Saying] | None = None,
    *,
    wants_json: bool = False,
) -> Likeness:
    """Compare an answer with its copy.

    `said` is what both say (live, copy), where both are good answers (2xx); None compares the
    figures only. `wants_json` says that the request asked for a JSON text. A copy that is no whole
    answer is like nothing.
    """
    figures: dict[str, Any] = {
        "latency_ratio": _ratio(live.latency_s, copy.latency_s),
        "ttft_ratio": _ratio(live.ttft_s, copy.ttft_s),
    }
    if copy.failure or live.status != copy.status:
        # A quick failure is no short latency.
        return Likeness()
    if said is None:
        return Likeness(same_status=True, **figures)
    one, other = said
    figures["tokens_ratio"] = _ratio(live.output_tokens, copy.output_tokens)
    if one.texts:
        figures |= _texts(one, other, wants_json=wants_json)
    elif one.vectors:
        figures["cosine"] = _vectors(one.vectors, other.vectors)
    elif one.predictions:
        figures |= _predictions(one.predictions, other.predictions)
    return Likeness(same_status=True, **figures)


def _ratio(live: float | None, copy: float | None) -> float | None:
    return copy / live if live and copy is not None else None


# Texts.


def _texts(one: Saying, other: Saying, *, wants_json: bool) -> dict[str, Any]:
    """Compare the texts of all choices, each with the one of the same number."""
    exact = one.texts == other.texts
    found: dict[str, Any] = {"exact": exact, "same_finish": one.finishes == other.finishes}
    if exact:
        found["normalised"], found["similarity"] = True, 1.0
    else:
        pairs = _pairs(one.texts, other.texts)
        found["normalised"] = all(normalised(a) == normalised(b) for a, b in pairs)
        found["similarity"] = sum(similarity(a, b) for a, b in pairs) / len(pairs)
    if one.calls or other.calls:
        found["same_calls"] = same_calls(one.calls, other.calls)
    if wants_json:
        found["live_json"], found["copy_json"] = all_json(one.texts), all_json(other.texts)
    return found


def _pairs(ones: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Return the texts in pairs; the shorter list is filled up with empty ones."""
    most = max(len(ones), len(others))
    return [(_at(ones, index), _at(others, index)) for index in range(most)]


def _at(texts: Sequence[str], index: int) -> str:
    return texts[index] if index < len(texts) else ""


def normalised(text: str) -> str:
    """Return the text in one form of Unicode (NFKC), without case and with single spaces."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip().casefold()


def similarity(one: str, other: str) -> float:
    """Return how many pairs of neighbouring words two texts share, 0 to 1."""
    ours, theirs = _word_pairs(one), _word_pairs(other)
    # What `Counter.__and__` gives, in a third of its time.
    common = sum([min(ours[pair], theirs[pair]) for pair in ours.keys() & theirs.keys()])
    return 2 * common / (ours.total() + theirs.total())


def _word_pairs(text: str) -> Counter[tuple[str, str]]:
    # Begin and end count as words, so that every text has a pair, the empty one too.
    words = _WORD.findall(text[:MOST_CHARACTERS].casefold())
    return Counter(pairwise(chain(("\n",), words, ("\n",))))


def same_calls(ones: Sequence[Call], others: Sequence[Call]) -> bool:
    """Say whether the same tools are called in the same order with the same arguments."""
    return len(ones) == len(others) and all(map(_same_call, ones, others))


def _same_call(one: Call, other: Call) -> bool:
    if one.name != other.name:
        return False
    try:
        return bool(json.loads(one.arguments) == json.loads(other.arguments))
    except (ValueError, RecursionError):
        return one.arguments == other.arguments


def all_json(texts: Iterable[str]) -> bool:
    """Say whether each text is JSON (RFC 8259, which has no NaN)."""
    try:
        for text in texts:
            json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(constant)


# Numbers.


def _vectors(ones: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Return the cosine of the pair that differs most; 0 where one is missing."""
    if len(ones) != len(others):
        return 0.0
    return min(map(cosine, ones[:_VECTORS], others[:_VECTORS]))


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors; 0 if their lengths differ, or one has
    no direction."""
    size: float = hypot(*one) * hypot(*other)
    if len(one) != len(other) or not size or not isfinite(size):
        return 0.0
    product: float = sum(map(mul, one, other))
    return max(-1.0, min(1.0, product / size))


def _predictions(
    ones: Sequence[Sequence[Prediction]], others: Sequence[Sequence[Prediction]]
) -> dict[str, Any]:
    """Compare the best classes of each input, each with the one of the same number."""
    if len(ones) != len(others):
        return {"top1": False, "top5": 0.0}
    agreed = [_agreement(a, b) for a, b in zip(ones, others, strict=True)]
    return {
        "top1": all(first for first, _ in agreed),
        "top5": sum(share for _, share in agreed) / len(agreed),
    }


def _agreement(one: Sequence[Prediction], other: Sequence[Prediction]) -> tuple[bool, float]:
    """Return whether the best class is the same, and the share of the `TOP` best that are."""
    ours, theirs = _best(one), _best(other)
    if not ours or not theirs:
        return ours == theirs, float(ours == theirs)
    shared = len(set(ours) & set(theirs))
    return ours[0] == theirs[0], shared / max(len(ours), len(theirs))


def _best(predictions: Sequence[Prediction]) -> list[str]:
    """Return the `TOP` best classes, the best first; equals in the order of the answer."""
    ordered = sorted(predictions, key=lambda prediction: -prediction.confidence)
    return [prediction.label for prediction in ordered[:TOP]]

"""What is compared of a live answer and its copy, and what does it come to?

No state and no I/O: `liken` may run in a thread, once nothing is added to what it reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.dispatch.tap import Kept
from gateway.model import Outcome
from gateway.plan.likeness import Figures, Likeness, compare
from gateway.plan.reading import read
from gateway.plan.saying import Saying, wants_json
from gateway.releases.mirrored import MOST_CONTENT
from gateway.telemetry.record import Record


@dataclass(frozen=True, slots=True, repr=False)
class Both:
    """A request's live answer and its copy, which have both ended."""

    route: str
    asked: bytes
    """The request's body."""
    live: Figures
    copy: Figures
    kept: tuple[Kept, Kept]
    """What they say: the live one's, the copy's."""
    streams: tuple[bool, bool]


@dataclass(frozen=True, slots=True, repr=False)
class Compared:
    """What the comparison came to, and what both say as text."""

    likeness: Likeness
    live: str
    copy: str


def figures_of(live: Record) -> Figures:
    """Return how a live answer came.

    The time that it waited for a place is not the endpoint's; where more than one attempt was
    needed, no time of the whole is.
    """
    tokens = live.usage.completion_tokens if live.usage is not None else None
    if live.attempts > 1 or live.resumes:
        return Figures(live.status, output_tokens=tokens)
    began_at = live.started_at + live.queued_s
    first_s = live.first_at - began_at if live.first_at else None
    return Figures(live.status, live.ended_at - began_at, first_s, tokens)


def is_whole(live: Record) -> bool:
    """Say whether the client has an engine's whole answer, be it one that refuses."""
    if live.outcome is Outcome.REJECTED:
        return not live.error
    return live.outcome is Outcome.SUCCESS


def liken(both: Both) -> Compared:
    """Compare the two. What cannot be read of a good answer says nothing."""
    bodies = both.kept[0].body(), both.kept[1].body()
    said: tuple[Saying, Saying] | None = None
    if all(not one.failure and 200 <= one.status < 300 for one in (both.live, both.copy)):
        ours = read(both.route, bodies[0], streams=both.streams[0])
        if ours is not None:
            said = ours, read(both.route, bodies[1], streams=both.streams[1]) or Saying()
    wanted = wants_json(both.asked)
    likeness = compare(both.live, both.copy, said, wants_json=wanted)
    shown = [_text(None if said is None else said[at], bodies[at]) for at in (0, 1)]
    return Compared(likeness, shown[0], shown[1])


def _text(saying: Saying | None, body: bytes) -> str:
    """Return what an answer says as text; the beginning of its body if it says none."""
    texts = () if saying is None else saying.texts
    return "\n".join(texts) or body[:MOST_CONTENT].decode(errors="replace")

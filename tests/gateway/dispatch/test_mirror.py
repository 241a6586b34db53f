"""Requests are copied beside the live ones, and these never notice."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from gateway.admit.gate import Gate
from gateway.admit.lag import LoopLag
from gateway.api.body import read_json
from gateway.config.policy import Policy
from gateway.config.policy_conflicts import Known
from gateway.dispatch.copying import Copy
from gateway.dispatch.mirror import MAX_LAG_S, Mirrors, capacity_of
from gateway.dispatch.tap import MOST_BYTES, Kept, Tap
from gateway.model import Outcome, Route
from gateway.plan.match import Rules
from gateway.relay.reply import Reply
from gateway.releases.mirrored import Pair
from gateway.telemetry.record import Record
from gateway.upstream.breaker import State
from gateway.wire.guard import Head
from gateway.wire.types import Request
from tests.support.engine import (
    DONE,
    Script,
    Then,
    Turn,
    event,
    finish,
    response,
    stream,
    token,
    usage,
)
from tests.support.failover import Failover, failover
from tests.support.pools import pool_of
from tests.support.raw import CutError, post
from tests.support.rig import CHAT, ONCE, STREAM, eventually, read_event

ANSWER = response(b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}')
OTHER = response(b'{"choices":[{"message":{"content":"ho"},"finish_reason":"stop"}]}')
STREAMED = stream(token("hi"), token(" you"), finish(), usage(), DONE)


@dataclass
class Mirroring:
    """A gateway between live engines and those of a mirror."""

    rig: Failover
    mirrors: Mirrors
    lag: LoopLag
    pairs: list[Pair] = field(default_factory=list)

    @property
    def results(self) -> dict[str, int]:
        registry = CollectorRegistry()
        registry.register(self.mirrors)
        lines = generate_latest(registry).decode().splitlines()
        found: dict[str, int] = {}
        for line in lines:
            if line.startswith("sluice_mirror_total{"):
                assert 'policy="shadow"' in line
                result = line.partition('result="')[2].partition('"')[0]
                found[result] = int(float(line.rpartition(" ")[2]))
        return found

    async def settled(self, **results: int) -> None:
        """Wait until the copies have come to this."""
        await eventually(lambda: self.results == results)
        assert repr(self.mirrors) == "<Mirrors, 0 copies>"

    def to(self, cluster: str, override: dict[str, Any] | None = None, **mirror: Any) -> None:
        """Let copies of the requests for `m` go to a cluster."""
        target = {"cluster": cluster, "override": override or {}}
        if cluster == "other":
            target["upstream_model"] = "o"
        self.obey({"mirror": {"to": target, **mirror}})

    def obey(self, policy: dict[str, Any], **other: dict[str, Any]) -> None:
        """Put a mirror into effect, and other policies by their names."""
        match = {"models": ["m"]}
        live = self.rig.gateway.live
        policies = [
            Policy.model_validate({"name": name, "match": match, **each})
            for name, each in {"shadow": policy, **other}.items()
        ]
        live.rules = Rules(policies, Known.of(live.config))
        live.recompile()


@asynccontextmanager
async def mirroring(
    live: Sequence[Script],
    copies: Sequence[Script] | None,
    cluster: dict[str, Any] | None = None,
    *,
    spare: Sequence[Sequence[Script]] = (),
    **mirror: Any,
) -> AsyncIterator[Mirroring]:
    """Copy to the cluster `other`, whose engine has the scripts `copies`; None: to the live one.

    `spare` are the live cluster's other engines.
    """
    others = [] if copies is None else [copies]
    settings = {**ONCE, **(cluster or {})}
    async with failover(live, *spare, others=others, cluster=settings) as rig:
        pairs: list[Pair] = []
        lag = LoopLag(1.0)
        mirrors = Mirrors(rig.gateway.shared, lag, pairs.append)
        found = Mirroring(rig, mirrors, lag, pairs)
        found.to("pool" if copies is None else "other", **mirror)
        async with mirrors:
            rig.gateway.proxy.mirrors = mirrors
            yield found
            rig.gateway.proxy.mirrors = None


async def seen(rig: Failover, body: dict[str, Any]) -> tuple[int, list[Any], bytes]:
    """Return what a client gets, but for the date and for where its chunks end."""
    answer = await rig.post(body, fields={"x-request-id": "r1"})
    fields = [(name, value) for name, value in answer.fields if name != b"date"]
    return answer.status, fields, answer.body


# Nothing of it is seen.


@pytest.mark.parametrize(
    ("body", "script"),
    [
        (CHAT, [ANSWER]),
        (STREAM, STREAMED),
        (STREAM, [part for step in STREAMED for part in (step, Then.YIELD)]),
        (CHAT, [response(b"x" * 3_000_000)]),
        (STREAM, [*STREAMED[:2], Then.CLOSE]),
        (CHAT, [response(b"{}", b"404 Not Found")]),
    ],
    ids=["whole", "stream", "stream in pieces", "long", "cut", "refused"],
)
async def test_the_live_answer_is_byte_for_byte_the_same(
    body: dict[str, Any], script: Script
) -> None:
    """With a copy of each request and without."""
    async with mirroring([script], [STREAMED]) as run:
        mirrored = await seen(run.rig, body)
        run.rig.gateway.proxy.mirrors = None
        assert mirrored == await seen(run.rig, body)
        await eventually(lambda: sum(run.results.values()) == 1)


async def test_the_copy_is_the_request_as_its_engine_wants_it() -> None:
    """Its model, an id of its own, the policy's name; the client's credentials stay here."""
    async with mirroring([[ANSWER]], [[OTHER]]) as run:
        fields = {"x-request-id": "abc", "Authorization": "Bearer secret", "x-team": "blue"}
        await run.rig.post({**CHAT, "seed": 2**70}, fields=fields)
        await run.settled(compared=1)
        (got,) = run.rig.others[0].requests
        (live,) = run.rig.engines[0].requests
        assert got.json == {**CHAT, "model": "o", "seed": 2**70}
        assert got.header(b"x-request-id") == [b"mirror-abc"]
        assert got.header(b"x-sluice-mirror") == [b"shadow"]
        assert got.header(b"x-team") == [b"blue"]
        assert got.header(b"authorization") == []
        assert live.header(b"x-sluice-mirror") == []
        assert live.header(b"x-request-id") == [b"abc"]


async def test_credentials_travel_where_the_target_says_so() -> None:
    """As for a live request there."""
    async with mirroring([[ANSWER]], [[OTHER]], {"forward_authorization": True}) as run:
        await run.rig.post(fields={"Authorization": "Bearer own"})
        await run.settled(compared=1)
        assert run.rig.others[0].requests[0].header(b"authorization") == [b"Bearer own"]


async def test_an_override_is_the_copys_only() -> None:
    """The live request stays what the client wrote."""
    async with mirroring([[ANSWER]], [[OTHER]]) as run:
        run.to("other", {"temperature": 0.5})
        await run.rig.post()
        await run.settled(compared=1)
        assert run.rig.others[0].requests[0].json["temperature"] == 0.5
        assert run.rig.engines[0].requests[0].json == CHAT


async def test_pairs_are_compared() -> None:
    """Whole answers and streams, even if only one of them is a stream."""
    async with mirroring([STREAMED, [ANSWER]], [STREAMED, [OTHER]]) as run:
        await run.rig.post(STREAM)
        await run.settled(compared=1)
        await run.rig.post()
        await run.settled(compared=2)
        same, different = run.pairs
        assert (same.policy, same.model, same.route) == ("shadow", "m", "chat")
        assert same.likeness.exact is True
        assert same.likeness.score == 1.0
        assert (same.live.output_tokens, same.copy.output_tokens) == (2, 2)
        assert same.live.ttft_s is not None
        assert same.copy.ttft_s is not None
        assert same.content is None
        assert different.likeness.exact is False
        assert different.likeness.same_finish is True
        assert different.copy.ttft_s is None


async def test_content_is_kept_only_where_the_policy_says_so() -> None:
    """Prompt and both answers, as text."""
    async with mirroring([[ANSWER]], [[OTHER], [response(b"no", b"400 No")]]) as run:
        run.to("other", log_content=True)
        await run.rig.post()
        await run.rig.post()
        await run.settled(compared=2)
        content, refused = run.pairs[0].content, run.pairs[1].content
        assert content is not None
        assert refused is not None
        assert (content.live, content.copy) == ("hi", "ho")
        assert '"hi"' in content.prompt
        assert refused.copy == "no"


@pytest.mark.parametrize("as_image", [False, True])
async def test_predictions_are_compared_and_images_kept_nowhere(as_image: bool) -> None:
    """Not even where the policy lets content be kept; the copy is of the same bytes."""
    seven = response(b'{"predictions":[{"class":"7","confidence":0.9}]}')
    one = response(b'{"predictions":[{"class":"1","confidence":0.6}]}')
    image, kind = b"\x89PNG-" + bytes(99), {"Content-Type": "image/png"}
    async with mirroring([[seven]], [[seven], [one]], {"kind": "vision"}) as run:
        run.to("other", log_content=True)
        for _ in range(2):
            if as_image:
                await run.rig.post(image, "/predict?model=m", kind)
            else:
                await run.rig.post({"model": "m", "inputs": {"image": "SECRET"}}, "/predict")
        await run.settled(compared=2)
        live, copy = run.rig.engines[0].requests[0], run.rig.others[0].requests[0]
        assert live.body == (image if as_image else copy.body.replace(b'"o"', b'"m"'))
        assert copy.line.endswith(b"/v1/predict%b HTTP/1.1" % (b"?model=o" if as_image else b""))
        assert [pair.likeness.top1 for pair in run.pairs] == [True, False]
        for pair in run.pairs:
            assert pair.route == "predict"
            assert pair.content is not None
            assert pair.content.prompt == ""


async def test_what_cannot_be_read_is_unlike() -> None:
    """A copy that is no JSON says nothing; a live answer that is none compares figures only."""
    junk = response(b"junk", fields=[(b"content-type", b"text/plain")])
    async with mirroring([[ANSWER], [junk]], [[junk], [junk]]) as run:
        await run.rig.post()
        await run.settled(compared=1)
        await run.rig.post()
        await run.settled(compared=2)
        assert run.pairs[0].likeness.similarity == 0.0
        assert run.pairs[1].likeness.similarity is None
        assert run.pairs[1].likeness.score == 1.0


async def test_long_answers_are_compared_in_a_thread() -> None:
    """The event loop has other things to do."""
    long = stream(*[token(f"word{n} ") for n in range(400)], finish(), DONE)
    async with mirroring([long], [long]) as run:
        await run.rig.post(STREAM)
        await run.settled(compared=1)
        assert run.pairs[0].likeness.exact is True


async def test_the_gateways_own_numbers_know_nothing_of_copies() -> None:
    """Neither requests nor attempts nor tokens."""
    async with mirroring([STREAMED], [STREAMED]) as run:
        await run.rig.post(STREAM)
        await run.settled(compared=1)
        assert run.rig.metric("sluice_requests_total") == 1
        assert run.rig.metric("sluice_tokens_total", kind="completion") == 2
        assert run.rig.metric("sluice_upstream_attempts_total", cluster="pool") == 1
        assert run.rig.metric("sluice_upstream_attempts_total", cluster="other") == 0


# A target that is not well.

BROKEN: dict[str, Script] = {
    "reset": [Then.RESET],
    "closed": [Then.CLOSE],
    "garbage": [b"HTP/9 what\r\n\r\n", Then.CLOSE],
    "500": [response(b"{}", b"500 Oops")],
    "503": [response(b"{}", b"503 Busy")],
    "cut": [*STREAMED[:2], Then.CLOSE],
    "error in the stream": stream(token("a"), event({"error": {"message": "oom"}}), DONE),
    "error in a 200": [response(b'{"error":{"message":"oom"}}')],
    "cut answer": [response(b'{"answer":', length=99), Then.CLOSE],
}


@pytest.mark.parametrize("failure", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
async def test_a_copy_that_fails_is_a_pair_like_nothing(
    failure: Script, body: dict[str, Any]
) -> None:
    """Once only, and nothing of it reaches anyone."""
    script = STREAMED if body is STREAM else [ANSWER]
    async with mirroring([script], [failure]) as run:
        answer = await run.rig.post(body)
        assert answer.status == 200
        await run.settled(failed=1)
        (pair,) = run.pairs
        assert pair.likeness.score == 0.0
        assert pair.why
        assert len(run.rig.others[0].requests) == 1


async def test_a_target_that_nobody_listens_at() -> None:
    """Is asked once for each request, and that is all."""
    async with mirroring([[ANSWER]], [[OTHER]]) as run:
        engine = run.rig.others[0]
        engine._server.close()
        await engine._server.wait_closed()
        assert (await run.rig.post()).status == 200
        await run.settled(failed=1)
        assert "cannot be reached" in run.pairs[0].why


@pytest.mark.parametrize("start", [[], STREAMED[:2]], ids=["silent", "stuck"])
async def test_a_target_that_hangs_is_given_up(start: list[bytes]) -> None:
    """After the mirror's own time-out; the live request is long over."""
    async with mirroring([STREAMED], [[*start, Then.HANG]], timeout_s=7) as run:
        assert (await run.rig.post(STREAM)).status == 200
        got = await run.rig.others[0].wait_requests(1)
        run.rig.pass_time(6.9)
        await asyncio.sleep(0)
        assert not run.results
        run.rig.pass_time(0.2)
        await got.abandoned()
        await run.settled(failed=1)
        assert run.pairs[0].copy.failure


@pytest.mark.parametrize("form", ["stream", "whole", "other coding"])
async def test_a_target_without_end_is_cut(form: str) -> None:
    """What is kept of a copy is bounded, and so is how long it is listened to."""
    piece = token("x" * 1000)
    many = MOST_BYTES // len(piece) + 2
    scripts: dict[str, Script] = {
        "stream": [*stream(*[piece] * many, whole=False), Then.HANG],
        "other coding": [
            *stream(whole=False),
            *[b"%x;ext=1\r\n%b\r\n" % (len(piece), piece)] * many,
            Then.HANG,
        ],
        "whole": [response(b"x" * (MOST_BYTES + 9), length=MOST_BYTES * 2), Then.HANG],
    }
    async with mirroring([STREAMED], [scripts[form]]) as run:
        assert (await run.rig.post(STREAM)).status == 200
        got = await run.rig.others[0].wait_requests(1)
        await got.abandoned()
        await run.settled(too_long=1)
        assert not run.pairs


async def test_a_live_answer_too_long_is_not_compared() -> None:
    """The pair is counted, no more."""
    async with mirroring([[response(b"x" * (MOST_BYTES + 1))]], [[ANSWER]]) as run:
        assert len((await run.rig.post()).body) == MOST_BYTES + 1
        await run.settled(too_long=1)
        assert not run.pairs


async def test_a_target_without_a_healthy_endpoint_is_left_alone() -> None:
    """Nothing is sent there."""
    async with mirroring([[ANSWER]], [[OTHER]]) as run:
        run.rig.gateway.clusters["other"].endpoints[0].drain()
        assert (await run.rig.post()).status == 200
        await run.settled(unavailable=1)
        assert not run.rig.others[0].requests


async def test_a_target_whose_model_nobody_serves() -> None:
    """Its course has no plan."""
    async with mirroring([[ANSWER]], [[OTHER]]) as run:
        run.obey({"mirror": {"to": {"model": "gone"}}})
        assert (await run.rig.post()).status == 200
        await run.settled(unavailable=1)


# A client that leaves, and other ends.


async def test_the_copy_ends_with_a_client_that_leaves() -> None:
    """Half an answer compares with nothing."""
    turn = Turn()
    live = [*STREAMED[:2], turn]
    async with mirroring([live], [[*STREAMED[:2], Then.HANG]]) as run:
        async with run.rig.client() as client:
            client.send(post(STREAM))
            await client.head()
            await read_event(client)
            got = await run.rig.others[0].wait_requests(1)
        await got.abandoned()
        await run.settled(abandoned=1)
        assert not run.pairs


async def test_a_copy_that_came_first_waits_for_the_live_answer() -> None:
    """And is let go of when that is cut short."""
    turn = Turn()
    async with mirroring([[*STREAMED[:2], turn, *STREAMED[2:]]], [STREAMED]) as run:
        async with run.rig.client() as client:
            client.send(post(STREAM))
            await client.head()
            await read_event(client)
            other = run.rig.gateway.clusters["other"].endpoints[0]
            await run.rig.others[0].wait_requests(1)
            await eventually(lambda: other.inflight == 0)
            assert not run.results
        await run.settled(abandoned=1)


async def test_the_copy_goes_on_when_the_live_answer_was_whole() -> None:
    """The client has left by then, as most do."""
    turn = Turn()
    async with mirroring([[ANSWER]], [[turn, OTHER]]) as run:
        assert (await run.rig.post()).status == 200
        await run.rig.others[0].wait_requests(1)
        assert not run.results
        turn.go.set()
        await run.settled(compared=1)


@pytest.mark.parametrize("failure", [[Then.RESET], [response(b"{}", b"500 Oops")]])
async def test_a_live_request_that_fails_is_no_pair(failure: Script) -> None:
    """The copy is given up."""
    async with mirroring([failure], [[Then.HANG]]) as run:
        assert (await run.rig.post()).status == 502
        await run.settled(abandoned=1)


async def test_a_refusal_by_both_engines_is_alike() -> None:
    """The client's own mistake is an answer, too."""
    refusal = response(b'{"error":{"message":"bad"}}', b"400 Bad Request")
    async with mirroring([[refusal]], [[refusal]]) as run:
        assert (await run.rig.post()).status == 400
        await run.settled(compared=1)
        assert run.pairs[0].likeness.same_status


async def test_a_request_that_ends_at_once_is_never_copied() -> None:
    """Its copy is given up before it begins."""
    async with mirroring([[ANSWER]], [[OTHER]]) as run:
        run.rig.gateway.clusters["pool"].endpoints[0].drain()
        assert (await run.rig.post()).status == 503
        await run.settled(abandoned=1)
        assert not run.rig.others[0].requests


async def test_copies_stop_at_once_with_the_gateway() -> None:
    """What is under way is cut, and nothing more is copied."""
    async with mirroring([[ANSWER]], [[Then.HANG]]) as run:
        await run.rig.post()
        got = await run.rig.others[0].wait_requests(1)
        (copy,) = run.mirrors._copies
        assert repr(copy.order) == "<Order, shadow>"  # The prompt is not shown.
        run.mirrors.stop()
        run.mirrors.stop()
        await got.abandoned()
        await run.settled(stopped=1)
        await run.rig.post()
        assert run.results == {"stopped": 1}


async def test_the_end_of_the_context_stops_copies_too() -> None:
    """And gives the interpreter its switch interval back."""
    before = sys.getswitchinterval()
    async with mirroring([[ANSWER]], [[Then.HANG]]) as run:
        await run.rig.post()
        await run.rig.others[0].wait_requests(1)
        assert sys.getswitchinterval() < before
    assert run.results == {"stopped": 1}
    assert sys.getswitchinterval() == before


async def test_outside_of_the_context_nothing_is_copied() -> None:
    """There is nobody to own the tasks."""
    async with mirroring([[ANSWER]], [[OTHER]]) as run:
        mirrors = Mirrors(run.rig.gateway.shared, run.lag, run.pairs.append)
        junction = run.rig.gateway.table.lookup("m").junction
        assert junction is not None
        course = junction.mirrors[0].courses[0]
        request = Request(Route("/v1/chat/completions", "chat"), Head(b""), b"{}", "")
        record = Record("chat", b"r", "", 0.0)
        facts = read_json(b'{"model":"m"}', 9)
        assert mirrors.offer(course, request, facts, record, _NOBODY) is None
        async with mirrors:
            pass
        assert mirrors.offer(course, request, facts, record, _NOBODY) is None


_NOBODY: Any = None


async def test_a_defect_of_ours_is_logged_and_hurts_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The task's edge."""
    async with mirroring([[ANSWER]], [[OTHER]]) as run:

        def broken(pair: Pair) -> None:
            raise RuntimeError(pair.policy)

        run.mirrors.heard = broken
        with caplog.at_level(logging.ERROR):
            assert (await run.rig.post()).status == 200
            await run.settled(defect=1)
        assert "the copy of" in caplog.text


# Live requests come first.


async def test_as_many_copies_as_the_policy_allows() -> None:
    """What comes beyond is not copied."""
    async with mirroring([[ANSWER]], [[Then.HANG]], max_concurrency=2) as run:
        for _ in range(4):
            assert (await run.rig.post()).status == 200
        await run.rig.others[0].wait_requests(2)
        assert run.results == {"full": 2}
        assert len(run.rig.others[0].requests) == 2


@pytest.mark.parametrize(
    ("copy", "result"),
    [(STREAMED, "compared"), ([Then.RESET], "failed"), ([response(b"{}", b"400 No")], "compared")],
)
async def test_nothing_is_left_for_the_collector(copy: Script, result: str) -> None:
    """It runs rarely; what belongs to one request goes with it."""

    def left() -> list[object]:
        return [one for one in gc.get_objects() if isinstance(one, (Copy, Tap, Kept, Reply))]

    async with mirroring([STREAMED], [copy]) as run:
        await run.rig.post(STREAM)
        await run.settled(**{result: 1})
        gc.collect()
        gc.disable()
        try:
            await run.rig.post(STREAM)
            await run.settled(**{result: 2})
            await eventually(lambda: not left())  # The client's task has yet to end.
        finally:
            gc.enable()


async def test_a_place_is_free_again_when_a_copy_has_ended() -> None:
    """However it ended."""
    failure = [response(b"{}", b"500 Oops")]
    async with mirroring([[ANSWER]], [[OTHER], failure, [OTHER]], max_concurrency=1) as run:
        await run.rig.post()
        await run.settled(compared=1)
        await run.rig.post()
        await run.settled(compared=1, failed=1)
        await run.rig.post()
        await run.settled(compared=2, failed=1)


async def test_what_a_policy_changes_for_the_live_request_is_not_copied() -> None:
    """The copy is of what the client asked."""
    async with mirroring([[ANSWER]], [[OTHER]]) as run:
        route = {"route": {"cluster": "pool", "override": {"temperature": 0.5}}}
        run.obey({"mirror": {"to": {"cluster": "other"}}}, steered=route)
        await run.rig.post()
        await run.settled(compared=1)
        assert run.rig.engines[0].requests[0].json == {**CHAT, "temperature": 0.5}
        assert run.rig.others[0].requests[0].json == CHAT


async def test_without_a_copy_nothing_more_of_the_live_answer_is_kept() -> None:
    """The client may listen for long."""
    turn = Turn()
    async with mirroring([[*STREAMED[:2], turn, *STREAMED[2:]]], [[OTHER]]) as run:
        run.rig.gateway.clusters["other"].endpoints[0].drain()
        async with run.rig.client() as client:
            client.send(post(STREAM))
            await client.head()
            await read_event(client)
            await run.settled(unavailable=1)
            (tap,) = [one for one in gc.get_objects() if isinstance(one, Tap)]
            assert tap.kept.full
            turn.go.set()
            while await client.piece():
                pass
        assert tap.kept.reads == []


async def test_no_copies_while_the_event_loop_is_late() -> None:
    """It has enough to do."""
    async with mirroring([[ANSWER]], [[OTHER]]) as run:
        run.lag.tick(0.0, MAX_LAG_S * 1.1)
        await run.rig.post()
        assert run.results == {"yielded": 1}


async def test_copies_end_when_the_gateway_sheds_load() -> None:
    """They are the first to go."""
    async with mirroring([[ANSWER]], [[Then.HANG]]) as run:
        await run.rig.post()
        got = await run.rig.others[0].wait_requests(1)
        run.mirrors.sweep()
        run.rig.gateway.shared.shed_s = 1
        run.mirrors.sweep()
        run.rig.gateway.shared.shed_s = 0
        await got.abandoned()
        await run.settled(yielded=1)
        run.mirrors.sweep()
        assert run.results == {"yielded": 1}


@pytest.mark.parametrize(("max_load", "results"), [(0.5, {"yielded": 1}), (1.0, {"compared": 1})])
async def test_a_busy_shared_cluster_gets_no_copies(
    max_load: float, results: dict[str, int]
) -> None:
    """The live request and its copy would be two of the three that it takes."""
    turn = Turn()
    async with mirroring(
        [[turn, ANSWER], [OTHER]], None, {"max_inflight": 3}, max_load=max_load
    ) as run:
        asked = asyncio.ensure_future(run.rig.post())
        await run.rig.engines[0].wait_requests(1 + ("compared" in results))
        turn.go.set()
        await asked
        await run.settled(**results)


async def test_a_cluster_of_copies_only_may_be_filled() -> None:
    """There are no live requests to yield to."""
    async with mirroring([[ANSWER]], [[Then.HANG]], {"max_inflight": 2}, max_load=0.1) as run:
        await run.rig.post()
        await run.rig.post()
        await run.rig.others[0].wait_requests(2)
        run.mirrors.sweep()
        await asyncio.sleep(0)
        assert not run.results


async def test_endpoints_without_room_get_no_copies() -> None:
    """`PoolFull` is no failure of the target."""
    async with mirroring([[ANSWER]], [[Then.HANG], [OTHER]]) as run:
        endpoint = run.rig.gateway.clusters["other"].endpoints[0]
        endpoint.configure(1.0, 1)
        await run.rig.post()
        await run.rig.others[0].wait_requests(1)
        await run.rig.post()
        await eventually(lambda: run.results == {"yielded": 1})


async def test_copies_make_room_for_live_requests_that_wait() -> None:
    """The newest go, as many as wait; the room goes on to those."""
    live: list[Script] = [[ANSWER], [Then.HANG], [ANSWER], [Then.HANG], [ANSWER]]
    async with mirroring(live, None, max_concurrency=2) as run, AsyncExitStack() as stack:
        cluster = run.rig.gateway.clusters["pool"]
        engine = run.rig.engines[0]
        await run.rig.post()
        await engine.wait_requests(2)
        await run.rig.post()
        newest = await engine.wait_requests(4)
        # The room goes on by word of the copy that goes, not when somebody looks again.
        stack.enter_context(patch.object(Gate, "sweep"))
        cluster.endpoints[0].configure(1.0, 2)
        cluster.gate.room = cluster._room
        waiting = asyncio.ensure_future(run.rig.post())
        await eventually(lambda: sum(map(cluster.gate.waiting, (0, 1, 2))) == 1)  # type: ignore[arg-type]  # an IntEnum
        run.mirrors.sweep()
        await newest.abandoned()
        assert (await waiting).status == 200
        assert run.results == {"full": 1, "yielded": 1}


async def test_copies_make_room_when_both_are_more_than_the_cluster_takes() -> None:
    """Only as many as are too many."""
    live = Turn()
    async with mirroring(
        [[ANSWER], [Then.HANG], [live, ANSWER], [Then.HANG], [live, ANSWER]],
        None,
        {"max_inflight": 4},
        max_load=1.0,
        max_concurrency=2,
    ) as run:
        engine, cluster = run.rig.engines[0], run.rig.gateway.clusters["pool"]
        await run.rig.post()
        oldest = await engine.wait_requests(2)
        first = asyncio.ensure_future(run.rig.post())
        newest = await engine.wait_requests(4)
        second = asyncio.ensure_future(run.rig.post())
        await engine.wait_requests(5)
        run.mirrors.sweep()
        await asyncio.sleep(0)
        assert not newest.left.is_set()
        cluster.gate.limit(3, 9, 9.0)
        cluster.spec = cluster.spec.model_copy(update={"max_inflight": 3})
        run.mirrors.sweep()
        await newest.abandoned()
        assert not oldest.left.is_set()
        live.go.set()
        assert [(await one).status for one in (first, second)] == [200, 200]


async def test_a_queue_at_the_target_keeps_copies_away() -> None:
    """The live request itself waits there: the only endpoint that is well has no room."""
    turn = Turn()
    async with mirroring([[turn, ANSWER], [ANSWER]], None, spare=[[[OTHER]]]) as run:
        cluster = run.rig.gateway.clusters["pool"]
        cluster.endpoints[0].configure(1.0, 1)
        cluster.endpoints[1].drain()
        cluster.gate.room = cluster._room
        run.rig.gateway.proxy.mirrors = None
        first = asyncio.ensure_future(run.rig.post())
        await run.rig.engines[0].wait_requests(1)
        run.rig.gateway.proxy.mirrors = run.mirrors
        second = asyncio.ensure_future(run.rig.post())
        await eventually(lambda: run.results == {"yielded": 1})
        turn.go.set()
        assert [(await one).status for one in (first, second)] == [200, 200]


# What copies leave behind.


async def test_failing_copies_open_no_breaker() -> None:
    """The endpoint's state is what its live requests say of it."""
    failure = [response(b"{}", b"500 Oops")]
    live: list[Script] = [step for _ in range(8) for step in ([ANSWER], failure)]
    async with mirroring(live, None, {"breaker": {"failures": 1}}) as run:
        endpoint = run.rig.gateway.clusters["pool"].endpoints[0]
        for count in range(8):
            assert (await run.rig.post()).status == 200
            await run.settled(failed=count + 1)
        assert endpoint.breaker.state is State.CLOSED
        assert endpoint.inflight == 0


async def test_copies_tell_no_latency() -> None:
    """Nor do successes count, which could hide failures of live requests."""
    async with mirroring([[ANSWER]], [[OTHER]]) as run:
        await run.rig.post()
        await run.settled(compared=1)
        endpoint = run.rig.gateway.clusters["other"].endpoints[0]
        assert endpoint.latency(False, run.rig.clock.now) == 0.0
        assert endpoint.member.counts(run.rig.clock.now) == (0, 0)


async def test_a_half_open_breaker_is_no_place_for_copies() -> None:
    """A copy that hangs there would keep the endpoint's return from being noticed."""
    async with mirroring([[ANSWER]], [[OTHER]], {"breaker": {"failures": 1}}) as run:
        now = run.rig.clock.now
        endpoint = run.rig.gateway.clusters["other"].endpoints[0]
        endpoint.finish(endpoint.start(now), Outcome.RETRYABLE, now)
        run.rig.pass_time(6.0)
        await run.rig.post()
        await run.settled(unavailable=1)
        assert endpoint.breaker.state is State.HALF_OPEN
        assert endpoint.available(run.rig.clock.now)
        assert not run.rig.others[0].requests


# What cannot be copied.


async def test_requests_with_effects_are_not_copied() -> None:
    """The engine would keep something twice."""
    async with mirroring([[response(b"{}")]], [[OTHER]]) as run:
        await run.rig.post({"model": "m", "input": "x", "store": True}, "/v1/responses")
        assert run.results == {"unfit": 1}
        await run.rig.post({"model": "m", "input": "x"}, "/v1/responses")
        await run.settled(unfit=1, compared=1)


async def test_bodies_that_still_come_are_not_copied() -> None:
    """They are gone once they are passed on."""
    async with mirroring([[ANSWER]], [[OTHER]]) as run:
        boundary = {"Content-Type": "multipart/form-data; boundary=b"}
        form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n'
        answer = await run.rig.post(form, "/v1/audio/transcriptions", boundary)
        assert answer.status == 200
        assert run.results == {"unfit": 1}


# Figures.


async def test_gauges_tell_what_is_under_way() -> None:
    """By policy."""
    async with mirroring([[ANSWER]], [[Then.HANG]]) as run:
        await run.rig.post()
        await run.rig.others[0].wait_requests(1)
        families = {family.name: family for family in run.mirrors.collect()}
        (sample,) = families["sluice_mirror_inflight"].samples
        assert (sample.labels, sample.value) == ({"policy": "shadow"}, 1)


@pytest.mark.parametrize(
    ("cluster", "caps", "capacity"),
    [
        (None, [None, None], float("inf")),
        (5, [None, None], 5),
        (None, [2, 2], 4),
        (5, [2, 2], 4),
        (3, [2, 2], 3),
        (None, [2, None], float("inf")),
    ],
)
def test_capacity(cluster: int | None, caps: list[int | None], capacity: float) -> None:
    """Whichever is less: the cluster's cap, or all endpoints' together."""
    pool = pool_of(2, max_inflight=cluster)
    for endpoint, cap in zip(pool.endpoints, caps, strict=True):
        endpoint.configure(1.0, cap)
    assert capacity_of(pool) == capacity


async def test_cut_live_answers_are_what_clients_see() -> None:
    """The tap passes on how an exchange is aborted, too."""
    cut = [response(b"x" * (2 << 20), length=(3 << 20)), Then.CLOSE]
    async with mirroring([cut], [[OTHER]]) as run:
        with pytest.raises(CutError):
            await run.rig.post()
        await run.settled(abandoned=1)

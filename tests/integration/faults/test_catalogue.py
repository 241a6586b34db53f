"""What a client of the official SDK gets when its provider fails, fault by fault.

Each fault in two layouts: *pool*, where a healthy endpoint stands beside the faulty one, and
*fallback*, where the model's one endpoint is faulty and another model stands in. The client must
get the whole answer as if nothing had happened: the exact text, one id, one role, one finish
reason, one usage that adds up. It must come in the time that the gateway's own timers allow, the
provider must not be asked too often, and the gateway must have counted what the provider saw.

One gateway serves all of it; each case has clusters, models and providers of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx
import pytest
import yaml
from openai import APIError, APIStatusError, BadRequestError, OpenAI
from prometheus_client.parser import text_string_to_metric_families

from tests.support.process import Served, sluice, until
from tests.support.provider import (
    ANSWER,
    HEALTHY,
    PROMPT_TOKENS,
    TOKENS,
    Fault,
    Provider,
    serving,
)

pytestmark = pytest.mark.integration

FIRST_TOKEN_S = 1.5
IDLE_S = 1.5
RECORDED_S = 30.0
"""How long the gateway and a provider may take to have noted what the client has heard."""
SLACK_S = 12.0
"""What a busy machine may add to the gateway's timers; two attempts' worth of them and more."""

CLUSTER: dict[str, Any] = {
    "balancer": "round_robin",  # The faulty endpoint is asked for one request of two.
    "slow_start_s": 0,
    "timeouts": {
        "connect_s": 10,  # Everybody can be reached: that a busy machine is late is no fault.
        "first_token_s": FIRST_TOKEN_S,
        "idle_s": IDLE_S,
        "total_s": 20,
    },
    "breaker": {"open_s": 0.5, "max_open_s": 1},
    "outliers": {"eject_s": 0.5, "max_eject_s": 1},
    # Probes of so many would be what the gateway and the providers spend their time with.
    "health": {"metrics_path": None, "timeout_s": 10, "interval_s": 20},
}


@dataclass(frozen=True)
class Case:
    """One entry of the catalogue."""

    name: str
    fault: Fault
    waits_s: float = 0.0
    """What the gateway's timers let pass before it goes elsewhere."""
    passed: bool = False
    """The fault needs no other endpoint: the faulty one's answer is whole."""
    resumed: str = ""
    """The mode in which the broken stream goes on elsewhere."""
    spare: Fault = HEALTHY
    """How the other endpoint is."""


LIMITED = {"message": "Slow down.", "type": "rate_limit_error", "param": None, "code": 429}
BROKEN = {"message": "CUDA error", "type": "InternalServerError", "param": None, "code": 500}
BUSY = {"message": "Overloaded.", "type": "ServiceUnavailableError", "param": None, "code": 503}

CATALOGUE = (
    Case("429-with-retry-after", Fault(429, ((b"retry-after", b"1"),), LIMITED), waits_s=2.0),
    Case("429-without", Fault(429, error=LIMITED)),
    Case("500-always", Fault(500, error=BROKEN)),
    Case("503-always", Fault(503, error=BUSY)),
    Case("reset-before-headers", Fault(reset=True)),
    Case("silence-before-headers", Fault(silent=True), waits_s=FIRST_TOKEN_S),
    Case("no-first-token", Fault(first_after_s=60), waits_s=FIRST_TOKEN_S),
    Case("slow-first-token", Fault(first_after_s=0.5), waits_s=0.5, passed=True),
    Case("cut-at-40", Fault(cut_at=40), resumed="continue"),
    Case("stall-after-20", Fault(stall_at=20), waits_s=IDLE_S, resumed="continue"),
    Case("malformed-tenth-event", Fault(malformed_at=9), resumed="continue"),
    Case("no-done", Fault(unmarked=True), passed=True),
    Case("rejected-prefix", Fault(cut_at=40), resumed="replay", spare=Fault(no_prefix=True)),
)

NEVER = {
    "breaker": {"failures": 1_000_000},
    "outliers": {"failures": 1_000_000, "min_requests": 1_000_000},
}
"""A faulty endpoint stays in the pool."""
FREE = {"budget_percent": 100, "budget_min_per_s": 1000}
MIXED = {
    **NEVER,
    "retries": FREE,
    # Eight clients and the providers share one process: a healthy one may be late.
    "timeouts": {**CLUSTER["timeouts"], "first_token_s": 3, "idle_s": 3, "total_s": 60},
}
PINGED = {"first_token_s": 3.0, "idle_s": 3.0}
"""Silence is looked for once a second; so long that a look falls into it even if one is late."""

HEALTHY_LATE = Fault(first_after_s=2.0)
BROKEN_LATE = Fault(500, error=BROKEN, first_after_s=1.5)
LATER_S = 10.0
LATER = Fault(first_after_s=LATER_S)


@dataclass(frozen=True)
class Race:
    """Two endpoints of which whichever is asked first has `first`, and the other one `second`."""

    name: str
    first: Fault
    second: Fault
    result: str
    least_s: float
    counted: frozenset[str]
    """The results of both attempts."""


RACES = (
    Race("second-is-quicker", LATER, HEALTHY, "won", 0, frozenset({"success", "cancelled"})),
    Race("first-is-quicker", HEALTHY_LATE, LATER, "lost", 1.5, frozenset({"success", "cancelled"})),
    Race(
        "first-fails",
        BROKEN_LATE,
        HEALTHY_LATE,
        "won",
        1.5,
        frozenset({"success", "upstream_error"}),
    ),
    Race(
        "second-fails",
        HEALTHY_LATE,
        BROKEN_LATE,
        "lost",
        1.5,
        frozenset({"success", "upstream_error"}),
    ),
)

FILTERED = {
    "message": "The response was filtered due to the prompt triggering the content policy.",
    "type": "invalid_request_error",
    "param": "prompt",
    "code": "content_filter",
    "status": 400,
    "innererror": {"code": "ResponsibleAIPolicyViolation"},
}
TOO_LONG = {
    "message": "This model's maximum context length is 64 tokens; the prompt contains 80.",
    "type": "BadRequestError",
    "param": "input_tokens",
    "code": 400,
}


@dataclass(frozen=True)
class Rig:
    """The providers by model, the faulty one first, and the gateway before them."""

    gateway: Served
    client: OpenAI
    """Told not to try again itself."""
    http: httpx.Client
    providers: dict[str, list[Provider]]
    spares: dict[str, str]
    """The fallback of each model that has one."""


class Plot:
    """The configuration in the making."""

    def __init__(self) -> None:
        self.clusters: dict[str, list[Provider]] = {}
        self.fallbacks: dict[str, str] = {}
        self.settings: dict[str, dict[str, Any]] = {}

    def pool(self, name: str, *providers: Provider, **more: Any) -> None:
        """Add a cluster and the model of the same name."""
        self.clusters[name] = list(providers)
        self.settings[name] = more

    def both(self, name: str, fault: Fault, spare: Fault, max_model_len: int = 4096) -> None:
        """Add both layouts."""
        self.pool(f"{name}-pool", provider(fault), provider(spare))
        self.chain(name, provider(fault), provider(spare, max_model_len))

    def chain(self, name: str, first: Provider, spare: Provider, **more: Any) -> None:
        """Add a model with one endpoint, and its fallback."""
        self.pool(f"{name}-fallback", first, **more)
        self.pool(f"{name}-spare", spare)
        self.fallbacks[f"{name}-fallback"] = f"{name}-spare"

    def config(self) -> str:
        """Write it."""
        return yaml.safe_dump(
            {
                # What else keeps the machine busy is not what is tested.
                "server": {
                    "host": "127.0.0.1",
                    "drain_delay_s": 0,
                    "admin": None,
                    "max_event_loop_lag_s": 60,
                },
                "clusters": {
                    name: {
                        **CLUSTER,
                        "endpoints": [{"url": one.url} for one in providers],
                        **self.settings[name],
                    }
                    for name, providers in self.clusters.items()
                },
                "models": {
                    name: {
                        "cluster": name,
                        "upstream_model": "m",
                        "fallbacks": [self.fallbacks[name]] if name in self.fallbacks else [],
                    }
                    for name in self.clusters
                },
                "logging": {"access": "off"},
            },
            sort_keys=False,
        )


def provider(fault: Fault = HEALTHY, max_model_len: int = 4096) -> Provider:
    one = Provider("m", max_model_len)
    one.fault = fault
    return one


def plotted() -> Plot:
    """Every case's clusters."""
    plot = Plot()
    for case in CATALOGUE:
        plot.both(case.name, case.fault, case.spare)
    plot.both("flap", HEALTHY, HEALTHY)
    for name, status, error in (("filtered", 400, FILTERED), ("too-long", 400, TOO_LONG)):
        plot.pool(f"{name}-pool", *[provider(Fault(status, error=error), 64) for _ in range(2)])
    plot.chain("filtered", provider(Fault(400, error=FILTERED)), provider())
    plot.chain("too-long", provider(Fault(400, error=TOO_LONG), 64), provider())
    too_long = Fault(400, error=TOO_LONG)
    plot.chain("no-longer", provider(too_long, 64), provider(HEALTHY, 64))
    plot.chain("filtered-midway", provider(Fault(filtered_at=5)), provider())
    plot.chain("all-broken", provider(Fault(503, error=BUSY)), provider(Fault(500, error=BROKEN)))
    plot.chain("diverged", provider(Fault(cut_at=40)), provider(DIVERGED))
    plot.chain("cut-at-the-end", provider(Fault(cut_at=60)), provider())
    pings = {**CLUSTER["timeouts"], **PINGED, "keepalive_s": 0.4}
    plot.chain("pinged", provider(Fault(silent=True)), provider(), timeouts=pings)
    plot.chain("stalled", provider(Fault(stall_at=20)), provider(), timeouts=pings)
    plot.pool("pinged-alone", provider(Fault(silent=True)), timeouts=pings)
    plot.pool("alone", provider())
    patient = {**CLUSTER["timeouts"], "first_token_s": 15, "idle_s": 15}
    for race in RACES:  # A pool each: the times of one race would be another's hedging delay.
        plot.pool(race.name, provider(), provider(), hedging={"enabled": True}, timeouts=patient)
    several = [provider(Fault(cut_every=20)), provider(Fault(cut_every=20)), provider()]
    plot.pool("two-cut", *several, balancer="p2c", **NEVER)
    for seed in MIXES:  # A pool each: what one mix taught the balancer is not the next one's.
        plot.pool(f"mixed-{seed}", *[provider() for _ in range(3)], **MIXED)
    plot.pool("hedged-alone", provider(), hedging={"enabled": True}, timeouts=patient)
    return plot


DIVERGED = Fault(no_prefix=True, says=ANSWER.replace("w05", "other"))


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The gateway, when it has found every endpoint healthy and knows what each of them serves."""
    plot = plotted()
    everyone = [one for providers in plot.clusters.values() for one in providers]
    file = tmp_path_factory.mktemp("catalogue") / "sluice.yaml"
    with ExitStack() as stack:
        stack.enter_context(serving(everyone))
        file.write_text(plot.config())
        gateway = stack.enter_context(sluice("-c", file))
        http = stack.enter_context(
            httpx.Client(base_url=gateway.url, trust_env=False, timeout=30.0)
        )

        def known() -> bool:
            health = http.get("/health").json()
            listed = http.get("/v1/models").json()["data"]
            return all(one["healthy"] for one in health["endpoints"]["list"]) and all(
                entry.get("max_model_len") for entry in listed
            )

        until(known, "every endpoint is known")
        client = OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0, timeout=60.0)
        yield Rig(gateway, stack.enter_context(client), http, plot.clusters, plot.fallbacks)


@dataclass
class Answer:
    """What the SDK gave."""

    text: str = ""
    ids: set[str] = field(default_factory=set)
    models: set[str] = field(default_factory=set)
    roles: int = 0
    finishes: list[str] = field(default_factory=list)
    usages: list[tuple[int, int, int]] = field(default_factory=list)
    error: APIError | None = None
    took_s: float = 0.0


def ask(rig: Rig, model: str, max_tokens: int = 100, **more: Any) -> Answer:
    """Stream one answer through the official SDK."""
    answer, began = Answer(), time.monotonic()
    try:
        for chunk in rig.client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "count"}],
            max_tokens=max_tokens,
            stream=True,
            stream_options={"include_usage": True},
            **more,
        ):
            note(answer, chunk)
    except APIError as error:
        answer.error = error
    answer.took_s = time.monotonic() - began
    return answer


def note(answer: Answer, chunk: Any) -> None:
    answer.ids.add(chunk.id)
    answer.models.add(chunk.model)
    for choice in chunk.choices:
        answer.text += choice.delta.content or ""
        answer.roles += choice.delta.role is not None
        if choice.finish_reason is not None:
            answer.finishes.append(choice.finish_reason)
    if chunk.usage is not None:
        usage = chunk.usage
        answer.usages.append((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens))


def assert_whole(answer: Answer) -> None:
    """As if nothing had happened."""
    assert answer.error is None
    assert answer.text == ANSWER
    assert answer.finishes == ["stop"]
    assert len(answer.ids) == 1
    assert answer.roles == 1
    total = PROMPT_TOKENS + len(TOKENS)
    assert answer.usages == [(PROMPT_TOKENS, len(TOKENS), total)]


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by the sample's name and labels."""

COUNTED = (
    "sluice_requests_total",
    "sluice_tokens_total",
    "sluice_upstream_attempts_total",
    "sluice_fallbacks_total",
    "sluice_hedges_total",
    "sluice_resumes_total",
    "sluice_inflight",
)
"""What the tests read; the histograms of so many models would take longer than the tests."""


def address(one: Provider) -> str:
    """Return the name that the gateway gives to an endpoint."""
    return f"127.0.0.1:{one.port}"


class Ledger:
    """What the gateway has counted, and the providers have seen, since this was made."""

    def __init__(self, rig: Rig, *clusters: str) -> None:
        self._rig = rig
        self._clusters = clusters
        self._counted = self._read()
        self._asked = {one.port: len(one.asked) - one.doubted for one in self.providers}

    @property
    def providers(self) -> list[Provider]:
        return [one for name in self._clusters for one in self._rig.providers[name]]

    def seen(self) -> dict[int, int]:
        """Attempts by the provider's port, as the providers see them."""
        return {
            one.port: len(one.asked) - one.doubted - self._asked[one.port] for one in self.providers
        }

    def counted(self, name: str, **labels: str) -> float:
        """How far a counter's samples with these labels have gone up."""
        return self._rise(self._read(), name, **labels)

    def assert_counted(self, wanted: float, name: str, **labels: str) -> None:
        """A counter has gone up by so much: it may, a moment after the client has its answer."""
        until(
            lambda: self.counted(name, **labels) >= wanted,
            f"{name} {labels} has gone up by {wanted:g}",
            RECORDED_S,
        )
        assert self.counted(name, **labels) == wanted

    def _rise(self, now: Samples, name: str, **labels: str) -> float:
        return sum(
            value - self._counted.get(key, 0)
            for key, value in now.items()
            if key[0] == name and labels.items() <= set(key[1])
        )

    def assert_attempts_agree(self) -> None:
        """The gateway has counted each request that a provider saw, and no other."""

        def agree() -> bool:
            now = self._read()
            attempts = {
                one.port: self._rise(now, "sluice_upstream_attempts_total", endpoint=address(one))
                for one in self.providers
            }
            return attempts == self.seen()

        until(agree, f"the attempts are {self.seen()}", RECORDED_S)

    def level(self, name: str) -> float:
        """Return the sum of a gauge's samples."""
        return sum(value for key, value in self._read().items() if key[0] == name)

    def _read(self) -> Samples:
        lines = self._rig.http.get("/metrics").text.splitlines(keepends=True)
        text = "".join(line for line in lines if line.startswith(COUNTED))
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.mark.parametrize("case", CATALOGUE, ids=lambda case: case.name)
def test_a_healthy_endpoint_beside_a_faulty_one_saves_the_answer(rig: Rig, case: Case) -> None:
    """Whichever of both is asked first."""
    model = f"{case.name}-pool"
    ledger = Ledger(rig, model)
    for _ in range(2):
        answer = ask(rig, model)

        assert_whole(answer)
        assert answer.models == {model}
        assert answer.took_s < case.waits_s + SLACK_S
    faulty, healthy = ledger.seen().values()
    assert 1 <= faulty <= 2
    assert faulty + healthy <= 6  # Three for each.
    ledger.assert_attempts_agree()
    ledger.assert_counted(2, "sluice_requests_total", model=model, outcome="success")
    ledger.assert_counted(2 * len(TOKENS), "sluice_tokens_total", model=model, kind="completion")
    assert_resumed(ledger, case, model)


@pytest.mark.parametrize("case", CATALOGUE, ids=lambda case: case.name)
def test_a_healthy_fallback_saves_the_answer(rig: Rig, case: Case) -> None:
    """Of a model whose one endpoint is faulty."""
    model, spare = f"{case.name}-fallback", f"{case.name}-spare"
    ledger = Ledger(rig, model, spare)

    answer = ask(rig, model)

    assert_whole(answer)
    # The one that gave it, or at least began it.
    assert answer.models == {model if case.passed or case.resumed else spare}
    assert answer.took_s < case.waits_s + SLACK_S
    faulty, healthy = ledger.seen().values()
    assert 1 <= faulty <= 3
    assert healthy == (0 if case.passed else 2 if case.spare.no_prefix else 1)
    ledger.assert_attempts_agree()
    ledger.assert_counted(1, "sluice_requests_total", model=model, outcome="success")
    ledger.assert_counted(len(TOKENS), "sluice_tokens_total", model=model, kind="completion")
    fell_back = 0 if case.passed or case.resumed else 1
    ledger.assert_counted(fell_back, "sluice_fallbacks_total", model=model, to=spare)
    assert_resumed(ledger, case, model, spare)


def assert_resumed(ledger: Ledger, case: Case, *clusters: str) -> None:
    """Streams went on elsewhere if they broke, in the mode that the other endpoint allows."""
    modes = {
        mode
        for mode in ("continue", "replay")
        for cluster in clusters
        if ledger.counted("sluice_resumes_total", cluster=cluster, mode=mode, result="resumed")
    }
    assert modes == set(case.resumed.split())


def test_an_end_without_its_mark_is_given_one(rig: Rig) -> None:
    """On the wire: the answer is whole, so that a client that waits for `[DONE]` gets it."""
    body = {"model": "no-done-fallback", "messages": [{"role": "user", "content": "count"}]}
    answer = rig.http.post("/v1/chat/completions", json={**body, "stream": True})

    assert answer.text.endswith("data: [DONE]\n\n")
    assert answer.text.count("[DONE]") == 1


@pytest.mark.parametrize("temperature", [0, 1])
def test_what_goes_on_elsewhere_has_the_tokens_that_are_left(rig: Rig, temperature: float) -> None:
    """A greedy answer is asked for again from its beginning; another one is gone on with."""
    ledger = Ledger(rig, "cut-at-40-fallback", "cut-at-40-spare")

    answer = ask(rig, "cut-at-40-fallback", temperature=temperature)

    assert_whole(answer)
    (spare,) = rig.providers["cut-at-40-spare"]
    asked = spare.asked[-1]
    assert asked.prefix == ("" if temperature == 0 else "".join(TOKENS[:40]))
    assert asked.body["max_tokens"] == (100 if temperature == 0 else 60)
    faulty, healthy = ledger.seen().values()
    assert 1 <= faulty <= 2  # It is given one more chance itself, if its breaker is closed.
    assert healthy == 1


@pytest.mark.parametrize(
    "fault", [Fault(500, error=BROKEN), Fault(503, error=BUSY)], ids=["500", "503"]
)
def test_a_failure_that_happens_once_is_tried_again_at_the_same_endpoint(
    rig: Rig, fault: Fault
) -> None:
    """Where there is no other."""
    ledger, alone = Ledger(rig, "alone"), rig.providers["alone"][0]
    first = len(alone.asked)
    alone.fault = lambda number: fault if number == first else HEALTHY

    answer = ask(rig, "alone")

    assert_whole(answer)
    assert answer.took_s < SLACK_S
    assert ledger.seen() == {alone.port: 2}
    ledger.assert_attempts_agree()


def test_an_endpoint_that_names_a_wait_is_waited_for(rig: Rig) -> None:
    """Where there is no other: its Retry-After passes, then it has the answer."""
    ledger, alone = Ledger(rig, "alone"), rig.providers["alone"][0]
    first = len(alone.asked)
    limited = Fault(429, ((b"retry-after", b"1"),), LIMITED)
    alone.fault = lambda number: limited if number == first else HEALTHY

    answer = ask(rig, "alone")

    assert_whole(answer)
    assert 1.0 <= answer.took_s < 1.0 + SLACK_S
    assert ledger.seen() == {alone.port: 2}
    ledger.assert_attempts_agree()


def test_a_wait_that_is_too_long_is_the_clients(rig: Rig) -> None:
    """The provider's own 429 with its Retry-After, at once, after one request."""
    ledger, alone = Ledger(rig, "alone"), rig.providers["alone"][0]
    alone.fault = Fault(429, ((b"retry-after", b"3600"),), LIMITED)

    answer = ask(rig, "alone")
    alone.fault = HEALTHY

    assert isinstance(answer.error, APIStatusError)
    assert answer.error.status_code == 429
    assert answer.error.response.headers["retry-after"] == "3600"
    assert answer.error.body == LIMITED
    assert answer.took_s < SLACK_S
    assert ledger.seen() == {alone.port: 1}
    ledger.assert_attempts_agree()


@pytest.mark.parametrize("model", ["filtered-pool", "filtered-fallback"])
def test_a_content_filter_is_the_providers_own_error(rig: Rig, model: str) -> None:
    """Word for word, after one request: nobody else is asked what one provider will not say."""
    ledger = Ledger(rig, model, *rig.spares.get(model, "").split())

    answer = ask(rig, model)

    assert isinstance(answer.error, BadRequestError)
    assert answer.error.body == FILTERED
    assert answer.error.code == "content_filter"
    assert sum(ledger.seen().values()) == 1
    ledger.assert_attempts_agree()


def test_a_content_filter_midway_is_how_the_answer_ends(rig: Rig) -> None:
    """It is a finish reason, and no failure to be made good."""
    ledger = Ledger(rig, "filtered-midway-fallback", "filtered-midway-spare")

    answer = ask(rig, "filtered-midway-fallback")

    assert answer.error is None
    assert answer.text == "".join(TOKENS[:5])
    assert answer.finishes == ["content_filter"]
    assert sum(ledger.seen().values()) == 1
    ledger.assert_attempts_agree()


def test_a_prompt_too_long_goes_to_a_model_with_more_room(rig: Rig) -> None:
    """By what both models' endpoints say of themselves."""
    ledger = Ledger(rig, "too-long-fallback", "too-long-spare")

    answer = ask(rig, "too-long-fallback")

    assert_whole(answer)
    assert answer.models == {"too-long-spare"}
    assert list(ledger.seen().values()) == [1, 1]
    ledger.assert_attempts_agree()


@pytest.mark.parametrize("model", ["too-long-pool", "no-longer-fallback"])
def test_a_prompt_too_long_for_all_is_the_providers_own_error(rig: Rig, model: str) -> None:
    """Replicas are equal, and a fallback with no more room need not be asked."""
    ledger = Ledger(rig, model, *rig.spares.get(model, "").split())

    answer = ask(rig, model)

    assert isinstance(answer.error, BadRequestError)
    assert answer.error.body == TOO_LONG
    assert sum(ledger.seen().values()) == 1
    ledger.assert_attempts_agree()


def test_a_client_that_leaves_on_the_end_mark_has_had_its_answer(rig: Rig) -> None:
    """The SDK closes its connection on `[DONE]`; engines end their response a moment later."""
    ledger, alone = Ledger(rig, "alone"), rig.providers["alone"][0]
    alone.fault = Fault(ends_after_s=1.0)

    answers = [ask(rig, "alone") for _ in range(3)]
    alone.fault = HEALTHY

    for answer in answers:
        assert_whole(answer)
    ledger.assert_attempts_agree()
    ledger.assert_counted(3, "sluice_requests_total", model="alone", outcome="success")


@pytest.mark.parametrize("name", ["pinged", "stalled"])
def test_a_client_that_waits_for_another_endpoint_is_told_that_it_lives(
    rig: Rig, name: str
) -> None:
    """Comments while one provider is silent, before its first token or after some; all between
    events, so that the SDK gets the whole answer and none of them."""
    assert_whole(ask(rig, f"{name}-fallback"))
    body = {"model": f"{name}-fallback", "messages": [{"role": "user", "content": "count"}]}

    began = time.monotonic()
    answer = rig.http.post("/v1/chat/completions", json={**body, "stream": True})
    took_s = time.monotonic() - began

    events = answer.text.split("\n\n")
    pings = events.count(": ping")
    assert 1 <= pings <= took_s + 1  # Silence is looked for once a second.
    assert answer.text.endswith("data: [DONE]\n\n")
    assert all(one.startswith("data: ") for one in events[:-1] if one != ": ping")
    assert len(events) == 1 + pings + 1 + len(TOKENS) + 1 + 1  # Role, tokens, finish, [DONE].


def test_after_a_sign_of_life_the_failure_is_an_event(rig: Rig) -> None:
    """The status has been 200 for long; the SDK raises for the error in the stream."""
    ledger = Ledger(rig, "pinged-alone")

    answer = ask(rig, "pinged-alone")

    assert isinstance(answer.error, APIError)
    assert not isinstance(answer.error, APIStatusError)
    assert answer.error.code == "upstream_timeout"
    assert answer.text == ""
    assert answer.took_s < PINGED["first_token_s"] + SLACK_S
    assert list(ledger.seen().values()) == [1]  # The same silent endpoint is not asked twice.
    ledger.assert_attempts_agree()


def test_a_stream_that_two_break_goes_on_with_the_third(rig: Rig) -> None:
    """And not once more with the first, which would use up the resumes."""
    ledger, asked = Ledger(rig, "two-cut"), 0
    while asked < 12 or min(ledger.seen().values()) < 3:
        assert_whole(ask(rig, "two-cut"))
        asked += 1
        assert asked < 100
    ledger.assert_attempts_agree()


MIXTURE = (
    *[case.fault for case in CATALOGUE],
    *[Fault(cut_at=at) for at in (0, 1, 59, 60)],
    *[Fault(stall_at=at) for at in (0, 60)],
    *[Fault(malformed_at=at) for at in (0, 59)],
    Fault(cut_at=30, no_prefix=True),
    Fault(no_prefix=True),
    HEALTHY,
)
MIXES = range(3)


@pytest.mark.parametrize("seed", MIXES)
def test_any_mix_of_faults_at_two_endpoints_of_three_is_the_third_ones_answer(
    rig: Rig, seed: int
) -> None:
    """Greedy and not, eight clients at once: each of them gets the whole answer."""
    model = f"mixed-{seed}"
    rng, providers = Random(seed), rig.providers[model]
    for one in providers[:2]:
        one.fault = lambda _: rng.choice(MIXTURE)
    ledger = Ledger(rig, model)
    with ThreadPoolExecutor(8) as threads:
        for answer in threads.map(
            lambda number: ask(rig, model, temperature=number % 2), range(60)
        ):
            assert_whole(answer)
    assert all(ledger.seen().values())
    ledger.assert_attempts_agree()
    ledger.assert_counted(60 * (PROMPT_TOKENS + 60), "sluice_tokens_total", model=model)


def test_when_all_fail_the_client_hears_it_once_and_soon(rig: Rig) -> None:
    """Of the first model's failure, and that trying again is no use; three attempts each."""
    ledger = Ledger(rig, "all-broken-fallback", "all-broken-spare")

    answer = ask(rig, "all-broken-fallback")

    assert isinstance(answer.error, APIStatusError)
    assert answer.error.status_code == 503
    assert answer.error.response.headers["x-should-retry"] == "false"
    assert answer.took_s < 2 + SLACK_S
    assert all(1 <= seen <= 3 for seen in ledger.seen().values())
    ledger.assert_attempts_agree()


def test_a_stream_that_nobody_can_go_on_with_ends_in_its_own_error(rig: Rig) -> None:
    """What had come, then the first provider's failure: not that another refused the prefix."""
    ledger = Ledger(rig, "diverged-fallback", "diverged-spare")

    answer = ask(rig, "diverged-fallback")

    assert answer.text == "".join(TOKENS[:40])
    assert answer.finishes == []
    assert answer.error is not None
    assert answer.error.type == "server_error"
    assert "prefill" not in answer.error.message
    assert answer.took_s < SLACK_S
    faulty, other = ledger.seen().values()
    assert faulty <= 2
    assert other == 2  # Once with the prefix, once without.
    ledger.assert_attempts_agree()
    model = "diverged-fallback"
    ledger.assert_counted(1, "sluice_requests_total", model=model, outcome="failure")


def test_a_stream_cut_after_the_last_token_that_was_asked_for_is_whole(rig: Rig) -> None:
    """Nobody is asked for the rest, since there is none: only how it ended had not come yet."""
    ledger = Ledger(rig, "cut-at-the-end-fallback", "cut-at-the-end-spare")

    answer = ask(rig, "cut-at-the-end-fallback", max_tokens=60)

    assert answer.error is None
    assert answer.text == ANSWER
    assert answer.finishes == ["length"]
    assert len(answer.ids) == 1
    assert list(ledger.seen().values()) == [1, 0]
    ledger.assert_attempts_agree()


@pytest.mark.parametrize("layout", ["pool", "fallback"])
def test_a_provider_that_flaps_is_left_and_found_again(rig: Rig, layout: str) -> None:
    """Up, down, up, down, up: every answer is whole, and the provider is used while it is up."""
    model = f"flap-{layout}"
    flapping = rig.providers[model][0]
    for fault in (Fault(503, error=BUSY), Fault(reset=True)):
        flapping.fault = fault
        before = len(flapping.asked)
        for _ in range(8):
            answer = ask(rig, model)
            assert_whole(answer)
            assert answer.took_s < SLACK_S
        assert len(flapping.asked) - before <= 3 * 8
        flapping.fault = HEALTHY

        def used(flapping: Provider = flapping) -> bool:
            before = len(flapping.asked)
            answer = ask(rig, model)
            assert_whole(answer)
            return answer.models == {model} and len(flapping.asked) == before + 1

        until(used, "the provider is asked again")


def warm(rig: Rig, model: str) -> None:
    """Show the gateway how quick a hedged cluster is, and leave it the reserve of its budget."""
    for _ in range(20):
        assert_whole(ask(rig, model))
    time.sleep(1.1)


@pytest.mark.parametrize("race", RACES, ids=lambda race: race.name)
def test_a_late_first_token_is_raced(rig: Rig, race: Race) -> None:
    """The quicker one's answer, the other one's end; and a failure counts as what it is."""
    warm(rig, race.name)
    turns = iter((race.first, race.second))
    for one in rig.providers[race.name]:
        one.fault = lambda _: next(turns, HEALTHY)
    ledger = Ledger(rig, race.name)

    answer = ask(rig, race.name)

    assert_whole(answer)
    assert race.least_s <= answer.took_s < LATER_S - 1
    assert list(ledger.seen().values()) == [1, 1]
    ledger.assert_attempts_agree()
    ledger.assert_counted(1, "sluice_hedges_total", cluster=race.name, result=race.result)
    for one in race.counted:
        ledger.assert_counted(1, "sluice_upstream_attempts_total", cluster=race.name, result=one)


def test_without_another_endpoint_nothing_is_raced_or_paid(rig: Rig) -> None:
    """Slow answers of the only endpoint leave the retry budget as it is."""
    warm(rig, "hedged-alone")
    (alone,) = rig.providers["hedged-alone"]
    alone.fault = Fault(first_after_s=0.3)
    with ThreadPoolExecutor(12) as threads:
        for answer in threads.map(lambda _: ask(rig, "hedged-alone"), range(12)):
            assert_whole(answer)
    ledger, first = Ledger(rig, "hedged-alone"), len(alone.asked)
    alone.fault = lambda number: Fault(500, error=BROKEN) if number < first + 2 else HEALTHY

    answer = ask(rig, "hedged-alone")

    assert_whole(answer)
    assert ledger.seen() == {alone.port: 3}
    ledger.assert_attempts_agree()


def test_nothing_is_left_behind(rig: Rig) -> None:
    """After all of these: no request in flight, no answer that nobody listens to."""
    everyone = [one for providers in rig.providers.values() for one in providers]
    ledger = Ledger(rig)

    until(lambda: not any(one.busy for one in everyone), "the providers are idle", RECORDED_S)
    until(lambda: ledger.level("sluice_inflight") == 0, "the gateway is idle", RECORDED_S)

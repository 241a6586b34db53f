"""An explanation says what the data path would do, and leaves no trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.policy import Policy
from gateway.dispatch.explanation import Explainer
from gateway.errors import GatewayError
from gateway.plan.classify import Classifier
from gateway.plan.compile import compile_table
from gateway.plan.explain import MAX_CHANGES, MAX_VALUE_CHARS, Explanation, changes
from gateway.wire.guard import Limits
from tests.support.engine import Script, response
from tests.support.policies import Steered, steered

ANSWER: Script = [response(b'{"id":"c","model":"b","choices":[]}')]
CHAT = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}
SPLIT: dict[str, Any] = {
    "match": {"models": ["a"]},
    "split": {
        "by": "session",
        "arms": [
            {"name": "old", "model": "a", "weight": 3},
            {"name": "new", "model": "b", "weight": 1},
        ],
    },
}


def explained(rig: Steered, body: Any = CHAT, path: str = "", **headers: str) -> Explanation:
    gateway = rig.gateway
    explainer = Explainer(lambda: gateway.table, lambda: rig.clock.now, Limits())
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = json.dumps(body).encode()
    return explainer.explain(asked, fields, *([path] if path else []))


async def test_without_policies_the_model_goes_its_own_way(tmp_path: Path) -> None:
    """Cluster, upstream name and endpoints with their scores; nothing is sent."""
    async with steered(tmp_path, {}, [], []) as rig:
        found = explained(rig)
        assert (found.policies, found.decision, found.mirror) == ([], None, None)
        assert found.way is not None
        assert (found.way.cluster, found.way.upstream_model, found.way.balancer) == (
            "a",
            "a",
            "p2c",
        )
        (score,) = found.way.endpoints
        assert (score.state, score.candidate, score.cost) == ("healthy", True, None)
        assert (found.refused, rig.served()) == (None, [0, 0])


async def test_predictions_are_explained_where_a_model_of_images_answers(tmp_path: Path) -> None:
    """By their JSON bodies; on another route, and of other bodies, there is nothing to explain."""
    policies = {"1": {"match": {"routes": ["predict"]}, "route": {"model": "b"}}}
    async with steered(tmp_path, policies, [], [], cluster={"kind": "vision"}) as rig:
        for path in ("/predict", ""):  # Unless told, what the model makes.
            found = explained(rig, {"model": "a", "inputs": {}}, path)
            assert (found.route, [one.why_not for one in found.policies]) == ("predict", [None])
        with pytest.raises(GatewayError, match="is a vision model"):
            explained(rig, path="/v1/chat/completions")
        with pytest.raises(GatewayError, match="Only requests with JSON bodies"):
            explained(rig, {"model": "a"}, "/predict", content_type="image/png")


async def test_a_policy_is_about_models_of_its_arms_kind(tmp_path: Path) -> None:
    """One for every model leaves those of the other kind alone."""
    policies = {"all": {"route": {"cluster": "b"}}}
    async with steered(tmp_path, policies, [], []) as rig:
        gateway = rig.gateway
        for name, owner in (("a", "sluice-vision"), ("b", "vllm")):
            cluster = gateway.clusters[name]
            cluster.spec = cluster.spec.model_copy(
                update={"kind": "vision" if owner == "sluice-vision" else "llm"}
            )
        gateway.live.recompile()
        junctions = [gateway.table.lookup(name).junction for name in "ab"]
        assert [junction is not None and len(junction.steering) for junction in junctions] == [0, 1]


async def test_each_rule_says_why_it_does_not_decide(tmp_path: Path) -> None:
    """In their order; those after the one that decides are not asked."""
    header = {"match": {"headers": [{"name": "x-team", "exact": "blue"}]}}
    policies = {
        "1": {"order": 1, **header, "route": {"model": "b"}},
        "2": {"order": 2, "match": {"routes": ["chat"]}, "route": {"cluster": "b"}},
        "3": {"order": 3, "match": {"percent": 50}, "route": {"cluster": "a"}},
    }
    async with steered(tmp_path, policies, [], []) as rig:
        found = explained(rig)
        assert [(one.policy, one.asked, one.why_not) for one in found.policies] == [
            ("1", True, "x-team is blue"),
            ("2", True, None),
            ("3", False, None),
        ]
        assert found.decision is not None and found.way is not None  # noqa: PT018 - narrows both
        assert (found.decision.policy, found.decision.arm) == ("2", "route")
        assert found.decision.key == "one arm has everything"
        assert (found.way.cluster, found.way.upstream_model) == ("b", "a")
        other = explained(rig, x_team="blue").decision
        assert other is not None
        assert other.policy == "1"


async def test_the_arm_is_the_one_that_the_request_gets(tmp_path: Path) -> None:
    """For every key; the key itself is nowhere in what is said."""
    async with steered(tmp_path, {"ab": SPLIT}, [ANSWER] * 30, [ANSWER] * 30) as rig:
        for number in range(30):
            name = f"secret-{number}"
            found = explained(rig, x_session_id=name)
            assert found.decision is not None
            before = rig.served()
            await rig.post(CHAT, fields={"X-Session-Id": name})
            moved = [now - was for now, was in zip(rig.served(), before, strict=True)]
            assert moved == ([1, 0] if found.decision.arm == "old" else [0, 1])
            assert name not in found.model_dump_json()
            assert found.decision.key == "given"
            assert found.decision.shares == {"old": 75, "new": 25}


@pytest.mark.parametrize(
    ("by", "missing", "said"),
    [
        ("request", "request", "each request is drawn by itself"),
        ("user", "request", "missing: the request's id takes its place"),
        ("user", "baseline", "missing: such requests go to the baseline"),
    ],
)
async def test_a_key_that_is_not_there(tmp_path: Path, by: str, missing: str, said: str) -> None:
    """Says what takes its place."""
    split = {**SPLIT, "split": {**SPLIT["split"], "by": by, "missing_key": missing}}
    async with steered(tmp_path, {"ab": split}, [], []) as rig:
        decision = explained(rig, x_request_id="r-1").decision
        assert decision is not None
        assert said in decision.key
        if missing == "baseline":
            assert decision.arm == "old"
        assert explained(rig, x_request_id="r-1").decision == decision


async def test_what_an_arm_changes_is_shown(tmp_path: Path) -> None:
    """Value by value, old and new; a message that is new shows alone."""
    override = {
        "temperature": 0.5,
        "system_prompt": "Be brief.",
        "body": {"chat_template_kwargs": {"a": 1}, "logprobs": None},
    }
    policies = {"r": {"route": {"cluster": "b", "override": override}}}
    async with steered(tmp_path, policies, [], []) as rig:
        found = explained(rig, {**CHAT, "temperature": 1, "logprobs": True})
        assert found.way is not None
        assert {change.path: (change.before, change.after) for change in found.way.changes} == {
            "messages[0]": ("", '{"role":"system","content":"Be brief."}'),
            "temperature": ("1", "0.5"),
            "logprobs": ("true", ""),
            "chat_template_kwargs": ("", '{"a":1}'),
        }


async def test_mirrors_are_asked_apart(tmp_path: Path) -> None:
    """The first that matches, whatever steers."""
    policies: dict[str, Any] = {
        "ab": SPLIT,
        "m1": {"match": {"routes": ["embeddings"]}, "mirror": {"to": {"cluster": "b"}}},
        "m2": {"mirror": {"to": {"cluster": "b", "upstream_model": "next"}}},
    }
    async with steered(tmp_path, policies, [], []) as rig:
        found = explained(rig)
        assert [one.why_not for one in found.mirrors] == ["route in embeddings", None]
        assert found.mirror is not None and found.mirror_way is not None  # noqa: PT018
        assert (found.mirror.policy, found.mirror.arm) == ("m2", "mirror")
        assert (found.mirror_way.cluster, found.mirror_way.upstream_model) == ("b", "next")


async def test_why_a_request_would_be_refused(tmp_path: Path) -> None:
    """Nobody to try, nobody at all, or nobody who serves the arm's model."""
    async with steered(tmp_path, {}, []) as rig:
        (endpoint,) = rig.gateway.clusters["a"].endpoints
        endpoint.drain()
        found = explained(rig)
        assert found.way is not None
        assert found.way.endpoints[0].state == "draining"
        assert "no endpoint may be tried now" in (found.refused or "")


async def test_an_arm_whose_model_nobody_lists(tmp_path: Path) -> None:
    """Discovered models may be gone."""
    policies = {"r": {"match": {"models": ["a"]}, "route": {"model": "b"}}}
    mirror = {"m": {"match": {"models": ["a"]}, "mirror": {"to": {"model": "b"}}}}
    async with steered(tmp_path, {**policies, **mirror}, [], []) as rig:
        live = rig.gateway.live
        fewer = {name: spec for name, spec in live.config.models.items() if name == "a"}
        config = live.config.model_copy(update={"models": fewer})
        live.table = compile_table(config, live.fleet.clusters, live.rules)
        found = explained(rig)
        assert (found.way, found.mirror_way) == (None, None)
        assert found.refused == "no_healthy_upstream: nobody serves the arm's model"


async def test_a_cluster_without_endpoints(tmp_path: Path) -> None:
    """Is said as such."""
    cluster = {"registration": True, "allow_empty": True}
    async with steered(tmp_path, {}, [], cluster=cluster) as rig:
        rig.gateway.clusters["a"].whole().endpoints = ()
        assert explained(rig).refused == "no_healthy_upstream: the cluster has no endpoint"


async def test_a_session_s_endpoint_is_named(tmp_path: Path) -> None:
    """Where the balancer keeps sessions together."""
    async with steered(tmp_path, {}, [], cluster={"balancer": "session"}) as rig:
        (endpoint,) = rig.gateway.clusters["a"].endpoints
        endpoint.whole.observe(0.5, rig.clock.now)
        found = explained(rig, x_session_id="s")
        assert found.way is not None
        assert found.way.affinity == endpoint.id
        assert (found.way.endpoints[0].latency_ms, found.way.endpoints[0].cost) == (500, 0.5)
        assert "affinity=None" in repr(explained(rig))


async def test_a_classifier_s_choice_is_not_counted(tmp_path: Path) -> None:
    """Label and failure are said; the count of failures stays."""
    arms = [{"name": "small", "model": "a"}, {"name": "large", "model": "b"}]
    spec = {"file": "none.onnx", "arms": arms, "default": "large"}
    policies = {"auto": {"match": {"models": ["a"]}, "classifier": spec}}
    async with steered(tmp_path, policies, [], []) as rig:
        found = explained(rig).decision
        assert found is not None
        assert (found.arm, found.label, found.shares) == ("large", "", {})
        assert found.failure
        live = rig.gateway.live
        assert live.classifiers["auto"].failures == 0
        policy = live.policies[0].policy
        assert isinstance(policy, Policy) and policy.classifier is not None  # noqa: PT018
        sure = Classifier(policy.classifier, lambda _: "small")
        live.table = compile_table(live.config, live.fleet.clusters, live.rules, {"auto": sure})
        found = explained(rig).decision
        assert found is not None
        assert (found.arm, found.label, found.failure) == ("small", "small", "")
        assert found.key == "the classifier looks at the request itself"


@pytest.mark.parametrize(
    ("body", "path", "code"),
    [
        ({"model": "nobody"}, "", "model_not_found"),
        ({"messages": []}, "", "invalid_request_error"),
        (CHAT, "/v1/audio/transcriptions", "invalid_request_error"),
        (CHAT, "/nope", "invalid_request_error"),
    ],
)
async def test_what_would_be_refused_is_refused(
    tmp_path: Path, body: Any, path: str, code: str
) -> None:
    """With the error that the client would get."""
    async with steered(tmp_path, {}, []) as rig:
        with pytest.raises(GatewayError) as caught:
            explained(rig, body, path)
        assert caught.value.code == code


async def test_headers_of_a_copied_request_do_no_harm(tmp_path: Path) -> None:
    """Framing says nothing here; other routes are explained as well."""
    async with steered(tmp_path, {}, []) as rig:
        found = explained(
            rig,
            {"model": "a", "input": "x"},
            "/v1/embeddings",
            Content_Length="7",
            Host="gateway",
            Transfer_Encoding="chunked",
            x_odd="ä€",
        )
        assert found.route == "embeddings"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=3), JSON), st.dictionaries(st.text(max_size=3), JSON))
def test_changes_are_there_exactly_where_the_texts_differ(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    """Each names a value of one text that is not the other's."""
    one, other = json.dumps(before).encode(), json.dumps(after).encode()
    found = changes(one, b" " + other)
    assert bool(found) is (json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True))
    assert all(change.before != change.after for change in found)


def test_long_values_and_many_changes_are_cut() -> None:
    """An explanation stays readable."""
    (change,) = changes(b'{"a":1}', b'{"a":"%b"}' % (b"x" * 5000))
    assert len(change.after) == MAX_VALUE_CHARS + 1
    many = json.dumps({str(number): 1 for number in range(500)}).encode()
    assert len(changes(b"{}", many)) == MAX_CHANGES


@pytest.mark.parametrize(
    ("before", "after", "paths"),
    [
        (b"[1,2,3]", b"[1,3]", ["x[1]"]),
        (b"[1,3]", b"[1,2,3]", ["x[1]"]),
        (b"[1,2]", b"[3,4,5]", ["x[0]", "x[1]", "x[0]", "x[1]", "x[2]"]),
        (b'[{"a":1},2]', b'[{"a":2},2]', ["x[0].a"]),
        (b"[]", b"[[]]", ["x[0]"]),
        (b"[1]", b"{}", ["x"]),
    ],
)
def test_elements_are_compared_between_what_is_the_same(
    before: bytes, after: bytes, paths: list[str]
) -> None:
    """At both ends."""
    found = changes(b'{"x":%b}' % before, b'{"x":%b}' % after)
    assert [change.path for change in found] == paths

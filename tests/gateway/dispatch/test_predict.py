"""Predictions are idempotent: what one endpoint refuses or fails at, another one answers."""

from __future__ import annotations

import json

import pytest

from tests.support.engine import Script, Then, response
from tests.support.failover import failover
from tests.support.rig import eventually

VISION = {"kind": "vision"}
IMAGE = b"\x89PNG" + bytes(500)
GOOD = response(b'{"predictions":[{"class":"7","confidence":0.9}],"model":"m"}')
FORM = (
    b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    b'--B\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + IMAGE
) + b"\r\n--B--\r\n"
BODIES: list[tuple[bytes, str, str]] = [
    (b'{"model":"m","inputs":{"image":"AAAA"}}', "/v1/predict", "application/json"),
    (FORM, "/v1/predict", "multipart/form-data; boundary=B"),
    (IMAGE, "/predict?model=m", "image/png"),
]


def refusal(status: bytes, code: str) -> bytes:
    error = {"message": "x", "type": "t", "param": None, "code": code}
    return response(json.dumps({"error": error}).encode(), status)


@pytest.mark.parametrize(("body", "path", "kind"), BODIES)
@pytest.mark.parametrize(
    ("first", "blamed"),
    [
        ([Then.CLOSE], True),
        ([refusal(b"500 Oops", "execution_failed")], True),
        ([refusal(b"429 Too Many Requests", "queue_full")], False),
        ([refusal(b"503 Service Unavailable", "model_not_ready")], False),
    ],
)
async def test_another_endpoint_answers(
    first: Script, blamed: bool, body: bytes, path: str, kind: str
) -> None:
    """With the same bytes; who was full or is still loading is not held responsible."""
    async with failover([first], [[GOOD]], cluster={**VISION, "breaker": {"failures": 1}}) as run:
        answer = await run.post(body, path, {"Content-Type": kind})
        assert (answer.status, answer.json["model"]) == (200, "m")
        assert run.asked == [1, 1]
        assert run.engines[1].requests[0].body == body
        endpoint = run.gateway.clusters["pool"].endpoints[0]
        assert (endpoint.breaker.state != "closed") is blamed


async def test_a_model_that_loads_does_not_use_up_the_retries() -> None:
    """An endpoint without it has done nothing: asking another one costs no retry of the budget."""
    spare = {"retries": {"budget_percent": 0, "budget_min_per_s": 0}}
    loading = refusal(b"503 Service Unavailable", "model_not_ready")
    async with failover([[loading]], [[GOOD]], cluster={**VISION, **spare}) as run:
        for _ in range(4):
            assert (await run.post(BODIES[0][0], "/predict")).status == 200
            run.pass_time(2.0)  # Its turn has come again.
        assert run.asked[0] > 1
        assert run.metric("sluice_retries_total", cause="unready") == run.asked[0]


async def test_what_is_wrong_with_the_request_is_told_as_the_endpoint_does() -> None:
    """Its 4xx passes unchanged, and nobody else is asked."""
    said = refusal(b"400 Bad Request", "invalid_image")
    async with failover([[said]], [[GOOD]], cluster=VISION) as run:
        answer = await run.post(BODIES[0][0], "/predict")
        assert (answer.status, answer.code) == (400, "invalid_image")
        assert run.asked == [1, 0]


async def test_when_all_are_full_the_client_hears_it_from_the_endpoint() -> None:
    """429, with the endpoint's own words."""
    full = refusal(b"429 Too Many Requests", "queue_full")
    async with failover([[full]], [[full]], cluster={**VISION, "retries": {"attempts": 2}}) as run:
        answer = await run.post(BODIES[0][0], "/predict")
        assert (answer.status, answer.code) == (429, "queue_full")
        assert run.asked == [1, 1]


async def test_an_alias_s_fallback_is_of_its_own_kind() -> None:
    """A language model does not answer for one of images, whoever wrote that it should."""
    models = {"digits": {"cluster": "pool", "fallbacks": ["o"]}}
    failing = [[response(b"{}", b"500 Oops")]]
    async with failover(failing, others=[[[GOOD]]], models=models) as run:
        pool, other = run.gateway.clusters["pool"], run.gateway.clusters["other"]
        await eventually(lambda: pool.models and other.models)
        pool.listed(pool.endpoints[0], [{"id": "digits", "owned_by": "sluice-vision"}])
        other.listed(other.endpoints[0], [{"id": "o", "owned_by": "vllm"}])
        run.gateway.live.recompile()
        answer = await run.post({"model": "digits", "inputs": {"image": "A"}}, "/predict")
        assert answer.status == 502
        assert run.others[0].requests == []

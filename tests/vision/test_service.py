"""How a request becomes predictions, and what is counted of it."""

import asyncio
from typing import Any

import numpy as np
import pytest

from tests.support.vision_api import FakeModel, Stage, stage
from vision.decoding import Decoded, Source, read_inputs
from vision.errors import (
    BadInput,
    DeadlineExceeded,
    ExecutionFailed,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    VisionError,
)
from vision.service import Answer, Query
from vision.telemetry import UNKNOWN
from vision.values import InferTensor

ROW = {"pixels": [[[1, 2], [3, 4]]]}


def query(inputs: Any, model: str = "m", **more: Any) -> Query:
    fields = {"version": None, "top_k": None, "deadline": None} | more
    return Query(model, sources=read_inputs(inputs, 64)[0], **fields)


async def outcomes(on: Stage, inputs: Any) -> dict[str, int]:
    await on.service.predict(query(inputs))
    return on.telemetry.series("m", 1).outcomes


async def test_the_newest_version_answers_and_the_lease_is_given_back() -> None:
    async with stage(FakeModel("m", 1), FakeModel("m", 2)) as on:
        answer = await on.service.predict(query(ROW))
        assert isinstance(answer, Answer)
        assert (answer.model, answer.version) == ("m", 2)
        assert (await on.service.predict(query(ROW, version=1))).version == 1
        assert on.models.leases == 0


async def test_items_of_a_request_are_offered_together() -> None:
    """All of them are in the queue before the first is answered, so that they make a batch."""
    model = FakeModel("m", 1)
    model.lane.gate = asyncio.Event()
    async with stage(model) as on, asyncio.TaskGroup() as group:
        asked = group.create_task(on.service.predict(query([ROW] * 5)))
        await model.lane.entered.wait()
        await asyncio.sleep(0)
        assert len(model.lane.asked) == 5
        model.lane.gate.set()
        assert len((await asked).results) == 5


async def test_a_bad_item_fails_alone() -> None:
    async with stage() as on:
        results = (await on.service.predict(query([ROW, {"other": 1}, ROW]))).results
    assert [isinstance(one, VisionError) for one in results] == [False, True, False]


async def test_a_heavy_reader_reads_off_the_loop() -> None:
    async with stage(FakeModel("m", 1, heavy=True)) as on:
        (result,) = (await on.service.predict(query(ROW))).results
    assert not isinstance(result, VisionError)


async def test_requests_are_counted_by_what_became_of_them() -> None:
    model = FakeModel("m", 1)
    async with stage(model) as on:
        assert await outcomes(on, ROW) == {"ok": 1}
        assert await outcomes(on, [ROW, {"other": 1}]) == {"ok": 2}
        assert await outcomes(on, {"other": 1}) == {"ok": 2, "invalid_tensor": 1}
        model.lane.error = QueueFull("full")
        assert (await outcomes(on, ROW))["queue_full"] == 1
        model.lane.error = RuntimeError()
        with pytest.raises(RuntimeError):
            await on.service.predict(query(ROW))
        assert on.telemetry.series("m", 1).outcomes["internal_error"] == 1


async def test_names_that_are_made_up_count_as_unknown() -> None:
    async with stage() as on:
        with pytest.raises(ModelNotFound):
            await on.service.predict(query(ROW, "made-up"))
        with pytest.raises(ModelNotFound):
            await on.service.infer("made-up", None, [], None)
        with pytest.raises(ModelNotReady):
            await on.service.predict(query(ROW, "asleep"))
        unknown = on.telemetry.series(UNKNOWN, "").outcomes
    assert unknown == {"model_not_found": 2, "model_not_ready": 1}


async def test_stages_are_timed_where_an_item_got_to_them() -> None:
    async with stage() as on:
        await on.service.predict(query([ROW, {"other": 1}]))
        series = on.telemetry.series("m", 1)
        counts = [sum(h.counts) for h in (series.decode, series.preprocess, series.postprocess)]
    assert counts == [1, 1, 1]


async def test_an_item_whose_outputs_cannot_be_told_fails_alone() -> None:
    """As one with a zero in it, of a model that takes the logarithm."""
    model = FakeModel("m", 1)
    told = model.postprocessor.read
    answers = iter([{"sums": np.zeros(2)}, {"sums": np.array([np.inf, 0])}, {"sums": np.zeros(2)}])
    model.postprocessor.read = lambda _, *rest: told(next(answers), *rest)
    async with stage(model) as on:
        results = (await on.service.predict(query([ROW] * 3))).results
        assert on.telemetry.series("m", 1).outcomes == {"ok": 1}
    assert [isinstance(one, VisionError) for one in results] == [False, True, False]
    assert isinstance(results[1], ExecutionFailed)


async def test_the_clients_time_bounds_the_wait_for_an_evicted_model() -> None:
    """Of a request that ends there is counted that it did."""
    async with stage() as on:
        await on.service.predict(query(ROW, deadline=7e9))
        await on.service.infer(
            "m", None, [InferTensor("pixels", "FP32", [1, 1, 2, 2], [0] * 4, "")], 8e9
        )
        assert on.models.deadlines == [7e9, 8e9]
        with pytest.raises(DeadlineExceeded):
            await on.service.predict(query(ROW, "waking", deadline=9e9))
        assert on.telemetry.series(UNKNOWN, "").outcomes == {"deadline_exceeded": 1}


class SlowFetches:
    """Stands for the decoder: an image that is fetched takes as long as it is let."""

    def __init__(self, error: VisionError | None = None) -> None:
        self.error = error

    async def rows(self, source: Source, *_: Any) -> Decoded:
        if self.error is not None:
            raise self.error
        await asyncio.Event().wait()
        raise AssertionError


URL = {"image": "https://example.com/a.png"}


@pytest.mark.parametrize(
    ("error", "code"), [(None, "deadline_exceeded"), (BadInput("x", code="url_failed"), None)]
)
async def test_a_fetch_ends_with_the_clients_time(error: Any, code: str | None) -> None:
    async with stage() as on:
        on.service._decoder = SlowFetches(error)  # type: ignore[assignment]  # all that is called
        (result,) = (await on.service.predict(query(URL, deadline=0.0))).results
        fetches = on.telemetry._fetches
    assert isinstance(result, DeadlineExceeded if error is None else BadInput)
    assert fetches == {code or "url_failed": 1}


async def test_infer_runs_tensors_as_they_are() -> None:
    async with stage() as on:
        with pytest.raises(BadInput):
            await on.service.infer("m", None, [], None)
        assert on.telemetry.series("m", 1).outcomes == {"invalid_tensor": 1}

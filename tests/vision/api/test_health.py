"""What `/health` and `/metrics` say."""

from tests.support.vision_api import FakeModel, stage
from vision.repository import Entry
from vision.versions import State


async def test_loading_then_ok_then_draining() -> None:
    times = iter([100.0, 101.5, 102.0, 103.0])
    async with stage(FakeModel("m", 1), FakeModel("m", 2), monotonic=lambda: next(times)) as on:
        on.models.up = False
        loading = await on.get("/health")
        on.models.up = True
        well = await on.get("/health")
        on.life.draining = True
        draining = await on.get("/health")
    assert (loading.status, loading.json()["status"]) == (503, "loading")
    assert (well.status, well.json()) == (
        200,
        {"status": "ok", "models_loaded": 1, "gpu_available": False, "uptime_seconds": 2.0},
    )
    assert (draining.status, draining.json()["status"]) == (503, "draining")


async def test_a_model_on_cuda_is_a_gpu_that_is_there() -> None:
    async with stage() as on:
        on.models.entries.append(Entry("g", 1, State.READY, "", "torch", "cuda:0"))
        assert (await on.get("/health")).json()["gpu_available"] is True


async def test_metrics_are_prometheus_text() -> None:
    async with stage() as on:
        reply = await on.get("/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain")
    assert b'sluice_vision_model_ready{model="m",version="1"} 1.0' in reply.body

"""The models in OpenAI's words, which the gateway's discovery reads."""

from tests.support.vision_api import FakeModel, stage
from vision.versions import Rest


async def test_the_list_has_each_model_once_by_name() -> None:
    async with stage(FakeModel("n", 1), FakeModel("m", 1), FakeModel("m", 2)) as on:
        on.models.rest("evicted", Rest.EVICTED)
        on.models.rest("broken", "its file is no model")  # type: ignore[arg-type]  # not at rest
        told = (await on.get("/v1/models")).json()
    assert told["object"] == "list"
    assert [one["id"] for one in told["data"]] == ["evicted", "m", "n"]
    assert told["data"][1] == {
        "id": "m",
        "object": "model",
        "created": 0,
        "owned_by": "sluice-vision",
    }


async def test_one_model() -> None:
    async with stage() as on:
        assert (await on.get("/v1/models/m")).json()["id"] == "m"
        lost = await on.get("/v1/models/x")
    assert (lost.status, lost.code) == (404, "model_not_found")

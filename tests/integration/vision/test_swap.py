"""A real service under concurrent requests, while its operator changes models: none may fail."""

import asyncio
import io
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.vision_service import MODELS, Service, digit, png, service, text

pytestmark = pytest.mark.integration

CLIENTS = 16
POLL = ("--poll-s", "0.1")


@dataclass
class Traffic:
    """What concurrent clients have been told."""

    url: str
    http: httpx.AsyncClient
    versions: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    over: bool = False

    async def client(self) -> None:
        """Ask again and again, like a client that does not retry."""
        image, label = large_digit()
        body = {"model": "digits", "inputs": {"image": text(image)}}
        while not self.over:
            try:
                answer = await self.http.post("/v1/predict", json=body)
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
                continue
            said = answer.json()
            if answer.status_code != 200 or said["predictions"][0]["class"] != label:
                self.failures.append(answer.text)
            else:
                self.versions[said["version"]] += 1

    async def until(self, true: Callable[[], Awaitable[bool]]) -> None:
        """Wait for a condition, while clients go on."""
        async with asyncio.timeout(30):
            while not await true():  # noqa: ASYNC110  what is waited for is in another process
                await asyncio.sleep(0.02)

    async def serves(self, version: str) -> None:
        """Wait until answers come from a version, and from no other."""

        async def only() -> bool:
            self.versions.clear()
            await asyncio.sleep(0.05)
            return set(self.versions) == {version}

        await self.until(only)

    async def index(self) -> dict[str, tuple[str, str]]:
        """State and reason of each version of `digits`."""
        entries = (await self.http.post("/v2/repository/index", json={})).json()
        return {
            one["version"]: (one["state"], one["reason"])
            for one in entries
            if one["name"] == "digits"
        }

    async def says(self, version: str, state: str, reason: str) -> None:
        """Wait until the index says so."""

        async def said() -> bool:
            found = (await self.index()).get(version, ("", ""))
            return found[0] == state and reason in found[1]

        await self.until(said)


@asynccontextmanager
async def traffic(running: Service):
    """Let clients ask; at the end none may have failed."""
    limits = httpx.Limits(max_connections=CLIENTS + 2)
    async with httpx.AsyncClient(
        base_url=running.url, trust_env=False, limits=limits, timeout=30
    ) as http:
        one = Traffic(running.url, http)
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(one.client())
            try:
                yield one
            finally:
                one.over = True
        assert one.failures == []


def large_digit() -> tuple[bytes, str]:
    """A digit whose decoding takes a thread and some ms, in which its version may be swapped."""
    image, label = digit(0)
    with Image.open(io.BytesIO(image)) as small:
        large = small.resize((640, 640), Image.Resampling.NEAREST)
    return png(np.asarray(large)), label


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A repository with version 1 of `digits` alone."""
    shutil.copytree(MODELS / "digits", tmp_path / "models/digits")
    return tmp_path / "models"


def move_in(models: Path, version: int, content: bytes) -> None:
    """Make a version beside the repository, and move it in by one rename."""
    fresh = models.parent / f"new-{version}"
    fresh.mkdir()
    (fresh / "model.onnx").write_bytes(content)
    fresh.rename(models / "digits" / str(version))


def weights(precision: str) -> bytes:
    return (MODELS / f"digits-{precision}" / "1/model.onnx").read_bytes()


async def test_versions_are_moved_in_and_out_without_a_failed_request(models: Path) -> None:
    with service(*POLL, repository=models) as running:
        async with traffic(running) as on:
            await on.serves("1")
            move_in(models, 2, weights("int8"))
            await on.serves("2")
            move_in(models, 3, weights("fp16"))
            await on.serves("3")
            (models / "digits/3").rename(models.parent / "away")
            await on.serves("2")  # A rollback.
            assert (await on.index())["2"] == ("READY", "")


async def test_a_broken_version_fails_nobody_and_the_index_says_why(models: Path) -> None:
    with service(*POLL, repository=models) as running:
        async with traffic(running) as on:
            move_in(models, 2, weights("int8")[:-1000])
            await on.says("2", "UNAVAILABLE", f"{models}/digits/2/model.onnx: ")
            (models / "digits/3").mkdir()
            (models / "digits/3/model.pt").write_bytes(b"a pickle")
            await on.says("3", "UNAVAILABLE", "pickled files can run any code")
            move_in(models, 4, weights("int8"))
            config = models / "digits/config.yaml"
            config.write_text(f"{config.read_text()}\nbatching: {{max_batch: 0}}\n")
            await on.says("1", "READY", "config.yaml: line ")
            await on.serves("1")


async def test_files_replaced_in_place_are_taken_up_without_a_failed_request(models: Path) -> None:
    with service(*POLL, repository=models) as running:
        async with traffic(running) as on:
            await on.serves("1")
            config = models / "digits/config.yaml"
            config.write_text(config.read_text().replace("top_k: 3", "top_k: 2"))
            body = {"model": "digits", "inputs": {"image": text(digit(0)[0])}}

            async def two() -> bool:
                answer = await on.http.post("/v1/predict", json=body)
                return len(answer.json()["predictions"]) == 2

            await on.until(two)
            file = models / "digits/1/model.onnx"
            file.write_bytes(weights("int8")[:100])
            await on.says("1", "READY", "its files changed since")
            file.write_bytes(weights("int8"))
            await on.says("1", "READY", "")
            await on.until(lambda: _equals(on.index(), {"1": ("READY", "")}))


async def _equals(call: Awaitable[object], wanted: object) -> bool:
    return await call == wanted


async def test_by_request_a_version_is_swapped_without_a_failed_request(models: Path) -> None:
    explicit = ("--control", "explicit", "--load", "digits")
    with service(*explicit, repository=models) as running:
        async with traffic(running) as on:
            await on.serves("1")
            for version, content in ((2, weights("int8")), (3, weights("fp16"))):
                move_in(models, version, content)
                loaded = await on.http.post("/v2/repository/models/digits/load", json={})
                assert loaded.status_code == 200
                await on.serves(str(version))
            move_in(models, 4, b"nothing of the kind")
            refused = await on.http.post("/v2/repository/models/digits/load", json={})
            assert refused.status_code == 400
            assert "digits/4/model.onnx" in refused.text
            await on.serves("3")

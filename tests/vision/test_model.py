"""What `vision.model` promises: a version that answers, or a reason that names the file."""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.onnx_models import write, write_digits
from tests.support.vision_repository import until
from vision.errors import LoadError, ModelNotReady
from vision.lane import Lane
from vision.listing import Folder
from vision.model import Model, load
from vision.repository import Control, Repository, RepositorySettings
from vision.runtime import registry

DIGITS = """\
inputs: [{name: image, shape: [1, 8, 8]}]
preprocessing: {color: gray, resize: {size: [8, 8]}}
postprocessing: {kind: classification, labels: labels.txt, top_k: 3}
batching: {max_batch: 4, preferred: [2]}
"""


class Silent:
    """An observer that keeps nothing."""

    def started(self, rows: int, queued_s: Sequence[float]) -> None: ...

    def executed(self, rows: int, execute_s: float) -> None: ...

    def waiting(self, rows: int) -> None: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with one model, `m`, of the shipped model's shape."""
    write_digits(tmp_path / "m/1/model.onnx")
    (tmp_path / "m/labels.txt").write_text("".join(f"{n}\n" for n in range(10)))
    configure(tmp_path)
    return tmp_path


def configure(folder: Path, *more: str, base: str = DIGITS) -> None:
    (folder / "m/config.yaml").write_text(base + "\n".join(more))


async def off_loop(call: Callable[[], object]) -> object:
    return await asyncio.to_thread(call)


async def open_model(folder: Path) -> Model:
    found = Folder(folder).look()["m"].versions[1]
    assert found.problem is None
    return await load("m", found, Silent(), off_loop)


async def refusal(folder: Path) -> str:
    with pytest.raises(LoadError) as caught:
        await open_model(folder)
    for thread in threading.enumerate():
        if thread.name == "instance":
            thread.join(5)
            assert not thread.is_alive()
    return str(caught.value).replace(str(folder), "models")


async def test_a_version_is_loaded_with_all_that_belongs_to_it(folder: Path) -> None:
    model = await open_model(folder)
    assert (model.name, model.version, model.runtime, model.device) == ("m", 1, "onnx", "cpu")
    assert [spec.shape for spec in model.inputs] == [(1, 8, 8)]
    assert [spec.shape for spec in model.outputs] == [(10,)]
    assert model.labels == tuple("0123456789")
    assert model.memory_bytes == (folder / "m/1/model.onnx").stat().st_size
    assert model.config.batching.max_batch == 4
    assert model.preprocessor is not None
    assert model.idle
    row, geometry = model.preprocessor.row(Image.new("RGB", (30, 20)))
    outputs = await model.lane.infer({"image": row[np.newaxis]})
    answer = model.postprocessor.read({"logits": outputs["logits"][0]}, geometry, None)
    assert len(answer) == 3
    await model.close()
    with pytest.raises(ModelNotReady):
        await model.lane.infer({"image": row[np.newaxis]})


async def test_a_model_without_a_config_takes_tensors_only(folder: Path) -> None:
    (folder / "m/config.yaml").unlink()
    model = await open_model(folder)
    assert (model.preprocessor, model.labels) == (None, None)
    assert model.outputs[0].name == "logits"
    await model.close()


@pytest.mark.parametrize(
    ("more", "sizes", "runs"),
    [("", [1, 2, 4], 1), ("warmup: {runs: 3}", [1, 2, 4], 3), ("warmup: {runs: 0}", None, 0)],
)
async def test_every_size_is_run_before_it_serves(
    folder: Path, monkeypatch, more: str, sizes: list[int] | None, runs: int
) -> None:
    configure(folder, more)
    seen = await warmed(folder, monkeypatch)
    assert [(one[0], one[2]) for one in seen] == ([] if sizes is None else [(sizes, runs)])
    assert all(one[1]["image"].shape == (1, 1, 8, 8) for one in seen)
    assert all(not one[1]["image"].any() for one in seen)


async def warmed(folder: Path, monkeypatch) -> list[tuple]:
    seen: list[tuple] = []
    real = Lane.warm

    async def warm(lane: Lane, sizes, row, runs) -> None:
        seen.append((sizes, row, runs))
        await real(lane, sizes, row, runs)

    monkeypatch.setattr(Lane, "warm", warm)
    await (await open_model(folder)).close()
    return seen


async def test_samples_are_what_the_warm_up_runs_on(folder: Path, monkeypatch) -> None:
    for name, grey in [("a.png", 255), ("b.png", 51)]:
        Image.new("L", (16, 16), grey).save(folder / "m" / name)
    configure(folder, "warmup: {samples: [a.png, b.png]}")
    seen = await warmed(folder, monkeypatch)
    assert [one[1]["image"].max() for one in seen] == pytest.approx([1.0, 0.2])


async def test_sizes_that_may_be_any_are_warmed_up_with_one(tmp_path: Path, monkeypatch) -> None:
    import onnx  # noqa: PLC0415  writing a model takes what serving one does not

    write(
        tmp_path / "m/1/model.onnx",
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        {"x": ["n", "h", 3]},
        {"y": ["n", "h", 3]},
    )
    seen = await warmed(tmp_path, monkeypatch)
    assert seen[0][1]["x"].shape == (1, 1, 3)


async def test_a_pinned_file_is_loaded_only_with_its_hash(folder: Path) -> None:
    file = folder / "m/1/model.onnx"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    configure(folder, f"sha256: {{1/model.onnx: {digest.upper()}}}")
    await (await open_model(folder)).close()
    configure(folder, f"sha256: {{1/model.onnx: {'f' * 64}}}")
    said = f"its SHA-256 is {digest}, not the {'f' * 64} that is pinned"
    assert await refusal(folder) == f"models/m/1/model.onnx: {said}"


async def test_where_one_model_file_is_pinned_all_are(folder: Path) -> None:
    (folder / "m/1/model.plan").write_bytes(b"put here by somebody else")
    digest = hashlib.sha256((folder / "m/1/model.onnx").read_bytes()).hexdigest()
    configure(folder, f"sha256: {{1/model.onnx: {digest}}}")
    assert (await refusal(folder)).startswith("models/m/1/model.plan: has no pinned hash")
    configure(folder, "runtimes: [onnx]", f"sha256: {{1/model.onnx: {digest}}}")
    await (await open_model(folder)).close()


async def test_weights_beside_the_model_are_pinned_like_it(folder: Path) -> None:
    digest = hashlib.sha256((folder / "m/1/model.onnx").read_bytes()).hexdigest()
    weights = folder / "m/1/model.onnx.data"
    pins = f"sha256: {{1/model.onnx: {digest}, 1/model.onnx.data: {'f' * 64}}}"
    configure(folder, pins)
    assert await refusal(folder) == "models/m/1/model.onnx.data: is pinned, but it is not there"
    weights.write_bytes(b"other weights")
    assert (await refusal(folder)).startswith("models/m/1/model.onnx.data: its SHA-256 is")


@pytest.mark.parametrize(
    ("base", "said"),
    [
        (DIGITS.replace("name: image", "name: pixels"), "models/m/1/model.onnx: "),
        (DIGITS.replace("[1, 8, 8]", "[3, 8, 8]"), "models/m/1/model.onnx: "),
        (
            DIGITS.replace("{color", "{input: pixels, color"),
            "models/m/config.yaml: preprocessing.input: no input is called pixels; it has image",
        ),
        (DIGITS.replace("gray", "rgb"), "models/m/config.yaml: preprocessing: "),
        (DIGITS.replace("size: [8", "size: [9"), "models/m/config.yaml: preprocessing: "),
        (
            DIGITS.replace("classification,", "classification, output: boxes,"),
            "models/m/config.yaml: postprocessing",
        ),
        (DIGITS.replace("labels.txt", "names.txt"), "models/m/names.txt: "),
        (
            "warmup: {samples: [labels.txt]}",
            "models/m/config.yaml: warmup.samples: images need `preprocessing`",
        ),
        (DIGITS + "warmup: {samples: [a.png]}", "models/m/a.png: is no sample for the warm-up: "),
        (
            DIGITS + "warmup: {samples: [labels.txt]}",
            "models/m/labels.txt: is no sample for the warm-up: ",
        ),
    ],
)
async def test_what_does_not_fit_together_is_said_by_file(
    folder: Path, base: str, said: str
) -> None:
    configure(folder, base=base)
    assert (await refusal(folder)).startswith(said)


async def test_labels_have_to_be_as_many_as_classes(folder: Path) -> None:
    (folder / "m/labels.txt").write_text("a\nb\n")
    said = await refusal(folder)
    assert said.startswith("models/m/config.yaml: ")
    assert "2" in said
    assert "10" in said


async def test_a_broken_file_says_what_its_runtime_says(folder: Path) -> None:
    (folder / "m/1/model.onnx").write_bytes(b"nothing of the kind")
    assert (await refusal(folder)).startswith("models/m/1/model.onnx: ")


async def test_a_warm_up_that_fails_is_a_load_that_fails(folder: Path, monkeypatch) -> None:
    async def warm(*_: object) -> None:
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setattr(Lane, "warm", warm)
    assert await refusal(folder) == "models/m/1: the warm-up failed: no kernel for this"


async def test_files_that_change_while_they_are_loaded_are_not_served(
    folder: Path, monkeypatch
) -> None:
    real = registry.load

    def slow(*args: object) -> object:
        loaded = real(*args)
        with (folder / "m/1/model.onnx").open("ab") as stream:
            stream.write(b"more")
        return loaded

    monkeypatch.setattr(registry, "load", slow)
    assert await refusal(folder) == "models/m/1: its files changed while they were loaded"


async def test_real_versions_are_swapped_under_load(folder: Path) -> None:
    """ONNX Runtime, real lanes: each answer is one version's, and none fails."""
    loaded: list[int] = []
    repository = Repository(
        folder,
        RepositorySettings(Control.POLL, poll_s=3600),
        lambda name, version: Silent(),
        on_event=lambda event: loaded.append(event.version),
    )
    row = {"image": np.ones((1, 1, 8, 8), np.float32)}
    await repository.start()
    await repository.up()
    by_version: dict[int, set[bytes]] = {}

    async def client() -> None:
        while 3 not in by_version:
            async with repository.lease("m") as model:
                answer = await model.lane.infer(row)
                by_version.setdefault(model.version, set()).add(answer["logits"].tobytes())

    async def operator() -> None:
        for version in (2, 3):
            fresh = write_digits(folder / f".new-{version}/model.onnx", seed=version)
            fresh.parent.rename(folder / "m" / str(version))
            await repository.poll()
            await repository.poll()
            await until(lambda wanted=version: wanted in by_version)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(client())
        group.create_task(operator())
    await repository.close()
    answers = [answer for several in by_version.values() for answer in several]
    assert sorted(by_version) == [1, 2, 3]
    assert len(answers) == len(set(answers)) >= 3


async def test_a_reason_that_the_runtime_gives_itself_stays_as_it_is(folder, monkeypatch) -> None:
    async def start(_: Lane) -> None:
        raise LoadError("no memory on cuda:1")

    monkeypatch.setattr(Lane, "start", start)
    assert await refusal(folder) == "no memory on cuda:1"


async def test_a_pinned_file_that_cannot_be_read_says_why(folder: Path, monkeypatch) -> None:
    configure(folder, f"sha256: {{1/model.onnx: {'f' * 64}}}")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    assert await refusal(folder) == "models/m/1/model.onnx: cannot be read: Permission denied"

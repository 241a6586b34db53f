"""What `vision.listing` promises: only models, only safe files, and each change is seen."""

import os
from pathlib import Path

import pytest

from tests.support.vision_repository import put, rewrite
from vision.config import ModelConfig, Versions
from vision.configs import read_file
from vision.errors import OperatorError
from vision.listing import Folder, Listed, restamp
from vision.versions import Found


def look(folder: Path) -> dict[str, Listed]:
    return Folder(folder).look()


def one(folder: Path, version: int = 1) -> Found:
    return look(folder)["m"].versions[version]


def configure(folder: Path, text: str, version: str = "") -> None:
    (folder / "m" / version / "config.yaml").write_text(text)


def test_models_and_versions_are_found_by_their_names(tmp_path: Path, caplog) -> None:
    for name in ("digits", "a.b-c_d", "0"):
        put(tmp_path, name, 1)
    put(tmp_path, "digits", 12)
    for name in (".git", "-x", "white space", "é"):
        (tmp_path / name).mkdir()
    for name in ("01", "0", "1.5", "x", "-1", "latest", ".3", "9" * 19):
        (tmp_path / "digits" / name).mkdir()
    (tmp_path / "README.md").touch()
    (tmp_path / "digits/7").touch()
    folder = Folder(tmp_path)
    found = folder.look()
    assert {name: set(each.versions) for name, each in found.items()} == {
        "0": {1},
        "a.b-c_d": {1},
        "digits": {1, 12},
    }
    folder.look()
    warned = [record.args[0] for record in caplog.records]
    assert warned == ["-x", "white space", "é"]  # Once each.


def test_a_model_without_versions_is_warned_of_once_and_not_while_it_is_copied(
    tmp_path: Path, caplog
) -> None:
    (tmp_path / "early").mkdir()
    folder = Folder(tmp_path)
    folder.look()
    assert [record.args[0] for record in caplog.records] == ["early"]
    (tmp_path / "copied").mkdir()
    (tmp_path / "late").mkdir()
    folder.look()
    assert len(caplog.records) == 1
    put(tmp_path, "copied", 1)
    folder.look()
    folder.look()
    assert [record.args[0] for record in caplog.records] == ["early", "late"]
    assert "'late' in " in caplog.text
    assert "has no version folder (1, 2, …)" in caplog.text


def test_a_folder_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="nothing: No such file or directory"):
        look(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="file: Not a directory"):
        look(tmp_path / "file")


def test_kubernetes_volumes_are_links_and_are_followed(tmp_path: Path) -> None:
    real = put(tmp_path / "elsewhere", "m", 1)
    volume = tmp_path / "models"
    (volume / "m").mkdir(parents=True)
    (volume / "m/..data").symlink_to(real.parent, target_is_directory=True)
    (volume / "m/1").symlink_to("..data/1", target_is_directory=True)
    assert one(volume).model_files == ("model.onnx",)
    put(tmp_path / "other", "m", 1)
    before = one(volume)
    (volume / "m/..data").unlink()
    (volume / "m/..data").symlink_to(tmp_path / "other/m", target_is_directory=True)
    assert one(volume) != before


def test_a_link_to_nowhere_is_no_model(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    (tmp_path / "m/1/model.onnx").unlink()
    (tmp_path / "m/1/model.onnx").symlink_to("nowhere")
    assert (
        one(tmp_path).problem == f"{tmp_path}/m/1 holds none of model.plan, model.onnx, model.pt2"
    )


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "weights.pkl", "model.ckpt"])
def test_pickled_files_are_never_opened_and_the_reason_says_how_to_export(
    tmp_path: Path, name: str
) -> None:
    version = put(tmp_path, "m", 1)
    (version / "model.onnx").rename(version / name)
    problem = one(tmp_path).problem
    assert problem is not None
    assert problem.startswith(f"{version / name} is not opened: pickled files can run any code.")
    assert "torch.export.save" in problem
    (version / "model.onnx").touch()
    assert one(tmp_path).problem is None  # It is not in the way of a file that is safe.
    assert one(tmp_path).model_files == ("model.onnx",)


def test_the_files_are_those_of_the_runtimes_in_their_order(tmp_path: Path) -> None:
    version = put(tmp_path, "m", 1)
    (version / "model.pt2").touch()
    configure(tmp_path, "runtimes: [torch, onnx, torch]")
    assert one(tmp_path).model_files == ("model.pt2", "model.onnx")
    configure(tmp_path, "runtimes: [tensorrt]")
    said = "holds model.onnx, model.pt2, but `runtimes` names tensorrt only"
    assert one(tmp_path).problem == f"{version} {said}"


def test_a_broken_config_is_the_problem_of_each_version_that_it_holds_for(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    put(tmp_path, "m", 2)
    configure(tmp_path, "batching: 3")
    configure(tmp_path, "", "2")
    listed = look(tmp_path)["m"]
    said = f"{tmp_path}/m/config.yaml: line 1: batching: must be a mapping"
    assert listed.policy is None
    assert str(listed.problem).startswith(said)
    assert str(listed.versions[1].problem).startswith(said)
    assert listed.versions[2].problem is None


def test_the_policy_is_the_models_and_no_part_of_a_version(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    put(tmp_path, "m", 2)
    before = one(tmp_path)
    pins = "".join(f"  {n}/model.onnx: '{str(n) * 64}'\n" for n in (1, 2))
    configure(tmp_path, f"versions: {{count: 2}}\nsha256:\n{pins}")
    listed = look(tmp_path)["m"]
    assert listed.policy == Versions(count=2)
    assert listed.versions[1].config == ModelConfig(sha256={"1/model.onnx": "1" * 64})
    assert listed.versions[1] != before
    configure(tmp_path, f"versions: {{count: 1}}\nsha256:\n{pins.splitlines()[0]}\n")
    assert one(tmp_path) == listed.versions[1]  # Neither the policy nor the other's pin is its own.


@pytest.mark.parametrize("path", ["../labels.txt", "/etc/passwd", "a/../../b", '"a\\0b"'])
def test_labels_and_samples_lie_below_the_config(tmp_path: Path, path: str) -> None:
    put(tmp_path, "m", 1)
    configure(tmp_path, f"postprocessing: {{kind: classification, labels: {path}}}")
    said = "has to lie in the same folder or below"
    assert one(tmp_path).problem == f"{tmp_path}/m/config.yaml: postprocessing.labels: {said}"
    configure(tmp_path, f"warmup: {{samples: [a.png, {path}]}}")
    assert one(tmp_path).problem == f"{tmp_path}/m/config.yaml: warmup.samples[1]: {said}"


def test_each_change_of_what_a_version_is_made_of_is_seen(tmp_path: Path) -> None:
    version = put(tmp_path, "m", 1)
    (tmp_path / "m/l.txt").write_text("a")
    (tmp_path / "m/s.png").write_text("a")
    configure(
        tmp_path,
        "postprocessing: {kind: detection, labels: l.txt}\nwarmup: {samples: [s.png]}",
    )
    folder, seen = Folder(tmp_path), []

    def changed() -> bool:
        found = folder.look()["m"].versions[1]
        assert restamp(found) == found.files
        new = found not in seen
        seen.append(found)
        return new

    assert changed()
    assert not changed()
    rewrite(version / "model.onnx", b"Weights")  # The same size.
    assert changed()
    old = (version / "model.onnx").stat()
    (version / "new").write_bytes(b"WEIGHTS")
    os.utime(version / "new", ns=(old.st_atime_ns, old.st_mtime_ns))
    (version / "new").rename(version / "model.onnx")  # The same size and time.
    assert changed()
    (version / "model.onnx.data").write_bytes(b"external weights")
    assert changed()
    rewrite(tmp_path / "m/l.txt", b"b")
    assert changed()
    rewrite(tmp_path / "m/s.png", b"b")
    assert changed()
    (tmp_path / "m/s.png").unlink()
    assert changed()
    configure(tmp_path, "postprocessing: {kind: detection, labels: l.txt}")
    assert changed()
    for name in (".model.onnx.swp", "model.onnx~"):
        (version / name).touch()
        assert not changed()
    (tmp_path / "m/unrelated.md").touch()
    configure(tmp_path, "# Said otherwise\npostprocessing: {labels: l.txt, kind: detection}")
    assert not changed()


def test_labels_count_from_the_config_in_force(tmp_path: Path) -> None:
    put(tmp_path, "m", 1)
    assert one(tmp_path).base == tmp_path / "m"
    configure(tmp_path, "")
    assert one(tmp_path).base == tmp_path / "m"
    configure(tmp_path, "", "1")
    assert one(tmp_path).base == tmp_path / "m/1"


def test_a_version_that_goes_while_it_is_looked_at_is_none(tmp_path: Path, monkeypatch) -> None:
    version = put(tmp_path, "m", 1)
    real = Path.iterdir

    def vanish(path: Path):
        if path == version:
            raise FileNotFoundError(2, "No such file or directory")
        return real(path)

    monkeypatch.setattr(Path, "iterdir", vanish)
    assert "holds none of" in str(one(tmp_path).problem)


@pytest.mark.parametrize("unreadable", ["m", "m/1"])
def test_a_model_that_cannot_be_read_has_not_gone(
    tmp_path: Path, monkeypatch, caplog, unreadable: str
) -> None:
    put(tmp_path, "m", 1)
    put(tmp_path, "other", 1)
    folder = Folder(tmp_path)
    before = folder.look()
    real = Path.iterdir

    def stale(path: Path):
        if path == tmp_path / unreadable:
            raise OSError(116, "Stale file handle")
        return real(path)

    monkeypatch.setattr(Path, "iterdir", stale)
    put(tmp_path, "other", 2)
    for _ in range(2):
        looked = folder.look()
        assert looked["m"] == before["m"]
        assert set(looked["other"].versions) == {1, 2}
    assert [record.args[0] for record in caplog.records] == ["m"]
    found = look(tmp_path)["m"]  # As at the start.
    assert not found.versions
    assert str(found.problem).endswith("m: cannot be read: Stale file handle")


def test_a_config_is_read_again_only_when_its_file_has_changed(tmp_path: Path, monkeypatch) -> None:
    put(tmp_path, "m", 1)
    configure(tmp_path, "description: x")
    folder, reads = Folder(tmp_path), []
    monkeypatch.setattr(
        "vision.listing.read_file", lambda file: reads.append(file) or read_file(file)
    )
    for _ in range(3):
        assert folder.look()["m"].versions[1].config.description == "x"
    assert len(reads) == 1
    rewrite(tmp_path / "m/config.yaml", b"description: y")
    assert folder.look()["m"].versions[1].config.description == "y"

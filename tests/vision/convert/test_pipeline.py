"""Whole conversions of ONNX files and of the model that ships, without torch."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.support.onnx_models import write, write_digits
from vision.config import ModelConfig
from vision.configs import read_config
from vision.convert import judging, pipeline, validation
from vision.convert.failures import ConversionError
from vision.convert.options import Options, PlanOptions, Precision
from vision.convert.pipeline import Converted, convert
from vision.convert.progress import Silent
from vision.convert.report import table
from vision.errors import ConfigError, MissingLibrary
from vision.listing import Folder
from vision.runtime.registry import load

HELD_OUT = str(Path(__file__).parents[2] / "data" / "digits-held-out.npz")


def run(model: str, output: Path, **rest: object) -> Converted:
    options = Options(model=model, output=output, **{"plan": PlanOptions(build=False), **rest})
    return convert(options, Silent())


def test_shipped_model_becomes_int8_with_a_report(tmp_path: Path) -> None:
    done = run(
        "digits",
        tmp_path / "digits",
        precision=Precision.INT8,
        calibration=HELD_OUT,
        weight_bits=7,
        max_batch=4,
    )
    assert done.folder == tmp_path / "digits" / "1"
    assert sorted(one.name for one in (tmp_path / "digits").rglob("*")) == [
        "1",
        "REPORT.md",
        "config.yaml",
        "labels.txt",
        "model.onnx",
        "report.json",
    ]
    report = json.loads((done.folder / "report.json").read_text())
    assert report["calibration"]["samples"] == 200
    assert report["validation"]["samples"] == 250
    assert report["validation"]["top1_agreement"] >= 0.98
    assert report["validation"]["accuracy"]["converted"] >= 0.98
    assert report["zero_points"]["other_than_0"] == 0
    assert [line["batch"] for line in report["latency"]] == [1, 2, 4]
    assert all(line["onnx"] > 0 < line["source"] for line in report["latency"])
    assert report["files"]["model.onnx"]["bytes"] < report["source_bytes"] / 2
    assert report["plan"] == {"built": False, "reason": "not asked for (--no-plan)"}
    assert report["warnings"] == []
    assert (done.folder / "REPORT.md").read_text() == table(report)


def test_result_is_loaded_by_the_service_as_its_config_says(tmp_path: Path) -> None:
    run("digits", tmp_path / "d", precision=Precision.FP16, max_batch=4, calibration=HELD_OUT)
    config = read_config(tmp_path / "d", 1)
    loaded = load(tmp_path / "d" / "1", config)
    assert (loaded.max_batch, loaded.inputs[0].shape) == (4, (1, 8, 8))
    assert (
        config.preprocessing
        == read_config(Path(pipeline.__file__).parents[1] / "models/digits", 1).preprocessing
    )
    assert (tmp_path / "d" / "labels.txt").read_text().split() == list("0123456789")


def test_next_conversion_is_the_next_version_and_leaves_config_alone(tmp_path: Path) -> None:
    run("digits", tmp_path / "d", max_batch=8)
    before = (tmp_path / "d" / "config.yaml").read_text()
    done = run("digits", tmp_path / "d", max_batch=4)
    assert done.folder.name == "2"
    assert (tmp_path / "d" / "config.yaml").read_text() == before
    (note,) = done.notes
    assert "was there and stays (--force replaces it); it differs in batching.max_batch" in note


def test_force_replaces_version_and_config(tmp_path: Path) -> None:
    run("digits", tmp_path / "d", max_batch=8)
    done = run("digits", tmp_path / "d", max_batch=4, version=1, force=True)
    assert done.folder.name == "1"
    assert read_config(tmp_path / "d", 1).batching.max_batch == 4
    assert done.notes == ()


def test_model_of_the_repository_comes_before_one_that_ships(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    write_digits(repository / "digits" / "3" / "model.onnx")
    write_digits(repository / "digits" / "12" / "model.onnx", seed=5)
    done = run("digits", tmp_path / "out", repository=repository)
    ours, theirs = done.folder / "model.onnx", repository / "digits" / "12" / "model.onnx"
    stored = [
        {one.name: numpy_helper.to_array(one) for one in onnx.load(file).graph.initializer}
        for file in (ours, theirs)
    ]
    assert np.array_equal(stored[0]["w3"], stored[1]["w3"])


def test_unknown_name_lists_what_ships(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"no model is called nope: .*digits, digits-fp16"):
        run("nope", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_samples_the_report_says_that_it_compared_on_noise(tmp_path: Path) -> None:
    file = write_digits(tmp_path / "m.onnx")
    report = run(str(file), tmp_path / "out").report
    assert report.validation["random"] is True
    assert any("compared on random data" in one for one in report.warnings)
    assert report.validation["errors"]["logits"]["max"] < 1e-5


def test_other_samples_may_be_held_out_and_then_all_of_the_first_calibrate(tmp_path: Path) -> None:
    with np.load(HELD_OUT) as archive:
        np.savez(tmp_path / "few.npz", images=archive["images"][:10])
    report = run(
        "digits",
        tmp_path / "d",
        precision=Precision.INT8,
        calibration=str(tmp_path / "few.npz"),
        held_out=HELD_OUT,
    ).report
    assert report.calibration is not None
    assert report.calibration["samples"] == 10
    assert report.validation["samples"] == 450


def test_single_sample_calibrates_and_noise_is_compared(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", images=np.full((1, 8, 8), 200, np.uint8))
    calibration = str(tmp_path / "one.npz")
    report = run("digits", tmp_path / "d", precision=Precision.INT8, calibration=calibration).report
    assert report.validation["random"] is True


def test_random_calibration_is_warned_of(tmp_path: Path) -> None:
    file = write_digits(tmp_path / "m.onnx")
    done = run(str(file), tmp_path / "out", precision=Precision.INT8, calibration="random")
    assert any("calibrated with random data" in one for one in done.report.warnings)
    assert "**Warning:** calibrated with random data" in (done.folder / "REPORT.md").read_text()


def test_int8_wants_samples(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="--precision int8 needs --calibration"):
        run("digits", tmp_path / "out", precision=Precision.INT8)


def test_bad_agreement_of_int8_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "LOW_AGREEMENT", 1.1)
    done = run("digits", tmp_path / "d", precision=Precision.INT8, calibration=HELD_OUT)
    assert any(one.startswith("only ") and "--weight-bits 7" in one for one in done.report.warnings)


def test_no_agreement_at_all_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare = validation.compare

    def disagreeing(*given: Any) -> validation.Comparison:
        found = compare(*given)
        found.agreeing = 0
        return found

    monkeypatch.setattr(validation, "compare", disagreeing)
    done = run("digits", tmp_path / "d", precision=Precision.INT8, calibration=HELD_OUT)
    assert any(one.startswith("only 0.0% of the samples") for one in done.report.warnings)


def test_batch_of_one_that_is_not_needed_is_freed(tmp_path: Path) -> None:
    file = write_digits(tmp_path / "m.onnx", batch=1)
    done = run(str(file), tmp_path / "out", max_batch=8)
    assert done.report.max_batch == 8
    assert "now it takes any" in done.notes[0]
    assert done.report.validation["batch_error"] < 1e-5


def test_batch_of_one_that_nodes_rely_on_stays(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([1, 6]), "shape")
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    file = write(tmp_path / "m.onnx", nodes, {"x": [1, 2, 3]}, {"y": [1, 6]}, initializers=[shape])
    done = run(str(file), tmp_path / "out", max_batch=8)
    assert done.report.max_batch == 1
    assert read_config(tmp_path / "out", 1).batching.max_batch == 1
    assert "nodes rely on" in done.notes[0]


def test_batch_that_graph_mixes_is_not_freed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    file = write(tmp_path / "m.onnx", nodes, {"x": [1, 3]}, {"y": [1, 3]}, opset=13)
    assert run(str(file), tmp_path / "out").report.max_batch == 1


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_old_operator_sets_are_brought_up(tmp_path: Path, precision: Precision) -> None:
    file = write_digits(tmp_path / "m.onnx")
    model = onnx.load(file)
    model.opset_import[0].version = 11
    onnx.save(model, file)
    done = run(str(file), tmp_path / "out", precision=precision, calibration="random")
    made = onnx.load(done.folder / "model.onnx")
    assert [one.version for one in made.opset_import] == [13]
    onnx.checker.check_model(made, full_check=True)


def test_numbers_too_large_for_fp16_are_found_before_anything_is_placed(tmp_path: Path) -> None:
    many = numpy_helper.from_array(np.full(3, 30_000, np.float32), "many")
    nodes = [
        helper.make_node("Mul", ["x", "many"], ["large"]),
        helper.make_node("Mul", ["large", "many"], ["larger"]),
        helper.make_node("Div", ["larger", "many"], ["y"]),
    ]
    file = write(tmp_path / "m.onnx", nodes, {"x": ["n", 3]}, {"y": ["n", 3]}, initializers=[many])
    with pytest.raises(ConversionError, match="in FP16 gives NaN or infinite values"):
        run(str(file), tmp_path / "out", precision=Precision.FP16)
    assert not (tmp_path / "out").exists()


def test_samples_that_the_graph_cannot_take_are_a_line(tmp_path: Path) -> None:
    wide = numpy_helper.from_array(np.ones((4, 2), np.float32), "wide")
    node = helper.make_node("MatMul", ["x", "wide"], ["y"])
    file = write(
        tmp_path / "m.onnx", [node], {"x": ["n", "k"]}, {"y": ["n", 2]}, initializers=[wide]
    )
    np.savez(tmp_path / "x.npz", x=np.ones((3, 5), np.float32))
    with pytest.raises(ConversionError, match=r"^onnx does not run on the samples: "):
        run(str(file), tmp_path / "out", calibration=str(tmp_path / "x.npz"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("library", "model"), [("onnx", "digits"), ("torch", "hf:some/model"), ("torch", "code:model")]
)
def test_missing_library_names_the_extra_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, model: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibrary, match=rf"^{library} is not installed: .*vision-convert\]"):
        run(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_larger_fixed_batch_is_refused(tmp_path: Path) -> None:
    file = write_digits(tmp_path / "m.onnx", batch=4)
    with pytest.raises(ConversionError, match="a batch of 4 is built in"):
        run(str(file), tmp_path / "out")


def test_config_beside_a_file_says_how_images_are_fed(tmp_path: Path) -> None:
    write_digits(tmp_path / "m.onnx")
    (tmp_path / "config.yaml").write_text(
        "preprocessing: {color: gray, resize: {size: [8, 8]}}\n"
        "postprocessing: {kind: classification, labels: names.txt}\n"
    )
    (tmp_path / "names.txt").write_text("".join(f"n{digit}\n" for digit in range(10)))
    run(str(tmp_path / "m.onnx"), tmp_path / "out", calibration=HELD_OUT)
    assert (tmp_path / "out" / "names.txt").read_text().startswith("n0\n")
    assert read_config(tmp_path / "out", 1).preprocessing is not None


def test_config_that_is_given_comes_first(tmp_path: Path) -> None:
    write_digits(tmp_path / "m.onnx")
    (tmp_path / "mine.yaml").write_text(
        "description: mine\npreprocessing: {color: gray, resize: {size: [8, 8]}, mean: [0.1]}\n"
    )
    run(str(tmp_path / "m.onnx"), tmp_path / "out", config=tmp_path / "mine.yaml")
    config = read_config(tmp_path / "out", 1)
    assert config.description == "mine"
    assert config.preprocessing is not None
    assert config.preprocessing.mean == (0.1,)
    (tmp_path / "mine.yaml").write_text("resize: 8\n")
    with pytest.raises(ConfigError, match="line 1: resize"):
        run(str(tmp_path / "m.onnx"), tmp_path / "out", config=tmp_path / "mine.yaml")


@pytest.mark.parametrize("precision", list(Precision))
def test_nothing_is_left_in_the_working_directory(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's tools like to write there (`sym_shape_infer_temp.onnx`, `*.data`)."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    run("digits", tmp_path / "out", precision=precision, calibration=HELD_OUT)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_what_is_quantized_is_not_quantized_again(precision: Precision, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="digits-int8 is quantized already"):
        run("digits-int8", tmp_path / "d", precision=precision, calibration=HELD_OUT)
    assert run("digits-int8", tmp_path / "d").report.zero_points is None


def test_output_that_the_service_would_overlook_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="my model: is not a model's name"):
        run("digits", tmp_path / "my model")
    run("digits", tmp_path / "models" / "a")
    with pytest.raises(ConversionError, match=r"is a repository, with a in it; .*models/NAME$"):
        run("digits", tmp_path / "models")
    assert [one.name for one in tmp_path.iterdir()] == ["models"]
    assert [one.name for one in (tmp_path / "models").iterdir()] == ["a"]


def test_labels_beside_a_given_config_come_along(tmp_path: Path) -> None:
    write_digits(tmp_path / "m.onnx")
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "mine.yaml").write_text("postprocessing: {kind: classification, labels: names.txt}\n")
    (place / "names.txt").write_text("".join(f"n{digit}\n" for digit in range(10)))
    for model in (str(tmp_path / "m.onnx"), "digits"):
        run(model, tmp_path / "out", config=place / "mine.yaml", force=True, version=1)
        assert (tmp_path / "out" / "names.txt").read_text().startswith("n0\n")
        (tmp_path / "out" / "names.txt").unlink()


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("preprocessing: {resize: {size: [8, 8]}}", "it has 1 channels"),
        ("preprocessing: {input: x}", "no input is called x; the model has "),
        ("postprocessing: {kind: classification, labels: two.txt}", "10 classes, the labels are 2"),
        ("postprocessing: {kind: classification, labels: none.txt}", "none.txt: cannot be read"),
    ],
)
def test_config_that_the_service_would_refuse_is_refused_first(
    config: str, why: str, tmp_path: Path
) -> None:
    write_digits(tmp_path / "m.onnx")
    (tmp_path / "mine.yaml").write_text(config + "\n")
    (tmp_path / "two.txt").write_text("a\nb\n")
    with pytest.raises(ConfigError, match=why):
        run(str(tmp_path / "m.onnx"), tmp_path / "out", config=tmp_path / "mine.yaml")
    assert not (tmp_path / "out").exists()


def test_operator_is_told_what_the_new_config_lacks(tmp_path: Path) -> None:
    write_digits(tmp_path / "m.onnx")
    assert "no `preprocessing`" in " ".join(run(str(tmp_path / "m.onnx"), tmp_path / "a").notes)
    assert run("digits", tmp_path / "b").notes == ()
    (tmp_path / "mine.yaml").write_text(
        "preprocessing: {color: gray, resize: {size: [8, 8]}}\nwarmup: {samples: [seven.png]}\n"
    )
    done = run(str(tmp_path / "m.onnx"), tmp_path / "c", config=tmp_path / "mine.yaml")
    assert "`warmup.samples` were not copied" in done.notes[0]
    assert read_config(tmp_path / "c", 1).warmup.samples == ()


def test_what_is_held_out_is_blamed_by_its_own_option(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"^--held-out nowhere: neither a folder"):
        run("digits", tmp_path / "d", calibration=HELD_OUT, held_out="nowhere")


def test_plan_that_cannot_be_built_leaves_the_onnx_and_says_what_is_missing(tmp_path: Path) -> None:
    done = run("digits", tmp_path / "d", plan=PlanOptions())
    assert (done.folder / "model.onnx").exists()
    assert done.report.plan["built"] is False
    assert "pip install 'sluice[vision-tensorrt]'" in done.report.plan["reason"]


def test_plan_that_is_demanded_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(MissingLibrary, match="no plan can be built here"):
        run("digits", tmp_path / "d", plan=PlanOptions(build=True))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_a_line_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pipeline.Report, "write", full)
    with pytest.raises(ConversionError, match="no space left for"):
        run("digits", tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConversionError, match="is not a folder"):
        run("digits", tmp_path / "file")


def test_config_has_defaults_left_out(tmp_path: Path) -> None:
    run("digits", tmp_path / "d")
    assert "runtimes" not in (tmp_path / "d" / "config.yaml").read_text()
    assert read_config(tmp_path / "d", 1).runtimes == ModelConfig().runtimes


def write_config(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


CLASSES = "".join(f"n{digit}\n" for digit in range(10))


@pytest.mark.parametrize("named", ["../names.txt", "data/names.txt"])
def test_labels_from_elsewhere_come_to_lie_beside_the_configuration(
    tmp_path: Path, named: str
) -> None:
    """A path that leads out would be written outside of the output, and refused by the service."""
    (tmp_path / "m").mkdir()
    write_digits(tmp_path / "m" / "m.onnx")
    write_config(
        tmp_path / "m" / "config.yaml", f"postprocessing: {{kind: classification, labels: {named}}}"
    )
    write_config(tmp_path / "m" / named, CLASSES)
    run(str(tmp_path / "m" / "m.onnx"), tmp_path / "models" / "out")
    found = Folder(tmp_path / "models").look()["out"].versions[1]
    assert found.problem is None
    assert [one.name for one in found.files][-1] == "labels.txt"
    assert sorted(one.name for one in (tmp_path / "models").iterdir()) == ["out"]


def test_labels_lie_beside_the_configuration_of_a_version(tmp_path: Path) -> None:
    version = tmp_path / "models" / "m" / "7"
    version.mkdir(parents=True)
    write_digits(version / "model.onnx")
    write_config(
        version / "config.yaml", "postprocessing: {kind: classification, labels: names.txt}"
    )
    write_config(version / "names.txt", CLASSES)
    run("m", tmp_path / "out", repository=tmp_path / "models")
    assert (tmp_path / "out" / "names.txt").read_text() == CLASSES


def test_a_version_is_served_whatever_versions_the_source_names(tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "c.yaml", "versions: {policy: specific, versions: [2, 7]}\ndescription: mine\n"
    )
    run("digits", tmp_path / "out", config=config)
    assert read_config(tmp_path / "out", 1).versions == ModelConfig().versions
    run("digits", tmp_path / "other", config=config, version=7)
    assert read_config(tmp_path / "other", 7).versions.versions == (2, 7)


def test_a_configuration_that_stays_and_would_not_serve_the_version_is_told_of(
    tmp_path: Path,
) -> None:
    write_config(
        tmp_path / "out" / "config.yaml",
        "versions: {policy: specific, versions: [7]}\nruntimes: [torch]\n",
    )
    done = run("digits", tmp_path / "out")
    assert done.notes[-1].partition(" from what fits")[0].endswith("runtimes, versions")


def test_runtimes_that_execute_nothing_of_what_is_made_are_refused_first(tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", "runtimes: [torch]")
    with pytest.raises(ConfigError, match="runtimes: names torch only"):
        run("digits", tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()

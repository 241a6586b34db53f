"""Does the label choose the arm, and the default arm take all that goes wrong?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.config.policy import Classifier as Spec
from gateway.plan.classify import Choice, Classifier, Run, load_classifier, onnx_run
from gateway.plan.features import COLUMNS

EXAMPLE = Path(__file__).parents[3] / "policies/examples/difficulty.onnx"
SPEC = Spec.model_validate(
    {
        "file": "f.onnx",
        "arms": [
            {"name": "small", "model": "m"},
            {"name": "large", "model": "n", "labels": ["large", "huge", "2"]},
        ],
        "default": "large",
    }
)
BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
NOT_INSTALLED = "onnxruntime is not installed; install the extra `classifier`"


def saying(label: str) -> Run:
    def run(values: Sequence[float]) -> str:
        assert len(values) == len(COLUMNS)
        return label

    return run


@pytest.mark.parametrize(("label", "arm"), [("small", 0), ("large", 1), ("huge", 1), ("2", 1)])
def test_the_label_chooses(label: str, arm: int) -> None:
    classifier = Classifier(SPEC, saying(label))
    assert classifier.pick(BODY) == Choice(arm, label)
    assert (classifier.failure, classifier.failures) == ("", 0)


def test_a_label_without_an_arm_goes_to_the_default() -> None:
    classifier = Classifier(SPEC, saying("tiny"))
    assert classifier.pick(BODY) == Choice(1, "tiny", 'no arm has the label "tiny"')
    assert classifier.failures == 0


def test_a_run_that_fails_goes_to_the_default_until_one_does_not() -> None:
    broken = True

    def run(_: Sequence[float]) -> str:
        if broken:
            raise RuntimeError("no memory\nmore of it")
        return "small"

    classifier = Classifier(SPEC, run)
    words = "the classifier failed: no memory"
    assert classifier.pick(BODY) == Choice(1, "", words)
    assert (classifier.failure, classifier.failures) == (words, 1)
    broken = False
    assert classifier.pick(BODY).arm == 0
    assert (classifier.failure, classifier.failures) == ("", 1)


def test_a_body_without_features_goes_to_the_default() -> None:
    """A form, for example."""
    classifier = Classifier(SPEC, saying("small"))
    assert classifier.pick(b"--boundary").arm == 1
    assert classifier.failures == 1


def test_an_exception_without_words_is_named() -> None:
    def run(_: Sequence[float]) -> str:
        raise KeyError

    assert Classifier(SPEC, run).pick(BODY).failure == "the classifier failed: KeyError"


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    classifier = load_classifier(SPEC, EXAMPLE)
    assert classifier.failure == NOT_INSTALLED
    assert classifier.pick(BODY) == Choice(1, "", NOT_INSTALLED)
    assert classifier.failures == 1


class FakeSession:
    """As much of onnxruntime as a run needs; answers with the number of columns."""

    def __init__(self, data: bytes, *_: object, providers: Sequence[str]) -> None:
        assert data == b"onnx"
        assert providers == ["CPUExecutionProvider"]

    def get_inputs(self) -> list[object]:
        return [type("Node", (), {"name": "X"})]

    def get_outputs(self) -> list[object]:
        return [type("Node", (), {"name": name}) for name in ("label", "probabilities")]

    def run(self, outputs: list[str], values: dict[str, list[list[float]]]) -> list[list[int]]:
        assert outputs == ["label"]
        return [[len(values["X"][0])]]


def test_a_file_is_opened_for_one_thread_and_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[type] = []

    def options() -> object:
        made.append(type("Options", (), {}))
        return made[0]

    runtime = type("runtime", (), {"SessionOptions": options, "InferenceSession": FakeSession})
    numpy = type("numpy", (), {"array": lambda values, dtype: values, "float32": None})
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)  # type: ignore[arg-type]  # enough of a module
    monkeypatch.setitem(sys.modules, "numpy", numpy)  # type: ignore[arg-type]  # the same
    (tmp_path / "f.onnx").write_bytes(b"onnx")
    classifier = load_classifier(SPEC, tmp_path / "f.onnx")
    assert classifier.failure == ""
    assert classifier.pick(BODY) == Choice(1, "10", 'no arm has the label "10"')
    assert made[0].intra_op_num_threads == 1  # type: ignore[attr-defined]  # set above


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    classifier = load_classifier(SPEC, tmp_path / "gone.onnx")
    assert "the file cannot be used" in classifier.failure
    assert "No such file" in classifier.failure
    assert classifier.pick(BODY).arm == 1


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "f.onnx").write_bytes(b"not a model")
    assert "the file cannot be used" in load_classifier(SPEC, tmp_path / "f.onnx").failure


def test_a_real_model_of_another_width_is_refused_when_it_is_loaded() -> None:
    """Not at the first request."""
    pytest.importorskip("onnxruntime")
    run = onnx_run(EXAMPLE)
    assert run([0.0] * len(COLUMNS)) == "small"
    with pytest.raises(Exception, match="Got: 3 Expected: 10"):
        run([0.0] * 3)


def test_a_real_model_chooses() -> None:
    pytest.importorskip("onnxruntime")
    classifier = load_classifier(SPEC, EXAMPLE)
    assert classifier.failure == ""
    assert classifier.pick(BODY) == Choice(0, "small")
    hard = BODY.replace(b"hello", b"```c\\nint main;\\n```")
    assert classifier.pick(hard) == Choice(1, "large")

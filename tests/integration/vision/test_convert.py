"""Classifiers of four families from transformers are exported, cast, quantized and serve as before.

The models are built from their configurations, small and untrained, and saved to folders of the
hub's layout: nothing is downloaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vision.configs import read_config
from vision.convert import hub
from vision.convert.failures import ConversionError
from vision.convert.options import Options, PlanOptions, Precision, parse_input
from vision.convert.pipeline import Converted, convert
from vision.convert.precision import zero_points
from vision.convert.progress import Silent
from vision.preprocess import Preprocessor
from vision.runtime.registry import load

pytestmark = [
    pytest.mark.integration,
    # torch's and transformers' own, of their own deprecations.
    pytest.mark.filterwarnings("default"),
]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
huggingface_hub = pytest.importorskip("huggingface_hub")

ROOT = Path(__file__).parents[3]
LABELS = {at: f"class {at}" for at in range(5)}
NAMED: dict[str, Any] = {"id2label": LABELS, "label2id": {v: k for k, v in LABELS.items()}}
TOKENS = 120
CONVNEXT_PROCESSOR = {
    "image_processor_type": "ConvNextImageProcessor",
    "size": {"shortest_edge": 56},
    "crop_pct": 0.875,
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
VIT_PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def resnet() -> Any:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **NAMED
    )
    return transformers.ResNetForImageClassification(config)


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        **NAMED,
    )
    return transformers.ViTForImageClassification(config)


def convnext() -> Any:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, **NAMED)
    return transformers.ConvNextForImageClassification(config)


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=TOKENS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        **NAMED,
    )
    return transformers.BertForSequenceClassification(config)


@dataclass(frozen=True)
class Family:
    build: Callable[[], Any]
    processor: dict[str, Any] | None
    pil_processor: str = ""


FAMILIES = {
    "resnet": Family(resnet, CONVNEXT_PROCESSOR, "ConvNextImageProcessorPil"),
    "vit": Family(vit, VIT_PROCESSOR, "ViTImageProcessorPil"),
    "convnext": Family(convnext, CONVNEXT_PROCESSOR, "ConvNextImageProcessorPil"),
    "bert": Family(bert, None),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_HUB_OFFLINE=1 does, which is read when the library is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All models, some photographs and some texts as tokens."""
    folder = tmp_path_factory.mktemp("stored")
    torch.manual_seed(0)
    for name, family in FAMILIES.items():
        # Untrained heads give all classes alike: larger weights set them apart.
        model = family.build().eval()
        with torch.no_grad():
            model.classifier.apply(_enlarge)
        model.save_pretrained(folder / name)
        if family.processor is not None:
            (folder / name / "preprocessor_config.json").write_text(json.dumps(family.processor))
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for at in range(30):
        small = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
        small.resize((91 + at, 70), Image.Resampling.BICUBIC).save(folder / "photos" / f"{at}.png")
    tokens = rng.integers(0, TOKENS, (30, 12))
    mask = (np.arange(12) < rng.integers(4, 13, (30, 1))).astype(np.int64)
    np.savez(folder / "tokens.npz", input_ids=tokens, attention_mask=mask)
    return folder


def _enlarge(module: Any) -> None:
    if isinstance(module, torch.nn.Linear):
        module.weight.mul_(20)


def run(model: str, output: Path, **rest: Any) -> Converted:
    options = Options(model=model, output=output, plan=PlanOptions(build=False), **rest)
    return convert(options, Silent())


@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_exported_and_keeps_its_answers(name: str, stored: Path, tmp_path: Path) -> None:
    samples = str(stored / ("tokens.npz" if name == "bert" else "photos"))
    output = tmp_path / name
    exported = run(f"hf:{stored / name}", output, calibration=samples, max_batch=4)
    config = read_config(output, 1)
    assert config.batching.max_batch == 4
    assert (output / "labels.txt").read_text().splitlines() == list(LABELS.values())
    checked = exported.report.validation
    assert checked["errors"]["logits"]["max"] < 1e-4
    assert checked["batch_error"] < 1e-4
    assert checked["top1_agreement"] == 1.0

    any_batch(load(output / "1", config), name)

    # What was exported is the source of the other precisions: the exporter runs once.
    file = str(exported.folder / "model.onnx")
    fp16 = run(file, output, calibration=samples, max_batch=4, precision=Precision.FP16)
    int8 = run(file, output, calibration=samples, max_batch=4, precision=Precision.INT8)
    assert fp16.report.validation["errors"]["logits"]["max"] < 2e-2
    assert fp16.report.validation["top1_agreement"] >= 0.9
    count, other = zero_points(int8.folder / "model.onnx")
    assert (count > 10, other) == (True, 0)
    error = int8.report.validation["errors"]["logits"]
    assert 0 < error["mean"] < 0.15 * error["largest_value"]
    assert int8.report.calibration == {
        "from": samples,
        "samples": 24,
        "random": False,
        "weight_bits": 8,
    }
    assert int8.report.validation["samples"] == 6


def any_batch(loaded: Any, name: str) -> None:
    """Batches of other sizes than the exporter saw, and texts of other lengths, run."""
    instance = loaded.instance()
    for rows in (1, 3, 4):
        for length in (5, 40) if name == "bert" else (1,):
            given = {
                spec.name: np.ones(
                    (rows, *(length if size is None else size for size in spec.shape)),
                    spec.dtype.numpy,
                )
                for spec in loaded.inputs
            }
            assert instance.run(given)["logits"].shape == (rows, 5)


@pytest.mark.parametrize("name", ["vit", "convnext"])
def test_preprocessing_of_the_config_is_that_of_transformers(name: str, stored: Path) -> None:
    module, config, _, notes = hub.load(str(stored / name))
    assert notes == ()
    assert config.preprocessing is not None
    ours = Preprocessor(config.preprocessing, module.inputs[0])
    theirs = getattr(transformers, FAMILIES[name].pil_processor).from_pretrained(stored / name)
    for file in sorted((stored / "photos").iterdir())[:5]:
        image = Image.open(file).convert("RGB")
        expected = np.asarray(theirs(image)["pixel_values"][0])
        assert np.abs(ours.row(image)[0] - expected).max() < 1e-2


def test_labels_that_a_file_of_lines_cannot_hold_are_told_in_a_line(
    stored: Path, tmp_path: Path
) -> None:
    """Or the service would refuse the version: a class more, or one without a name."""
    folder = tmp_path / "bert"
    shutil.copytree(stored / "bert", folder)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] |= {"1": "two\nlines\u2028and more", "2": ""}
    (folder / "config.json").write_text(json.dumps(config))
    labels = hub.load(str(folder))[2]
    assert labels == ("class 0", "two lines and more", "2", "class 3", "class 4")


def test_what_is_no_classifier_is_refused_in_a_line(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(ConversionError, match="is BertModel; classifiers of images or of texts"):
        run(f"hf:{tmp_path / 'bert'}", tmp_path / "out")


def test_classifier_without_a_trained_head_is_refused(stored: Path, tmp_path: Path) -> None:
    config = json.loads((stored / "bert" / "config.json").read_text())
    transformers.BertModel(transformers.BertConfig(**config)).save_pretrained(tmp_path / "bert")
    config["architectures"] = ["BertForSequenceClassification"]
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConversionError, match=r"the weights lack classifier\.bias"):
        run(f"hf:{tmp_path / 'bert'}", tmp_path / "out")


def test_pickled_weights_are_never_loaded(stored: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_bytes((stored / "bert" / "config.json").read_bytes())
    torch.save(bert().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ConversionError, match="safetensors"):
        run(f"hf:{folder}", tmp_path / "out")


def test_unknown_model_of_the_hub_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"^hf:nobody/nothing: [^\n]*$"):
        run("hf:nobody/nothing", tmp_path / "out")


CODE = """
import torch

class Model(torch.nn.Module):
    def forward(self, image, scale):
        return image.flatten(1).sum(1, keepdim=True) * scale, scale

class Unexportable(torch.nn.Module):
    def forward(self, image):
        return image if image.sum().item() > 0 else -image

def both():
    return Model(), {"image": torch.zeros(2, 3, 4), "scale": torch.ones(2, 1)}

def bare():
    return Model()

def unexportable():
    return Unexportable(), (torch.zeros(2, 3),)

def wrong():
    return 7

def no_tensor():
    return Model(), {"image": torch.zeros(2, 3, 4), "scale": [1.0]}

def no_type():
    return Model(), {"image": torch.zeros(2, 3, 4, dtype=torch.bfloat16), "scale": torch.ones(2, 1)}

class Partly(Model):
    def forward(self, image, scale):
        return scale, None

def no_output():
    return Partly(), {"image": torch.zeros(2, 3, 4), "scale": torch.ones(2, 1)}
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "our_models.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "our_models", raising=False)
    return "our_models"


def test_function_returns_a_module_and_an_example(code: str, tmp_path: Path) -> None:
    run(f"{code}:both", tmp_path / "out", max_batch=4)
    config = read_config(tmp_path / "out", 1)
    assert [(one.name, one.shape) for one in config.inputs] == [("image", (3, 4)), ("scale", (1,))]
    assert [one.name for one in config.outputs] == ["output_0", "output_1"]


def test_module_without_an_example_wants_its_inputs(code: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="say --input NAME:3x224x224"):
        run(f"{code}:bare", tmp_path / "out")
    inputs = (parse_input("image:3x4"), parse_input("scale:1"))
    run(f"{code}:bare", tmp_path / "out", inputs=inputs)
    assert (tmp_path / "out" / "1" / "model.onnx").exists()


def test_what_cannot_be_exported_is_a_line_and_a_file_with_the_rest(
    code: str, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError) as caught:
        run(f"{code}:unexportable", tmp_path / "out")
    text = str(caught.value)
    assert text.startswith("export to ONNX failed: ")
    assert "\n" not in text
    log = Path(text.rpartition(" ")[2].rstrip(")"))
    assert "Traceback" in log.read_text()
    log.unlink()


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("wrong", "returned int; it has to be a torch.nn.Module"),
        ("gone", "has no attribute"),
        ("no_tensor", "the example input scale is no tensor but of the type list"),
        ("no_type", "the example input image: .*BFloat16"),
        ("no_output", "Partly returns NoneType among its outputs"),
    ],
)
def test_function_that_gives_nothing_to_convert_is_refused(
    code: str, tmp_path: Path, function: str, why: str
) -> None:
    with pytest.raises(ConversionError, match=why):
        run(f"{code}:{function}", tmp_path / "out")


def test_shipped_models_held_out_digits_are_those_of_scikit_learn() -> None:
    pytest.importorskip("sklearn")
    from scripts.train_digits import split  # noqa: PLC0415 - imports scikit-learn

    (pixels, _), (images, labels) = split()
    with np.load(ROOT / "tests" / "data" / "digits-held-out.npz") as archive:
        assert np.array_equal(archive["images"], images)
        assert np.array_equal(archive["labels"], labels)
    assert len(pixels) + len(images) == 1797

"""How is a classifier from the Hugging Face hub, or a folder of that layout, read?

Weights from safetensors only, never from pickles, and never a repository's own code. The
hub's cache and `HF_HUB_OFFLINE=1` are transformers' and work as everywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vision.config import Classification, ModelConfig, Preprocessing
from vision.convert.export import Module
from vision.convert.failures import ConversionError, library, told_in_a_line
from vision.convert.processor import UnknownProcessorError, image_size, preprocessing
from vision.tensors import DataType, TensorSpec

LABELS = "labels.txt"
_IMAGES, _TEXTS = "ForImageClassification", "ForSequenceClassification"
_DEFAULT_SIZE = 224


def load(name: str) -> tuple[Module, ModelConfig, tuple[str, ...], tuple[str, ...]]:
    """Read a model: the module, what the repository is to say of it, its labels, and notes.

    `name` is an id or a folder. Image classifiers take `pixel_values` [3, h, w], text
    classifiers `input_ids` and `attention_mask` of any length; both give `logits`.
    Raises `ConversionError` or `MissingLibrary`.
    """
    library("torch")
    transformers = library("transformers")
    if name.startswith("~"):  # The shell expands it at the start of a word only.
        name = str(Path(name).expanduser())
    if name.startswith((".", "/")) and not Path(name).is_dir():
        raise ConversionError(f"hf:{name}: there is no such folder")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with told_in_a_line(f"hf:{name}"):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    kind = (config.architectures or ["an unnamed architecture"])[0]
    if not kind.endswith((_IMAGES, _TEXTS)):
        raise ConversionError(f"hf:{name} is {kind}; classifiers of images or of texts are taken")
    model = _weights(transformers, name, kind)
    labels = tuple(_in_a_line(index, config.id2label[index]) for index in sorted(config.id2label))
    classes = Classification(kind="classification", labels=LABELS)
    if kind.endswith(_TEXTS):
        names = ("input_ids", "attention_mask")
        inputs = tuple(TensorSpec(one, DataType.INT64, (None,)) for one in names)
        return (
            Module(_only_logits(model, kind), inputs, ("logits",)),
            ModelConfig(postprocessing=classes),
            labels,
            (),
        )
    fallback = _model_size(config)
    try:
        made: Preprocessing | None = preprocessing(_processor(transformers, name), "pixel_values")
        notes: tuple[str, ...] = ()
    except UnknownProcessorError as error:
        made = None
        notes = (f"the image processor's {error} has no words in config.yaml: no preprocessing",)
    height, width = fallback if made is None else image_size(made, fallback)
    channels = getattr(config, "num_channels", 3)
    inputs = (TensorSpec("pixel_values", DataType.FP32, (channels, height, width)),)
    return (
        Module(_only_logits(model, kind), inputs, ("logits",)),
        ModelConfig(preprocessing=made, postprocessing=classes),
        labels,
        notes,
    )


def _in_a_line(index: int, label: object) -> str:
    """A class as the file of labels takes it, which has a line for each, and none empty."""
    return " ".join(str(label).split()) or str(index)


def _weights(transformers: Any, name: str, kind: str) -> Any:
    """The model with its weights. One whose head would be made up is refused."""
    auto = (
        transformers.AutoModelForImageClassification
        if kind.endswith(_IMAGES)
        else transformers.AutoModelForSequenceClassification
    )
    with told_in_a_line(f"hf:{name}"):
        model, said = auto.from_pretrained(
            name,
            use_safetensors=True,
            trust_remote_code=False,
            # Plain matrix products: what TensorRT recognises and fuses by itself.
            attn_implementation="eager",
            dtype="float32",
            output_loading_info=True,
        )
    if said["missing_keys"]:
        missing = ", ".join(sorted(said["missing_keys"])[:3])
        raise ConversionError(f"hf:{name}: the weights lack {missing}: it is not trained for this")
    return model


def _processor(transformers: Any, name: str) -> dict[str, Any]:
    """What `preprocessor_config.json` holds."""
    with told_in_a_line(f"hf:{name}"):
        file = transformers.utils.cached_file(
            name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
        )
    if file is None:
        raise UnknownProcessorError("configuration, which is missing,")
    with told_in_a_line(f"hf:{name}: preprocessor_config.json"):
        found: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
    return found


def _model_size(config: Any) -> tuple[int, int]:
    """The image size that a model is made for; ResNet and ConvNeXt take any."""
    size = getattr(config, "image_size", _DEFAULT_SIZE)
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


def _only_logits(model: Any, kind: str) -> Any:
    """A module that takes tensors in order, by the exporter's names, and gives the logits."""
    base: Any = library("torch").nn.Module

    class OfImages(base):  # type: ignore[misc]  # torch is Any here, see pyproject
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Any) -> Any:
            return self.model(pixel_values=pixel_values).logits

    class OfTexts(base):  # type: ignore[misc]  # as above
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    return (OfImages() if kind.endswith(_IMAGES) else OfTexts()).eval()

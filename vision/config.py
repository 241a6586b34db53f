"""What does a model's `config.yaml` say, and what holds if it says nothing?

    models/digits/config.yaml        for every version of the model
    models/digits/3/config.yaml      for version 3 instead, if it is there
    models/digits/3/model.onnx       what runs; beside it may lie model.plan and model.pt2

Pure: values only. Unknown keys are errors. Reading files is `vision.configs`'s.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from vision.tensors import DataType, TensorSpec

Runtimes = Literal["tensorrt", "onnx", "torch"]
PinnedFile = Annotated[str, Field(pattern=r"^[1-9][0-9]*/[^/]+$")]
HexDigest = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]


class Spec(BaseModel):
    """The base of every section."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Tensor(Spec):
    """One input or output, as the model's file names it."""

    name: str = Field(min_length=1, description="As in the file.")
    dtype: DataType = Field(
        default=DataType.FP32, description="Element type, as the Open Inference Protocol names it."
    )
    shape: tuple[int, ...] = Field(
        description="Sizes without the batch axis; -1 for any.", examples=[(3, 224, 224)]
    )

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        if any(size != -1 and size < 1 for size in self.shape):
            raise ValueError("shape: a size is a positive number, or -1 for any")
        return self

    @property
    def spec(self) -> TensorSpec:
        """The same for the code."""
        return TensorSpec(
            self.name, self.dtype, tuple(None if size == -1 else size for size in self.shape)
        )


class Resize(Spec):
    """How an image is brought to the model's size."""

    size: tuple[PositiveInt, PositiveInt] = Field(
        description="[height, width]; for `shortest` the first number is the shorter side."
    )
    mode: Literal["exact", "shortest", "letterbox"] = Field(
        default="exact",
        description="`exact` changes the aspect ratio, `shortest` keeps it and is cropped after, "
        "`letterbox` keeps it and pads (YOLO).",
    )
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = Field(
        default="bilinear", description="Pillow's filter, all with antialiasing but `nearest`."
    )
    pad: int = Field(default=114, ge=0, le=255, description="Grey of `letterbox`. YOLO's is 114.")


class Preprocessing(Spec):
    """From an image to a row of the model's input: resize, crop, scale, (x - mean) / std."""

    input: str | None = Field(default=None, description="The input it feeds; null for the first.")
    color: Literal["rgb", "bgr", "gray"] = Field(
        default="rgb", description="Channels and their order; transparency is left out."
    )
    resize: Resize | None = Field(default=None, description="First of all; null for never.")
    crop: tuple[PositiveInt, PositiveInt] | None = Field(
        default=None, description="[height, width] of the centre; smaller images are padded with 0."
    )
    rounding: Literal["torchvision", "transformers"] = Field(
        default="torchvision",
        description="Whose rule for the centre if `crop` leaves an odd number of pixels: "
        "torchvision rounds half to even, transformers rounds down.",
    )
    layout: Literal["chw", "hwc"] = Field(
        default="chw", description="Whether the channels come first or last."
    )
    scale: PositiveFloat = Field(
        default=1 / 255, description="Factor of each value from 0 to 255, before mean and std."
    )
    mean: tuple[float, ...] = Field(default=(), description="One for each channel, or none.")
    std: tuple[PositiveFloat, ...] = Field(default=(), description="One for each channel, or none.")

    @property
    def channels(self) -> int:
        """How many values a pixel has."""
        return 1 if self.color == "gray" else 3

    @model_validator(mode="after")
    def _a_value_for_each_channel(self) -> Self:
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (0, self.channels):
                raise ValueError(f"{name}: has to have {self.channels} values, or none")
        return self


class Classification(Spec):
    """Logits to the most likely classes."""

    kind: Literal["classification"]
    output: str | None = Field(default=None, description="The output it reads; null for the first.")
    activation: Literal["softmax", "sigmoid", "none"] = Field(
        default="softmax",
        description="What makes confidences of the output; `none` if it has them.",
    )
    top_k: PositiveInt = Field(
        default=5, description="Classes in an answer; a request may ask for fewer."
    )
    labels: str | None = Field(
        default=None,
        description="Text file beside config.yaml, a class in each line; null for numbers.",
    )


class Detection(Spec):
    """YOLO's boxes to objects: scores, then greedy non-maximum suppression for each class."""

    kind: Literal["detection"]
    output: str | None = Field(default=None, description="As above.")
    boxes: Literal["cxcywh", "xyxy"] = Field(
        default="cxcywh", description="In pixels of the model's input, as YOLO gives them."
    )
    objectness: bool = Field(
        default=False,
        description="Whether the fifth value is an objectness to multiply class scores with "
        "(YOLOv5, v7); later ones have none.",
    )
    anchors: Literal["first", "last"] = Field(
        default="last",
        description="Which axis counts the candidates: `last` is [4 + classes, candidates] "
        "(YOLOv8), `first` the transpose (YOLOv5).",
    )
    min_score: float = Field(default=0.25, ge=0, le=1, description="Ultralytics' default is 0.25.")
    max_iou: float = Field(
        default=0.45,
        ge=0,
        le=1,
        description="Overlap over which the weaker box goes. YOLOv5's is 0.45.",
    )
    max_detections: PositiveInt = Field(default=300, description="Ultralytics' default is 300.")
    labels: str | None = Field(default=None, description="As above.")


class Embedding(Spec):
    """One vector for each item."""

    kind: Literal["embedding"]
    output: str | None = Field(default=None, description="As above.")
    pool: Literal["none", "mean", "first"] = Field(
        default="none",
        description="How [tokens, width] becomes [width]; `first` is the class token.",
    )
    normalize: bool = Field(default=True, description="Divide by the Euclidean length.")


class Raw(Spec):
    """The outputs as they are."""

    kind: Literal["raw"] = "raw"


Postprocessing = Annotated[
    Classification | Detection | Embedding | Raw, Field(discriminator="kind")
]


class Batching(Spec):
    """When waiting items become a batch; see `vision.batcher`."""

    max_batch: PositiveInt = Field(
        default=32, description="Most rows of a batch; 1 for no batching."
    )
    max_delay_ms: float = Field(
        default=2.0,
        ge=0,
        description="Milliseconds that an item may be held back for a fuller batch while another "
        "instance runs on the same GPU. Nothing is held back while the model has nothing else to "
        "do, or on the CPU.",
    )
    preferred: tuple[PositiveInt, ...] = Field(
        default=(),
        description="Sizes that the model runs best at, such as those of its CUDA graphs.",
    )
    queue: PositiveInt = Field(
        default=256, description="Most rows that wait; more are refused with 429."
    )
    timeout_ms: PositiveFloat = Field(
        default=30_000,
        description="Milliseconds in the queue after which an item is refused with 504.",
    )

    @model_validator(mode="after")
    def _preferred_fit(self) -> Self:
        if any(size > self.max_batch for size in self.preferred):
            raise ValueError("preferred: a size is over max_batch")
        return self


class Instances(Spec):
    """How many executions run side by side, and where."""

    count: PositiveInt = Field(default=1, description="Each has a thread and buffers of its own.")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="`auto` is CUDA if the runtime has it, else the CPU.",
    )
    threads: PositiveInt | None = Field(
        default=None, description="CPU threads within one execution; null for 1 on the CPU."
    )
    half: bool = Field(
        default=True,
        description="Whether torch runs float32 products in half precision on CUDA (autocast). "
        "Plans and ONNX files have their precision in them.",
    )


class Versions(Spec):
    """Which of a model's versions serve."""

    policy: Literal["latest", "specific", "all"] = Field(
        default="latest", description="The newest ones, those that are named, or every one."
    )
    count: PositiveInt = Field(default=1, description="How many of the newest, for `latest`.")
    versions: tuple[PositiveInt, ...] = Field(default=(), description="Which ones, for `specific`.")

    @model_validator(mode="after")
    def _specific_ones(self) -> Self:
        if (self.policy == "specific") != bool(self.versions):
            raise ValueError("versions: goes with the policy `specific`, and that with them")
        return self


class WarmUp(Spec):
    """What a version runs before it serves, so that no client waits for lazy initialisation."""

    runs: int = Field(
        default=1, ge=0, description="Runs for each batch size: 1, preferred, max_batch."
    )
    samples: tuple[str, ...] = Field(
        default=(),
        description="Images beside config.yaml; zeros of the inputs' shapes without any.",
    )


class ModelConfig(Spec):
    """One model."""

    inputs: tuple[Tensor, ...] = Field(
        default=(), description="As in the file; none to read them there."
    )
    outputs: tuple[Tensor, ...] = Field(
        default=(), description="As in the file; none to read them there."
    )
    preprocessing: Preprocessing | None = Field(
        default=None, description="How images are fed; null for a model that takes tensors only."
    )
    postprocessing: Postprocessing = Field(
        default=Raw(), description="What answers are made of the outputs, by its `kind`."
    )
    batching: Batching = Field(default=Batching(), description="When waiting items are a batch.")
    instances: Instances = Field(default=Instances(), description="Executions side by side.")
    versions: Versions = Field(
        default=Versions(), description="Which versions serve; only of the model's own file."
    )
    warmup: WarmUp = Field(default=WarmUp(), description="What runs before it serves.")
    runtimes: tuple[Runtimes, ...] = Field(
        default=("tensorrt", "onnx", "torch"),
        min_length=1,
        description="Which to try, in this order, if their file is there: model.plan, model.onnx, "
        "model.pt2.",
    )
    sha256: dict[PinnedFile, HexDigest] = Field(
        default_factory=dict,
        description="Pinned hashes: `1/model.onnx` → hex digest. A file with another one is not "
        "loaded, nor is a model file without one where another of its version has one.",
    )
    description: str = Field(default="", description="For people.")

    @model_validator(mode="after")
    def _finite_sizes(self) -> Self:
        if self.preprocessing is not None and self.preprocessing.resize is None:
            return self
        if any(math.prod(one.shape) == 0 for one in self.inputs):
            raise ValueError("inputs: a shape is empty")
        return self

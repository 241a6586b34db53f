"""Would the service load what a conversion is about to make, and can it be shown images?

Pure: values only.
"""

from __future__ import annotations

from vision.config import Classification, Detection, ModelConfig
from vision.convert.draft import Draft
from vision.errors import ConfigError
from vision.postprocess import compile_postprocessing
from vision.preprocess import Preprocessor
from vision.tensors import TensorSpec

_CHANNELS = frozenset({1, 3, 4})


def check(draft: Draft, plan: bool) -> None:
    """Refuse, before anything is computed, a configuration that the service would refuse.

    `plan`: whether there will be one beside the ONNX file. Raises `ConfigError`, in the words of
    the service.
    """
    made = {"onnx", "tensorrt"} if plan else {"onnx"}
    if made.isdisjoint(draft.config.runtimes):
        said = ", ".join(draft.config.runtimes)
        raise ConfigError(f"runtimes: names {said} only; what is made here is for {min(made)}")
    post = draft.config.postprocessing
    labels = draft.labels if isinstance(post, (Classification, Detection)) else None
    compile_postprocessing(post, draft.outputs, labels)
    steps = draft.config.preprocessing
    if steps is None:
        return
    wanted = steps.input or draft.inputs[0].name
    spec = next((one for one in draft.inputs if one.name == wanted), None)
    if spec is None:
        names = ", ".join(one.name for one in draft.inputs)
        raise ConfigError(
            f"preprocessing.input: no input is called {wanted}; the model has {names}"
        )
    Preprocessor(steps, spec)


def notes(draft: Draft, written: ModelConfig) -> tuple[str, ...]:
    """What an operator would else learn from the first client. `written` is the new config.yaml."""
    said = []
    if written.preprocessing is None and any(map(_image_like, draft.inputs)):
        said.append(
            "config.yaml has no `preprocessing`: the model takes tensors, and no images until it "
            "says there how they are fed"
        )
    if draft.config.warmup.samples:
        said.append("the images of `warmup.samples` were not copied; config.yaml names none")
    return tuple(said)


def _image_like(spec: TensorSpec) -> bool:
    """Whether an input without its batch axis may be an image: three axes, one for channels."""
    return len(spec.shape) == 3 and not _CHANNELS.isdisjoint((spec.shape[0], spec.shape[2]))

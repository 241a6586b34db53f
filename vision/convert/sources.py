"""Which model does `--model` mean, and how does it become an ONNX file?

digits             a model of the repository, or else one that ships
path/to/it.onnx    a file
hf:microsoft/resnet-50, hf:./folder    see `vision.convert.hub`
package.module:function    the operator's own code, which is run: it returns a torch module, or
                   one with an example of its inputs (tensors in order, or by name)
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import vision
from vision.config import Classification, Detection, ModelConfig
from vision.configs import config_file, read_config, read_file
from vision.convert import graph, hub
from vision.convert.draft import Draft, Reference
from vision.convert.export import Module, count_outputs, export, from_example, reference, zeros
from vision.convert.failures import ConversionError, library, told_in_a_line
from vision.convert.options import Options
from vision.convert.running import open_onnx
from vision.labels import read_labels
from vision.tensors import TensorSpec

SHIPPED = Path(vision.__file__).parent / "models"
MODEL = "model.onnx"
LABELS = "labels.txt"
_HUB = "hf:"


def resolve(options: Options, folder: Path) -> Draft:
    """Make an FP32 ONNX file in `folder` of the model that is asked for; may take minutes.

    Raises `ConversionError`, `ConfigError` or `MissingLibrary`.
    """
    library("onnx")
    target = folder / "source.onnx"
    own = read_file(options.config) if options.config is not None else None
    name = options.model
    if name.startswith(_HUB):
        module, config, labels, notes = hub.load(name.removeprefix(_HUB))
        return _exported(options, module, target, (own or config, labels, notes))
    if name.endswith(".onnx"):
        given = options.config.parent if options.config is not None else None
        classes = None if own is None or given is None else _labels(own, given)
        return _from_file(name, Path(name), target, own, classes)
    if ":" in name:
        config = own or ModelConfig()
        module = _named(_from_code(options), config)
        return _exported(options, module, target, (config, None, ()))
    return _from_repository(options, target, own)


def _exported(
    options: Options,
    module: Module,
    target: Path,
    known: tuple[ModelConfig, tuple[str, ...] | None, tuple[str, ...]],
) -> Draft:
    config, labels, notes = known
    if options.config is not None:
        labels = _labels(config, options.config.parent) or labels
    export(module, target)
    inputs, outputs = graph.specs(graph.read(target))
    return Draft(
        source=options.model,
        file=target,
        inputs=inputs,
        outputs=outputs,
        config=config,
        reference=reference(module),
        labels=labels,
        notes=notes,
    )


def _from_repository(options: Options, target: Path, own: ModelConfig | None) -> Draft:
    name = options.model
    for folder in (options.repository / name, SHIPPED / name):
        versions = sorted(
            int(one.parent.name) for one in folder.glob(f"*/{MODEL}") if one.parent.name.isdigit()
        )
        if versions:
            found = read_config(folder, versions[-1]) if own is None else own
            file = folder / str(versions[-1]) / MODEL
            base = (options.config or config_file(folder, versions[-1]) or folder / MODEL).parent
            return _from_file(name, file, target, found, labels=_labels(found, base))
    shipped = ", ".join(sorted(one.name for one in SHIPPED.iterdir() if one.is_dir()))
    raise ConversionError(
        f"no model is called {name}: not in {options.repository}/, nor among those that ship "
        f"({shipped}); others are hf:ID, PATH.onnx or module:function"
    )


def _from_file(
    source: str,
    file: Path,
    target: Path,
    own: ModelConfig | None,
    labels: tuple[str, ...] | None = None,
) -> Draft:
    model = graph.modernize(graph.read(file))
    config = own
    if config is None:
        beside = next((one for one in (file.parent, file.parent.parent) if _has(one)), None)
        config = ModelConfig() if beside is None else read_config(beside, None)
        labels = None if beside is None else _labels(config, beside)
    inputs, outputs = graph.specs(model)
    max_batch: int | None = None
    notes: tuple[str, ...] = ()
    fixed = graph.batch_sizes(model) - {None}
    if fixed - {1}:
        sizes = ", ".join(map(str, sorted(fixed - {1}, key=str)))
        raise ConversionError(f"{file}: a batch of {sizes} is built in; export it with a free one")
    if fixed:
        freed = graph.free_batch(model)
        if _row_by_row(freed, target, open_onnx(file), inputs):
            model, notes = freed, ("the file had a batch of 1 built in; now it takes any",)
        else:
            max_batch, notes = 1, ("the file has a batch of 1 built in, which its nodes rely on",)
    library("onnx").save(model, target)
    return Draft(
        source=source,
        file=target,
        inputs=inputs,
        outputs=outputs,
        config=config,
        reference=open_onnx(file if max_batch == 1 else target),
        labels=labels,
        max_batch=max_batch,
        notes=notes,
    )


def _row_by_row(
    model: Any, target: Path, single: Reference, inputs: tuple[TensorSpec, ...]
) -> bool:
    """Try whether three different rows at once give what they give alone."""
    rng = np.random.default_rng(0)
    rows = zeros(inputs, 3)
    for name, array in rows.items():
        if array.dtype.kind == "f":
            rows[name] = rng.random(array.shape).astype(array.dtype)
    try:
        library("onnx").save(model, target)
        together = open_onnx(target)(rows)
    except Exception:  # What a graph that relies on its batch raises is the library's own.
        return False
    alone = [single({name: one[at : at + 1] for name, one in rows.items()}) for at in range(3)]
    return all(
        array.shape[0] == 3
        and all(np.allclose(array[at], one[name][0], atol=1e-4) for at, one in enumerate(alone))
        for name, array in together.items()
    )


def _from_code(options: Options) -> Module:
    """Run the operator's function, and look at what it returns."""
    torch = library("torch")
    place, _, name = options.model.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    with told_in_a_line(options.model):
        function: Callable[[], Any] = getattr(importlib.import_module(place), name)
        given = function()
    module, example = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    if not isinstance(module, torch.nn.Module):
        raise ConversionError(
            f"{options.model} returned {type(module).__name__}; it has to be a torch.nn.Module, or "
            "one and an example of its inputs"
        )
    module.eval()
    if options.inputs:
        return Module(module, options.inputs, ())
    if example is None:
        raise ConversionError(
            f"{options.model} returned no example of its inputs: say --input NAME:3x224x224"
        )
    names = list(inspect.signature(module.forward).parameters)
    return Module(module, from_example(module, example, names), ())


def _named(source: Module, config: ModelConfig) -> Module:
    """The module with names for its outputs: the configured ones, or `output`."""
    count = count_outputs(source)
    names = tuple(one.name for one in config.outputs)
    if names and len(names) != count:
        raise ConversionError(f"the model has {count} outputs, the configuration {len(names)}")
    if not names:
        names = ("output",) if count == 1 else tuple(f"output_{at}" for at in range(count))
    return replace(source, outputs=names)


def _has(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def _labels(config: ModelConfig, folder: Path) -> tuple[str, ...] | None:
    """The lines of the labels file that a configuration names."""
    post = config.postprocessing
    if not isinstance(post, (Classification, Detection)) or post.labels is None:
        return None
    return read_labels(folder / post.labels)

"""How does torch execute `model.pt2`, on the CPU or on CUDA?

Only files of `torch.export.save` are read, and of those only what `vision.runtime.pt2` lets pass.
On CUDA: convolutions in channels-last order if the program allows it, float32 products in half
precision (autocast; `instances.half: false` for the file's own), and a CUDA graph for each bucket,
see `vision.runtime.torch_cuda`. On the CPU the file runs as it is. The number of CPU threads is
torch's for the whole process: the version loaded last sets it.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vision.config import ModelConfig
from vision.errors import LoadError, MissingLibrary
from vision.runtime.base import Instance, Loaded
from vision.runtime.loading import Axis, agreed, batch_limit, ordinal, reason, split_batch
from vision.runtime.pt2 import checked
from vision.runtime.torch_cuda import CudaInstance
from vision.tensors import Array, Arrays, DataType, TensorSpec, data_type_of

_SPACES = frozenset({"aten", "prims", "quantized_decomposed", "torchvision"})
_BEYOND_TENSORS = frozenset({"from_file", "save", "warn", "_print"})
"""The operators of `aten` that read or write files, or write to the log."""

_WRAPPERS = frozenset({"cond", "wrap_with_autocast", "wrap_with_set_grad_enabled"})
_PYTHON = re.compile(
    r"_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc|sqrt)"
    r"|torch\._?sym_(not|float|int|max|min|ite|sqrt)"
)
_OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(\w+)(?:\.(\w+))?")


class TorchRuntime:
    """Executes exported programs."""

    name: ClassVar[str] = "torch"
    file_name: ClassVar[str] = "model.pt2"

    def load(self, file: Path, config: ModelConfig) -> Loaded:
        """See `Runtime.load`."""
        torch = _library(file)
        device = _device(torch, file, config.instances.device)
        copy = checked(file, lambda target: _known(torch, target))
        try:
            program = torch.export.load(copy)
            if device != "cpu":
                program = moved(program, device)
            return Program(torch, program, device, file, config)
        except LoadError:
            raise
        except Exception as error:  # torch raises whatever its parts raise.
            raise LoadError(f"{file}: {reason(error)}") from error


class Program:
    """An exported program as a module, whose weights its instances share."""

    __slots__ = (
        "_config",
        "_dense",
        "_module",
        "_packing",
        "_torch",
        "device",
        "inputs",
        "max_batch",
        "memory_bytes",
        "outputs",
        "runtime",
    )

    def __init__(
        self, torch: Any, program: Any, device: str, file: Path, config: ModelConfig
    ) -> None:
        self._packing = Packing(program, file, [tensor.name for tensor in config.outputs])
        ins, inputs = _specs(torch, program, file, self._packing.inputs, "placeholder")
        outs, outputs = _specs(torch, program, file, self._packing.outputs, "output")
        self.inputs = agreed(file, "input", inputs, config.inputs)
        self.outputs = agreed(file, "output", outputs, config.outputs)
        self.max_batch = batch_limit(file, ins, outs, config.batching.max_batch)
        self._module = program.module(check_guards=False)
        self._dense = device != "cpu" and takes_channels_last(torch, self, device)
        if device != "cpu":
            torch.cuda.synchronize(device)  # Instances have streams of their own.
        tensors = [*self._module.parameters(), *self._module.buffers()]
        self.memory_bytes = sum(one.numel() * one.element_size() for one in tensors)
        self.runtime = TorchRuntime.name
        self.device = device
        self._torch = torch
        self._config = config

    def instance(self) -> Instance:
        """See `Loaded.instance`."""
        self._torch.set_num_threads(self._config.instances.threads or 1)
        if self.device == "cpu":
            return CpuInstance(self._torch, self)
        return CudaInstance(self._torch, self, self._config, dense=self._dense)

    def arrange(self, order: Any) -> None:
        """Bring the weights of convolutions into a memory order of torch's."""
        self._module.to(memory_format=order)

    def call(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Run the program on tensors by name."""
        # Not the module itself, whose hooks check shapes with sympy at each call: 0.2 ms for what
        # the service has checked.
        return self._packing.call(self._module.forward, tensors)

    def close(self) -> None:
        """Let the weights go."""
        self._module = None


class Packing:
    """In which arguments a program takes its inputs, and what it returns."""

    __slots__ = ("_arguments", "_keywords", "inputs", "outputs")

    def __init__(self, program: Any, file: Path, wanted: list[str]) -> None:
        names = list(program.graph_signature.user_inputs)
        packed = program.call_spec.in_spec.children()
        arguments, keywords = packed[0].children(), packed[1].children()
        leaves = [*arguments, *keywords]
        if len(leaves) != len(names) or not all(leaf.is_leaf() for leaf in leaves):
            raise LoadError(f"{file}: takes inputs in containers: export it with plain arguments")
        self._arguments = names[: len(arguments)]
        self._keywords = dict(zip(packed[1].context or (), names[len(arguments) :], strict=True))
        self.inputs = names
        self.outputs = _output_names(program.call_spec.out_spec, file, wanted)

    def call(self, forward: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """Call the program; its results by name."""
        arguments = [tensors[name] for name in self._arguments]
        keywords = {word: tensors[name] for word, name in self._keywords.items()}
        result = forward(*arguments, **keywords)
        if isinstance(result, dict):
            return result
        return dict(
            zip(
                self.outputs,
                result if isinstance(result, tuple | list) else (result,),
                strict=True,
            )
        )


class CpuInstance:
    """Runs the shared program on the CPU."""

    __slots__ = ("_call", "_names", "_torch")

    def __init__(self, torch: Any, program: Program) -> None:
        self._torch = torch
        self._call = program.call
        self._names = [spec.name for spec in program.outputs]

    def allocate(self, dtype: DataType, shape: tuple[int, ...]) -> Array:
        """Plain memory, which torch reads in place."""
        return np.empty(shape, dtype.numpy)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See `Instance.run`."""
        from_numpy = self._torch.from_numpy
        with self._torch.inference_mode():
            results = self._call({name: from_numpy(array) for name, array in inputs.items()})
            return {name: results[name].contiguous().numpy() for name in self._names}

    def close(self) -> None:
        """Nothing of its own to give back."""


def _library(file: Path) -> Any:
    try:
        return import_module("torch")
    except ImportError as error:
        raise MissingLibrary(
            f"{file}: torch is not installed ({reason(error)}): pip install 'sluice[vision-torch]'"
        ) from error


def _device(torch: Any, file: Path, wanted: str) -> str:
    """`cpu` or `cuda:0`."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        raise MissingLibrary(
            f"{file}: device {wanted}: this torch finds no CUDA device, or is built without CUDA"
        )
    number, count = ordinal(wanted), torch.cuda.device_count()
    if number >= count:
        raise LoadError(f"{file}: there is no device cuda:{number}, only {count} in all")
    return f"cuda:{number}"


def moved(program: Any, device: str) -> Any:
    """The program on a device: its weights, and the tensors that it makes itself."""
    return import_module("torch.export.passes").move_to_device_pass(program, device)


def takes_channels_last(torch: Any, program: Program, device: str) -> bool:
    """Bring weights and a first batch into channels-last order, which convolutions run faster in.

    A program that was exported for the other order may take a view that this one does not have:
    then the weights are brought back.
    """
    if any(None in spec.shape for spec in program.inputs):
        return False
    program.arrange(torch.channels_last)
    zeros = {}
    for spec in program.inputs:
        kind = getattr(torch, spec.dtype.numpy.name)
        zeros[spec.name] = torch.zeros((1, *spec.shape), dtype=kind, device=device)
        if len(spec.shape) == 3:
            zeros[spec.name] = zeros[spec.name].contiguous(memory_format=torch.channels_last)
    try:
        with torch.inference_mode():
            program.call(zeros)
    except RuntimeError:
        program.arrange(torch.contiguous_format)
        return False
    return True


def _known(torch: Any, target: Any) -> bool:
    """Whether a node may call this: operators on tensors, and arithmetic of sizes."""
    if not isinstance(target, str):
        return False
    if _PYTHON.fullmatch(target):
        return True
    parts = _OPERATOR.fullmatch(target)
    if parts is None:
        return False
    space, name, overload = parts.groups()
    found = getattr(getattr(torch.ops, space, None), name, None)
    if overload is None:
        wrapper = isinstance(found, torch._ops.HigherOrderOperator)
        return space == "higher_order" and name in _WRAPPERS and wrapper
    found = getattr(found, overload, None)
    operator = isinstance(found, torch._ops.OpOverload) and found.namespace in _SPACES
    return operator and name not in _BEYOND_TENSORS


def _output_names(spec: Any, file: Path, wanted: list[str]) -> list[str]:
    """A dict names its results; else the configuration does, or they are numbered."""
    children = spec.children()
    if not spec.is_leaf() and not all(child.is_leaf() for child in children):
        raise LoadError(f"{file}: returns containers in containers")
    if spec.type is dict:
        return list(spec.context)
    count = 1 if spec.is_leaf() else len(children)
    if len(wanted) == count:
        return wanted
    return ["output"] if count == 1 else [f"output_{place}" for place in range(count)]


def _specs(
    torch: Any, program: Any, file: Path, names: list[str], kind: str
) -> tuple[list[Axis], list[TensorSpec]]:
    """The batch axes and specs of what the program takes or returns."""
    nodes = {node.name: node for node in program.graph.nodes}
    signature = program.graph_signature
    kept = signature.user_inputs if kind == "placeholder" else signature.user_outputs
    axes, specs = [], []
    for name, node in zip(names, kept, strict=True):
        tensor = nodes[node].meta["val"] if isinstance(node, str) else None
        if not isinstance(tensor, torch.Tensor):
            raise LoadError(f"{file}: {name} is no tensor")
        sizes = [size if isinstance(size, int) else None for size in tensor.shape]
        batch, shape = split_batch(file, name, sizes)
        axes.append(batch)
        specs.append(TensorSpec(name, _data_type(torch, tensor.dtype, name, file), shape))
    return axes, specs


def _data_type(torch: Any, found: Any, name: str, file: Path) -> DataType:
    try:
        return data_type_of(torch.empty(0, dtype=found).numpy().dtype)
    except (TypeError, ValueError) as error:
        raise LoadError(f"{file}: {name} is {found}, which is no type of tensors here") from error

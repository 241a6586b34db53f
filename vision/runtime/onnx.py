"""How does ONNX Runtime execute `model.onnx`, on the CPU or through CUDA?

All instances of a version share one session: its `run` may be called from several threads, holds
no lock of Python's meanwhile, and keeps nothing between calls. So weights are in memory once
however many instances there are. With one thread for each execution (the default) the call runs on
the instance's own thread. With more the session has one pool of them, which its instances share;
they sleep when idle, for spinning would burn a core to save some µs at the next call.

Plain `run` with feeds, not I/O binding: on the digits model (18 µs a call) to bind new
addresses for each batch costs 7 µs more than `run`, and a fixed binding, which would save 5 µs,
needs every batch at the same address.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vision.config import ModelConfig
from vision.errors import LoadError, MissingLibrary
from vision.runtime.base import Instance, Loaded
from vision.runtime.loading import Axis, agreed, batch_limit, ordinal, reason, split_batch
from vision.tensors import Array, Arrays, DataType, TensorSpec

_log = logging.getLogger("sluice.vision.runtime")

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_TYPES = {
    "tensor(bool)": DataType.BOOL,
    "tensor(uint8)": DataType.UINT8,
    "tensor(uint16)": DataType.UINT16,
    "tensor(uint32)": DataType.UINT32,
    "tensor(uint64)": DataType.UINT64,
    "tensor(int8)": DataType.INT8,
    "tensor(int16)": DataType.INT16,
    "tensor(int32)": DataType.INT32,
    "tensor(int64)": DataType.INT64,
    "tensor(float16)": DataType.FP16,
    "tensor(float)": DataType.FP32,
    "tensor(double)": DataType.FP64,
}


class OnnxRuntime:
    """Executes ONNX files; precision is what the file has in it."""

    name: ClassVar[str] = "onnx"
    file_name: ClassVar[str] = "model.onnx"

    def load(self, file: Path, config: ModelConfig) -> Loaded:
        """See `Runtime.load`. `auto` that does not get CUDA says so in the log."""
        library = _library(file)
        providers = _providers(library, file, config.instances.device)
        session = _session(library, file, config, providers)
        device = _device(session, file, config.instances.device, asked=len(providers) > 1)
        return OnnxLoaded(session, device, file, config)


class OnnxLoaded:
    """One session, and what its file takes and gives."""

    __slots__ = ("_session", "device", "inputs", "max_batch", "memory_bytes", "outputs", "runtime")

    def __init__(self, session: Any, device: str, file: Path, config: ModelConfig) -> None:
        ins, inputs = _specs(file, session.get_inputs())
        outs, outputs = _specs(file, session.get_outputs())
        self.inputs = agreed(file, "input", inputs, config.inputs)
        self.outputs = agreed(file, "output", outputs, config.outputs)
        self.max_batch = batch_limit(file, ins, outs, config.batching.max_batch)
        # Weights are most of a file, and stand in memory as they do in it. Those in files of
        # their own lie beside it and begin with its name, as torch.onnx.export writes them.
        self.memory_bytes = sum(one.stat().st_size for one in file.parent.glob(f"{file.name}*"))
        self.runtime = OnnxRuntime.name
        self.device = device
        self._session = session

    def instance(self) -> Instance:
        """See `Loaded.instance`. Costs nothing: the session is shared."""
        return OnnxInstance(self._session, self.outputs)

    def close(self) -> None:
        """Let the session go; its memory is given back with the last instance."""
        self._session = None


class OnnxInstance:
    """The way into a shared session."""

    __slots__ = ("_names", "_run")

    def __init__(self, session: Any, outputs: tuple[TensorSpec, ...]) -> None:
        self._run = session.run
        self._names = [spec.name for spec in outputs]

    def allocate(self, dtype: DataType, shape: tuple[int, ...]) -> Array:
        """Plain memory: ONNX Runtime reads it in place on the CPU, and copies to a GPU itself."""
        return np.empty(shape, dtype.numpy)

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See `Instance.run`. The arrays are new ones. 2.5 µs above the library's own call."""
        return dict(zip(self._names, self._run(self._names, dict(inputs)), strict=True))

    def close(self) -> None:
        """Let the session go."""
        self._run = None


def _library(file: Path) -> Any:
    """The library, which only the extra `vision` brings; tests put a stand-in in its place."""
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise MissingLibrary(
            f"{file}: onnxruntime is not installed ({reason(error)}): pip install 'sluice[vision]'"
        ) from error


def _session(library: Any, file: Path, config: ModelConfig, providers: list[Any]) -> Any:
    """Open the file. Raises `LoadError` with the first line of the library's reason.

    Weights in files of their own are looked for beside the file; a path or a link that leads out of
    the folder is refused by the library.
    """
    try:
        session = library.InferenceSession(
            str(file), _options(library, config), providers=providers
        )
    except Exception as error:  # The library's errors have no base class but this one.
        raise LoadError(f"{file}: {reason(error)}") from error
    # Or a failing call would build the session anew on the CPU, in the midst of a request, and
    # say so on standard output.
    session.disable_fallback()
    return session


def _options(library: Any, config: ModelConfig) -> Any:
    options = library.SessionOptions()
    options.intra_op_num_threads = config.instances.threads or 1
    options.inter_op_num_threads = 1  # Read only in parallel mode, which would gain nothing.
    # Errors come as exceptions, warnings are for the exporter. At 3 each error of a client's input
    # would be on standard error as well, in colour.
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # On x86 without VNNI the quick products of 8 bits overflow: of 450 digits 413 came out right
    # instead of 448. The exact ones cost a fifth more there, and nothing elsewhere.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _providers(library: Any, file: Path, device: str) -> list[Any]:
    """What executes, in order; the CPU stays for operators that CUDA does not have."""
    if device == "cpu":
        return [_CPU]
    _preload(library)
    if _CUDA in library.get_available_providers():
        return [(_CUDA, {"device_id": str(ordinal(device))}), _CPU]
    if device == "auto":
        return [_CPU]
    raise MissingLibrary(
        f"{file}: device {device}: this onnxruntime is built without CUDA: "
        "pip install onnxruntime-gpu in its place"
    )


@cache
def _preload(library: Any) -> None:
    """Open CUDA's libraries where pip puts them, where the loader would not look (1.21 and newer).

    It says on standard output which ones are missing, hence once; a build without CUDA: nothing.
    """
    load = getattr(library, "preload_dlls", None)
    if load is not None:
        load()


def _device(session: Any, file: Path, device: str, asked: bool) -> str:
    """Where the session really runs: the library falls back to the CPU with a mere log line."""
    if _CUDA in session.get_providers():
        return f"cuda:{ordinal(device)}"
    if device.startswith("cuda"):
        raise MissingLibrary(
            f"{file}: device {device}: onnxruntime-gpu found no CUDA device, or not the "
            "libraries of its version: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    if asked:
        _log.warning(
            "%s: onnxruntime-gpu could not start CUDA: it runs on the CPU; libraries that it may "
            "lack: pip install 'onnxruntime-gpu[cuda,cudnn]'",
            file,
        )
    return "cpu"


def _specs(file: Path, nodes: Any) -> tuple[list[Axis], list[TensorSpec]]:
    """The batch axes and the specs of a session's inputs or outputs."""
    axes, specs = [], []
    for node in nodes:
        if node.type not in _TYPES:
            raise LoadError(f"{file}: {node.name} is {node.type}, which is no type of tensors here")
        sizes = [size if isinstance(size, int) and size > 0 else None for size in node.shape]
        batch, shape = split_batch(file, node.name, sizes)
        axes.append(batch)
        specs.append(TensorSpec(node.name, _TYPES[node.type], shape))
    return axes, specs

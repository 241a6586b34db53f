"""How does one instance run batches of an exported program on CUDA?

    inputs ─► pinned ─► device ─► program, or the CUDA graph of its bucket ─► device ─► pinned

One stream for each instance; the weights are shared. Buckets and filling up are those of
`vision.runtime.buckets`: a bucket's first run is a plain one, which lets the libraries choose their
kernels, then it is recorded. If that fails, plain runs go on.

Everything of torch is passed in: this module imports neither torch nor CUDA.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from vision.config import ModelConfig
from vision.runtime.buckets import bucket_for, buckets_of
from vision.tensors import Array, Arrays, DataType, TensorSpec

_log = logging.getLogger("sluice.vision.runtime")


class Program(Protocol):
    """What an instance needs to know of a loaded file."""

    device: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int

    def call(self, tensors: dict[str, Any]) -> dict[str, Any]:
        """Run the program on tensors of the device."""


class _Bucket:
    """The tensors that a graph reads and writes, and the graph, if there is one."""

    __slots__ = ("graph", "inputs", "outputs")

    def __init__(self, inputs: dict[str, Any]) -> None:
        self.inputs = inputs
        self.outputs: dict[str, Any] = {}
        self.graph: Any = None


class CudaInstance:
    """See `vision.runtime.base.Instance`."""

    __slots__ = (
        "_buckets",
        "_dense",
        "_device",
        "_half",
        "_program",
        "_ready",
        "_results",
        "_stream",
        "_torch",
    )

    def __init__(self, torch: Any, program: Program, config: ModelConfig, dense: bool) -> None:
        """`dense`: whether images may be given in channels-last order."""
        self._torch = torch
        self._program = program
        self._device = torch.device(program.device)
        self._half = config.instances.half
        self._dense = dense
        definite = all(None not in spec.shape for spec in program.inputs)
        sizes = buckets_of(config.batching.preferred, program.max_batch)
        self._buckets = sizes if definite else ()
        self._ready: dict[int, _Bucket] = {}
        self._results: dict[str, Any] = {}
        self._stream = torch.cuda.Stream(self._device)

    def allocate(self, dtype: DataType, shape: tuple[int, ...]) -> Array:
        """Pinned memory, from which the device copies by itself; torch frees it with the array."""
        array: Array = self._torch.empty(
            shape, dtype=self._torch_type(dtype), pin_memory=True
        ).numpy()
        return array

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See `Instance.run`. The outputs are views of pinned memory, overwritten by the next."""
        with self._torch.inference_mode(), self._torch.cuda.stream(self._stream):
            try:
                return self._run(inputs)
            finally:
                # Also after a failure, since copies from the caller's buffers may be under way.
                self._stream.synchronize()

    def close(self) -> None:
        """Give graphs and buffers back; what runs is waited for."""
        self._stream.synchronize()
        self._ready.clear()
        self._results.clear()

    def _run(self, inputs: Arrays) -> dict[str, Array]:
        rows = len(next(iter(inputs.values())))
        bucket = bucket_for(rows, self._buckets)
        if bucket is None:
            tensors = {name: self._placed(array) for name, array in inputs.items()}
            outputs = self._call(tensors)
        else:
            outputs = self._bucket(inputs, rows, bucket)
        fetched = {spec.name: self._fetch(spec, outputs[spec.name][:rows]) for spec in self._specs}
        self._stream.synchronize()
        return {name: tensor.numpy() for name, tensor in fetched.items()}

    @property
    def _specs(self) -> tuple[TensorSpec, ...]:
        return self._program.outputs

    def _bucket(self, inputs: Arrays, rows: int, size: int) -> dict[str, Any]:
        """Fill the bucket's inputs and run it, by its graph from the second time on."""
        found = self._ready.get(size)
        new = found is None
        if found is None:
            found = _Bucket({spec.name: self._blank(spec, size) for spec in self._program.inputs})
        for name, tensor in found.inputs.items():
            tensor[:rows].copy_(self._torch.from_numpy(inputs[name]), non_blocking=True)
        if found.graph is not None:
            found.graph.replay()
            return found.outputs
        outputs = self._call(found.inputs)
        if new:
            self._stream.synchronize()
            self._record(found, size)
            self._ready[size] = found
        return outputs

    def _record(self, bucket: _Bucket, size: int) -> None:
        """Record the graph of a bucket that has run once; on failure it goes on without."""
        graph = self._torch.cuda.CUDAGraph()
        try:
            # Thread-local: other instances may allocate meanwhile in threads of their own.
            with self._torch.cuda.graph(
                graph, stream=self._stream, capture_error_mode="thread_local"
            ):
                bucket.outputs = self._call(bucket.inputs)
        except RuntimeError as error:
            _log.warning("no CUDA graph for a batch of %d, it runs without: %s", size, error)
        else:
            bucket.graph = graph

    def _call(self, tensors: dict[str, Any]) -> dict[str, Any]:
        with self._precision():
            return self._program.call(tensors)

    def _precision(self) -> AbstractContextManager[Any]:
        """Half precision where it is safe. Casts are not kept, for a graph would lose them."""
        if not self._half:
            return nullcontext()
        manager: AbstractContextManager[Any] = self._torch.autocast(
            "cuda", dtype=self._torch.float16, cache_enabled=False
        )
        return manager

    def _blank(self, spec: TensorSpec, size: int) -> Any:
        """Zeros: a batch that is filled up keeps old rows, and zeros are valid indices too."""
        tensor = self._torch.zeros(
            (size, *spec.shape), dtype=self._torch_type(spec.dtype), device=self._device
        )
        return self._ordered(tensor)

    def _placed(self, array: Array) -> Any:
        tensor = self._torch.from_numpy(array).to(self._device, non_blocking=True)
        return self._ordered(tensor)

    def _ordered(self, tensor: Any) -> Any:
        if self._dense and tensor.dim() == 4:
            return tensor.contiguous(memory_format=self._torch.channels_last)
        return tensor

    def _fetch(self, spec: TensorSpec, tensor: Any) -> Any:
        """Begin the copy of an output's rows to pinned memory, in the file's type."""
        wanted = self._torch_type(spec.dtype)
        kept = self._results.get(spec.name)
        if kept is None or kept.shape[1:] != tensor.shape[1:] or len(kept) < len(tensor):
            shape = (max(self._program.max_batch, len(tensor)), *tensor.shape[1:])
            kept = self._torch.empty(shape, dtype=wanted, pin_memory=True)
            self._results[spec.name] = kept
        target = kept[: len(tensor)]
        target.copy_(tensor.to(wanted), non_blocking=True)
        return target

    def _torch_type(self, dtype: DataType) -> Any:
        return getattr(self._torch, dtype.numpy.name)

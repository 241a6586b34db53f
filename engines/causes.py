"""Why did this engine die? One plain sentence from its last lines and its exit status.

The table was read off real deaths of vLLM 0.32 where this was possible without a GPU, and off the
messages in its source where it was not. The first entry that matches wins, so the specific ones
come first: out of memory often ends in a general "initialization failed".
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from typing import Final, NamedTuple


class _Cause(NamedTuple):
    pattern: str
    meaning: str  # `{0}` is the first group of the pattern.


_CAUSES: Final = (
    _Cause(
        r"unrecognized arguments: (.+)",
        "this version of the engine does not know {0}",
    ),
    _Cause(
        r"error: argument (\S+): (?:invalid|expected) ",
        "the option {0} has a value that this version of the engine does not accept",
    ),
    _Cause(
        r"[Aa]ddress already in use|EADDRINUSE",
        "its port is in use by another process",
    ),
    _Cause(
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len",
        "the model cannot do {0} tokens: lower max_model_len",
    ),
    _Cause(
        r"number of attention heads \((\d+)\) must be divisible by tensor parallel size",
        "tensor_parallel_size must divide the model's {0} attention heads",
    ),
    _Cause(
        r"GatedRepo|gated repo|40[13] Client Error",
        "the model's repository demands a login: accept its license and set HF_TOKEN",
    ),
    _Cause(
        r"RepositoryNotFound|Repository Not Found|HFValidationError|LocalEntryNotFound"
        r"|not a valid model identifier|does not appear to have a file named config\.json"
        r"|Invalid repository ID or local directory",
        "the model was not found: it is neither a folder with a config.json nor an id on the Hub "
        "(is the path right? is the Hub reachable?)",
    ),
    _Cause(
        r"Model architectures? (.+?) (?:are|is) not supported",
        "the engine cannot run this architecture: {0}",
    ),
    _Cause(
        r"Free memory on device .*? is less than desired",
        "another process holds the GPU's memory: lower gpu_memory_utilization, or stop that one",
    ),
    _Cause(
        r"No available memory for the cache blocks|larger than the available KV cache memory",
        "no room is left for the KV cache: lower max_model_len, raise gpu_memory_utilization, "
        "or spread the model with tensor_parallel_size",
    ),
    _Cause(
        r"CUDA out of memory|torch\.OutOfMemoryError|CUDA error: out of memory|HIP out of memory",
        "the GPU ran out of memory: lower gpu_memory_utilization or max_num_seqs, "
        "or spread the model with tensor_parallel_size",
    ),
    _Cause(
        r"on kv cache allocation is less than requested memory for kv \((.+?)\)"
        r"|Cannot allocate memory|\bMemoryError\b|DefaultCPUAllocator: can't allocate",
        "the machine has too little free memory: lower VLLM_CPU_KVCACHE_SPACE or max_model_len, "
        "or end other programs",
    ),
    _Cause(
        r"Found no NVIDIA driver|No CUDA GPUs are available|Failed to infer device type"
        r"|lib(?:cuda|cudart|nvidia-ml)\.so[.\d]*: cannot open|NVMLError",
        "no usable GPU: the CUDA build of vLLM found no NVIDIA driver or device "
        "(on a machine without one, install vllm-cpu)",
    ),
    _Cause(
        r"No space left on device",
        "no space is left on a disk, or in /dev/shm",
    ),
    _Cause(
        r"(?:Error|python[\d.]*): No module named '?([\w.]+)",
        "its Python environment is incomplete: the module {0} is missing",
    ),
)

# The end of a traceback, or what pydantic says in place of one.
_ERROR_LINE: Final = re.compile(
    r"\b(?:[A-Za-z_]+\.)*([A-Z]\w*(?:Error|Exception)|Value error)[:,] (.+)"
)
# A parent that reports a child's death, which is never the reason.
_HEARSAY: Final = re.compile(r"See root cause above|\d+ validation error")


def explain(lines: Sequence[str], status: int) -> str:
    """The reason as a clause without a full stop; `status` as subprocess gives it (-9: SIGKILL)."""
    for cause in _CAUSES:
        for line in lines:
            if (found := re.search(cause.pattern, line)) is not None:
                return cause.meaning.format(next(filter(None, found.groups()), ""))
    if status == -signal.SIGKILL:
        return "something killed it (SIGKILL), most often the kernel when memory runs out"
    if status < 0:
        return f"it was ended by {_signal_name(-status)}"
    for line in reversed(lines):
        said = _ERROR_LINE.search(line)
        if said is not None and not _HEARSAY.search(line):
            return f"{said[1]}: {said[2].strip()}"
    return "it gave no reason that is known here; its last lines tell what it did"


def ending(status: int) -> str:
    """How a process ended, for people: `exit code 1` or `SIGKILL`."""
    return f"exit code {status}" if status >= 0 else _signal_name(-status)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

"""Is this an option of `vllm serve`, and may it have this value?

The data is in `engines.options`; here are the questions to ask of it and the sentences that say
what is wrong. Nothing is raised: the callers gather problems and report all of them at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Final

from engines import options

ExtraValue = bool | int | float | str | tuple[str, ...]

# Options that older guides name and that are gone, with what took their place.
RETIRED: Final = MappingProxyType(
    {
        "swap_space": "vLLM no longer swaps; use kv_offloading_size or cpu_offload_gb",
        "task": "use runner and convert",
        "guided_decoding_backend": "use structured_outputs_config",
        "disable_log_requests": "requests are not logged unless enable_log_requests is set",
        "num_scheduler_steps": "multi-step scheduling is gone; async_scheduling took its place",
        "use_v2_block_manager": "there is only one block manager",
        "enable_reasoning": "reasoning_parser is enough",
        "rope_scaling": "use hf_overrides",
        "device": "vLLM detects it",
        "speculative_model": "use speculative_config",
        "num_speculative_tokens": "use speculative_config",
    }
)

# Options that change where or whether the engine answers HTTP, so that nobody could reach it.
_UNREACHABLE: Final = frozenset({"config", "grpc", "headless", "tokens_only", "uds"})

# Everybody on a machine can read everybody's command lines.
_SECRETS: Final = MappingProxyType(
    {
        "api_key": "name the variable that holds the key in api_key_env",
        "hf_token": "set HF_TOKEN in env",
    }
)


def canonical(name: str) -> str:
    """The Python spelling of an option: `--max-model-len` and `max-model-len` are max_model_len."""
    return name.removeprefix("--").replace("-", "_")


def unknown(name: str, known: Iterable[str]) -> str:
    """Say that an option does not exist, and which was probably meant."""
    if name in RETIRED:
        return f"{name}: not an option of vLLM {options.VLLM_VERSION}: {RETIRED[name]}"
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{name}: no such option in vLLM {options.VLLM_VERSION}{hint}"


def choice_problems(name: str, value: object) -> Iterator[str]:
    """What is wrong with the value of an option that accepts only certain words."""
    choices = options.CHOICES.get(name)
    if choices is not None and str(value) not in choices:
        near = difflib.get_close_matches(str(value), sorted(choices), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        yield f"{name}: {value!r} is not one of {', '.join(sorted(choices))}{hint}"


def extra_problems(name: str, value: ExtraValue, typed: Iterable[str]) -> Iterator[str]:
    """What is wrong with one entry of `extra_args`; `typed` are the fields that a spec has."""
    typed = frozenset(typed)
    if name in typed:
        yield f"extra_args.{name}: set the field {name} of the spec instead"
    elif name in _SECRETS:
        yield f"extra_args.{name}: a command line is public; {_SECRETS[name]}"
    elif name in _UNREACHABLE or name == "model":
        yield f"extra_args.{name}: the gateway must reach this model by HTTP at host and port"
    elif name not in options.OPTIONS:
        yield f"extra_args.{unknown(name, options.OPTIONS | typed)}"
    elif (shape := _wrong_shape(name, value)) is not None:
        yield f"extra_args.{name}: {shape}"
    else:
        words = value if isinstance(value, tuple) else (value,)
        for word in words:
            yield from (f"extra_args.{problem}" for problem in choice_problems(name, word))


def _wrong_shape(name: str, value: ExtraValue) -> str | None:
    switch = name in options.FLAGS or name in options.TOGGLES
    if switch and not isinstance(value, bool):
        return f"is on or off: true or false, not {value!r}"
    if not switch and isinstance(value, bool):
        return f"takes a value, not {str(value).lower()}"
    if isinstance(value, tuple) and name not in options.LISTS:
        return "takes one value, not a list"
    return None

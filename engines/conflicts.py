"""Which options of an engine contradict each other?

Each rule looks at the values of a spec, by field name, and yields one sentence per problem that
begins with the option to change. vLLM has most of these rules too, but finds out late: after it has
imported torch, or after it has loaded the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engines import options

Values = Mapping[str, Any]


def conflicts(values: Values) -> Iterator[str]:
    """Every contradiction within the values of one spec."""
    for rule in (
        _tools,
        _numbers,
        _batch,
        _devices,
        _lora,
        _speculation,
        _pooling,
        _names,
        _graphs,
    ):
        yield from rule(values)


def device_problems(values: Values, visible: int | None) -> Iterator[str]:
    """Say whether the model is spread over more devices than there are; None is not known."""
    needed = (values["tensor_parallel_size"] or 1) * (values["pipeline_parallel_size"] or 1)
    if visible is not None and needed > max(visible, 1):  # With none, a CPU build serves.
        yield (
            f"tensor_parallel_size: {needed} devices are needed "
            f"(tensor_parallel_size x pipeline_parallel_size), {visible} are visible"
        )


def visible_devices(env: Mapping[str, str]) -> int | None:
    """How many devices CUDA_VISIBLE_DEVICES shows; None if it is not set."""
    listed = env.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return None
    devices = [device.strip() for device in listed.split(",")]
    # CUDA stops at the first invalid entry, and -1 is the usual way to hide all of them.
    return next((n for n, device in enumerate(devices) if device in ("", "-1")), len(devices))


def _tools(values: Values) -> Iterator[str]:
    extra = values["extra_args"]
    parser, auto = values["tool_call_parser"], values["enable_auto_tool_choice"]
    if auto and parser is None:
        yield "enable_auto_tool_choice: needs tool_call_parser, which reads the model's calls"
    if parser is not None and not auto:
        yield "tool_call_parser: has no effect without enable_auto_tool_choice: true"
    for name, built_in, plugin in (
        ("tool_call_parser", options.TOOL_PARSERS, "tool_parser_plugin"),
        ("reasoning_parser", options.REASONING_PARSERS, "reasoning_parser_plugin"),
    ):
        chosen = values[name]
        if chosen is not None and chosen not in built_in and plugin not in extra:
            yield f"{name}: {chosen!r} is not one of {', '.join(sorted(built_in))}"


def _numbers(values: Values) -> Iterator[str]:
    method, dtype = values["quantization"], values["dtype"]
    if method is None:
        return
    if method not in options.QUANTIZATIONS:
        yield f"quantization: {method!r} is not one of {', '.join(sorted(options.QUANTIZATIONS))}"
        return
    able = options.QUANTIZATIONS[method]
    wanted = {"half": "float16", "float": "float32"}.get(dtype, dtype)
    if wanted not in (None, "auto") and wanted not in able:
        yield f"dtype: quantization {method} computes in {' or '.join(sorted(able))}, not {dtype}"


def _batch(values: Values) -> Iterator[str]:
    step, length, seqs = (
        values[name] for name in ("max_num_batched_tokens", "max_model_len", "max_num_seqs")
    )
    if step is None:
        return
    if length is not None and step < length and values["enable_chunked_prefill"] is False:
        yield (
            f"max_num_batched_tokens: {step} is less than max_model_len {length}, "
            "so without enable_chunked_prefill the longest prompts would never run"
        )
    if seqs is not None and step < seqs:
        yield f"max_num_batched_tokens: {step} is less than max_num_seqs {seqs}"


def _devices(values: Values) -> Iterator[str]:
    listed = values["extra_args"].get("device_ids")
    if listed is not None:
        yield from device_problems(values, len(str(listed).split(",")))
    else:
        yield from device_problems(values, visible_devices(values["env"]))


def _lora(values: Values) -> Iterator[str]:
    if values["lora_modules"] and values["extra_args"].get("enable_lora") is False:
        yield "lora_modules: adapters are listed, but extra_args.enable_lora is false"
    for name in values["lora_modules"]:
        if name in values["served_model_name"]:
            yield f"lora_modules: {name!r} is also a served_model_name"


def _speculation(values: Values) -> Iterator[str]:
    config = values["speculative_config"]
    if config is None:
        return
    if not config.get("method") and not config.get("model"):
        yield "speculative_config: needs a method (such as ngram) or a draft model"
    if config.get("method") == "ngram" and not config.get("num_speculative_tokens"):
        yield "speculative_config: ngram needs num_speculative_tokens"


def _pooling(values: Values) -> Iterator[str]:
    if values["runner"] != "pooling":
        return
    for name in ("tool_call_parser", "reasoning_parser", "speculative_config"):
        if values[name] is not None:
            yield f"{name}: has no effect, since runner: pooling writes no text"


def _names(values: Values) -> Iterator[str]:
    names = values["served_model_name"]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"served_model_name: {name!r} is there twice"
    if values["api_key_env"] is not None and "VLLM_API_KEY" in values["env"]:
        yield "api_key_env: VLLM_API_KEY is in env too; keep one of them"


def _graphs(values: Values) -> Iterator[str]:
    if not values["enforce_eager"]:
        return
    for name in ("cudagraph_capture_sizes", "max_cudagraph_capture_size"):
        if name in values["extra_args"]:
            yield f"extra_args.{name}: has no effect, since enforce_eager captures no CUDA graphs"

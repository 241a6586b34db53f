"""What a spec accepts, what it refuses and how it says so."""

import pytest

from engines import options
from engines.conflicts import conflicts, device_problems, visible_devices
from engines.known import RETIRED
from engines.spec import OWN_FIELDS, EngineSpec, SpecError, parse_spec


def problems(**values: object) -> tuple[str, ...]:
    with pytest.raises(SpecError) as refused:
        parse_spec({"model": "org/model", **values})
    return refused.value.problems


def test_a_model_is_enough():
    """Everything else is left to vLLM."""
    spec = parse_spec({"model": "org/model"})

    assert spec.model_dump(exclude_none=True, exclude_defaults=True) == {"model": "org/model"}
    assert (spec.host, spec.port) == ("127.0.0.1", 8000)


def test_every_field_is_an_option_of_vllm():
    """A field that vLLM does not know could never be handed to it."""
    assert EngineSpec.model_fields.keys() - OWN_FIELDS <= options.OPTIONS
    assert not (OWN_FIELDS & options.OPTIONS) - {"model"}


def test_retired_options_are_really_gone():
    """The table of old names must not shadow an option that exists."""
    assert not RETIRED.keys() & options.OPTIONS


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("gpu_memory_utilisation", "did you mean gpu_memory_utilization?"),
        ("max_model_length", "did you mean max_model_len?"),
        ("--max-model-len", "write max_model_len"),
        ("block_size", "goes under extra_args"),
        ("swap_space", "use kv_offloading_size or cpu_offload_gb"),
        ("colour", "no such option"),
    ],
)
def test_an_unknown_key_is_named_with_its_likely_meaning(key, said):
    """A typo costs a second, not the half minute that vLLM takes to see it."""
    (problem,) = problems(**{key: 1})

    assert problem.startswith(f"{key}: ")
    assert said in problem


def test_all_problems_are_reported_at_once():
    """Nobody should have to start five times to learn of five mistakes."""
    said = problems(gpu_memory_utilization=1.5, port=0, max_model_len=-1)

    assert [line.split(":")[0] for line in said] == [
        "port",
        "max_model_len",
        "gpu_memory_utilization",
    ]


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"tool_call_parser": "hermes"}, "tool_call_parser"),
        ({"enable_auto_tool_choice": True}, "enable_auto_tool_choice"),
        ({"enable_auto_tool_choice": True, "tool_call_parser": "hermess"}, "tool_call_parser"),
        ({"reasoning_parser": "deepseek"}, "reasoning_parser"),
        ({"dtype": "fp16"}, "dtype"),
        ({"quantization": "gptqq"}, "quantization"),
        ({"quantization": "mxfp4", "dtype": "half"}, "dtype"),
        (
            {"max_num_batched_tokens": 512, "max_model_len": 1024, "enable_chunked_prefill": False},
            "max_num_batched_tokens",
        ),
        ({"max_num_batched_tokens": 64, "max_num_seqs": 128}, "max_num_batched_tokens"),
        (
            {"pipeline_parallel_size": 3, "extra_args": {"device_ids": "0,1"}},
            "tensor_parallel_size",
        ),
        (
            {"tensor_parallel_size": 2, "env": {"CUDA_VISIBLE_DEVICES": "0"}},
            "tensor_parallel_size",
        ),
        ({"lora_modules": {"a": "/a"}, "extra_args": {"enable_lora": False}}, "lora_modules"),
        ({"lora_modules": {"a": "/a"}, "served_model_name": ("a",)}, "lora_modules"),
        ({"speculative_config": {"num_speculative_tokens": 3}}, "speculative_config"),
        ({"speculative_config": {"method": "ngram"}}, "speculative_config"),
        ({"runner": "pooling", "reasoning_parser": "qwen3"}, "reasoning_parser"),
        ({"served_model_name": ("a", "a")}, "served_model_name"),
        ({"api_key_env": "K", "env": {"VLLM_API_KEY": "x"}}, "api_key_env"),
        (
            {"enforce_eager": True, "extra_args": {"cudagraph_capture_sizes": ("1",)}},
            "extra_args.cudagraph_capture_sizes",
        ),
        ({"preset": "fast"}, "preset"),
        ({"kv_cache_dtype": "fp9"}, "kv_cache_dtype"),
        ({"runner": "embed"}, "runner"),
    ],
)
def test_a_contradiction_names_the_option_to_change(values, option):
    """Each rule yields exactly one problem, which begins with the option."""
    (problem,) = problems(**values)

    assert problem.startswith(f"{option}: ")


@pytest.mark.parametrize(
    "values",
    [
        {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"},
        {
            "enable_auto_tool_choice": True,
            "tool_call_parser": "mine",
            "extra_args": {"tool_parser_plugin": "mine.py"},
        },
        {"quantization": "awq", "dtype": "half"},
        {"quantization": "mxfp4", "dtype": "auto"},
        {"max_num_batched_tokens": 512, "max_model_len": 1024},
        {"tensor_parallel_size": 2, "env": {"CUDA_VISIBLE_DEVICES": "0,1"}},
        {"lora_modules": {"a": "/a"}},
        {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
        {"preset": "none"},
        {"preset": "low_latency"},
        {"preset": "llama-2-chat"},
    ],
)
def test_what_fits_together_is_accepted(values):
    """The neighbours of the refused cases pass, so that no rule refuses too much."""
    spec = parse_spec({"model": "org/model", **values})

    assert list(conflicts(spec.model_dump())) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("seed", 1, "set the field seed of the spec instead"),
        ("--tensor-parallel-size", 1, "set the field tensor_parallel_size"),
        ("api_key", "s3cret", "api_key_env"),
        ("hf_token", "s3cret", "HF_TOKEN"),
        ("uds", "/tmp/x", "must reach this model by HTTP"),
        ("headless", True, "must reach this model by HTTP"),
        ("blok_size", 16, "did you mean block_size?"),
        ("block_size", True, "takes a value, not true"),
        ("block_size", ("1", "2"), "takes one value, not a list"),
        ("async_scheduling", "yes", "true or false, not 'yes'"),
        ("performance_mode", "through", "did you mean throughput?"),
        ("task", "embed", "use runner and convert"),
    ],
)
def test_an_extra_argument_is_checked_like_a_field(name, value, said):
    """Its name, its shape and its value are known, and a secret is not repeated."""
    (problem,) = problems(extra_args={name: value})

    assert problem.startswith("extra_args.")
    assert said in problem
    assert "s3cret" not in problem


def test_extra_arguments_may_be_spelled_with_dashes():
    """Names copied from a command line work."""
    spec = parse_spec({"model": "m", "extra_args": {"--max-log-len": 10, "block-size": 16}})

    assert spec.extra_args == {"max_log_len": 10, "block_size": 16}


def test_the_environment_stays_out_of_the_repr():
    """A spec may be logged; the keys in its environment may not."""
    assert "s3cret" not in repr(parse_spec({"model": "m", "env": {"HF_TOKEN": "s3cret"}}))


@pytest.mark.parametrize(
    ("listed", "count"),
    [("0", 1), ("0,1", 2), ("GPU-a, GPU-b", 2), ("", 0), ("-1", 0), ("0,-1,1", 1)],
)
def test_visible_devices_are_counted_as_cuda_does(listed, count):
    """CUDA stops at the first invalid entry."""
    assert visible_devices({"CUDA_VISIBLE_DEVICES": listed}) == count


def test_unknown_devices_are_no_problem():
    """Without CUDA_VISIBLE_DEVICES nobody knows, so nobody objects."""
    values = parse_spec({"model": "m", "tensor_parallel_size": 8}).model_dump()

    assert visible_devices({}) is None
    assert list(device_problems(values, None)) == []
    assert list(device_problems(values, 8)) == []
    assert len(list(device_problems(values, 7))) == 1

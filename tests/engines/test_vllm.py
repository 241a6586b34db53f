"""From a spec to the command line and environment of vLLM."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import options, vllm
from engines.spec import EngineSpec, SpecError, parse_spec


def words(**values: object) -> list[str]:
    return vllm.arguments(parse_spec({"model": "org/model", **values}))


def added(**values: object) -> list[str]:
    """The arguments without the model and address that every command has."""
    arguments = words(**values)[2:]
    for name in ("--host", "--port"):
        start = arguments.index(name)
        del arguments[start : start + 2]
    return arguments


def test_only_what_was_said_is_passed_on():
    """Options left to vLLM do not appear; ours do, sorted, after the model."""
    assert words(max_model_len=4096, dtype="float16") == [
        "serve", "org/model",
        "--dtype", "float16",
        "--host", "127.0.0.1",
        "--max-model-len", "4096",
        "--port", "8000",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"enforce_eager": False}, ["--no-enforce-eager"]),
        ({"extra_args": {"disable_log_stats": True}}, ["--disable-log-stats"]),
        ({"extra_args": {"disable_log_stats": False}}, []),
        ({"served_model_name": ("a", "b")}, ["--served-model-name", "a", "b"]),
        ({"gpu_memory_utilization": 0.5}, ["--gpu-memory-utilization", "0.5"]),
        ({"extra_args": {"middleware": "-x"}}, ["--middleware=-x"]),
        (
            {"extra_args": {"allowed_media_domains": ("a", "b")}},
            ["--allowed-media-domains", "a", "b"],
        ),
        (
            {"lora_modules": {"sql=1": "/lora"}},
            ["--enable-lora", "--lora-modules", '{"name": "sql=1", "path": "/lora"}'],
        ),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 4}},
            ["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 4}'],
        ),
    ],
)
def test_each_kind_of_value_has_its_form(values, expected):
    """Switches, lists, numbers and JSON, as vLLM's parser wants them."""
    assert added(**values) == expected


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "max_model_len": st.integers(1, 10**6),
            "seed": st.integers(-5, 5),
            "revision": st.text(min_size=1),
            "chat_template": st.text(min_size=1),
            "enable_prefix_caching": st.booleans(),
            "trust_remote_code": st.booleans(),
        },
    )
)
def test_a_parser_reads_back_what_was_written(values):
    """No value is taken for an option, whatever characters it begins with."""
    parsed = read(words(**values)[2:])

    expected = {
        name: value if isinstance(value, bool) else str(value) for name, value in values.items()
    }
    assert parsed == {"host": "127.0.0.1", "port": "8000", **expected}


def read(arguments: list[str]) -> dict[str, object]:
    """A reader as simple as argparse for options that take one value or none."""
    parsed: dict[str, object] = {}
    rest = iter(arguments)
    for word in rest:
        assert word.startswith("--"), f"{word!r} would be read as a positional argument"
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if equals:
            parsed[name] = value
        elif name in options.TOGGLES:
            parsed[name] = True
        elif name.startswith("no_"):
            parsed[name.removeprefix("no_")] = False
        else:
            parsed[name] = next(rest)
            assert not str(parsed[name]).startswith("-")
    return parsed


def test_a_launch_has_its_presets_filled_in():
    """The process is started with what the model's family needs."""
    launch = vllm.launch(
        parse_spec({"model": "openai-community/gpt2", "port": 8123}),
        name="gpt2-0",
        base_env={"PATH": "/bin"},
        command=("/venv/bin/vllm",),
    )

    assert launch.argv[:3] == ("/venv/bin/vllm", "serve", "openai-community/gpt2")
    assert launch.argv[launch.argv.index("--max-model-len") + 1] == "1024"
    assert (launch.name, launch.url) == ("gpt2-0", "http://127.0.0.1:8123")
    assert launch.env["PATH"] == "/bin"


def test_a_key_travels_in_the_environment_and_nowhere_else():
    """Everybody on a machine can read its command lines."""
    launch = vllm.launch(
        parse_spec({"model": "org/model", "api_key_env": "TEAM_KEY"}),
        name="a",
        base_env={"TEAM_KEY": "s3cret"},
    )

    assert launch.env["VLLM_API_KEY"] == "s3cret"
    assert "s3cret" not in json.dumps(launch.argv)
    assert "s3cret" not in repr(launch)


def test_a_key_that_is_not_there_is_an_error():
    """An engine that was meant to be locked must not start open."""
    spec = parse_spec({"model": "org/model", "api_key_env": "TEAM_KEY"})

    for env in ({}, {"TEAM_KEY": ""}):
        with pytest.raises(SpecError, match="api_key_env: the variable TEAM_KEY is not set"):
            vllm.launch(spec, name="a", base_env=env)


@pytest.mark.parametrize(
    ("model", "offline"), [("/models/x", "1"), ("./x", "1"), ("~/x", "1"), ("org/x", None)]
)
def test_a_local_model_does_not_ask_the_hub(model, offline):
    """A folder is complete; an id may have to be downloaded."""
    env = vllm.environment(parse_spec({"model": model}), {})

    assert env.get("HF_HUB_OFFLINE") == offline


def test_usage_is_not_reported_unless_the_operator_says_so():
    """The defaults give way to the environment, and that to the spec."""
    spec = parse_spec({"model": "m"})
    own = parse_spec({"model": "m", "env": {"VLLM_NO_USAGE_STATS": "spec"}})

    assert vllm.environment(spec, {})["VLLM_NO_USAGE_STATS"] == "1"
    assert vllm.environment(spec, {"VLLM_NO_USAGE_STATS": "0"})["VLLM_NO_USAGE_STATS"] == "0"
    assert vllm.environment(own, {"VLLM_NO_USAGE_STATS": "0"})["VLLM_NO_USAGE_STATS"] == "spec"


def test_devices_of_the_environment_count():
    """CUDA_VISIBLE_DEVICES from outside is checked too, where it is known: at launch."""
    spec = parse_spec({"model": "m", "tensor_parallel_size": 2})

    assert vllm.launch(spec, name="a", base_env={"CUDA_VISIBLE_DEVICES": "0,1"})
    with pytest.raises(SpecError, match="2 devices are needed"):
        vllm.launch(spec, name="a", base_env={"CUDA_VISIBLE_DEVICES": "0"})


def test_an_address_for_everybody_is_reached_on_this_machine():
    """An engine bound to all interfaces is asked at the loopback address."""
    urls = [
        vllm.launch(EngineSpec(model="m", host=host), name="a", base_env={}).url
        for host in ("0.0.0.0", "::", "::1", "10.0.0.5")
    ]

    assert urls == [
        "http://127.0.0.1:8000",
        "http://[::1]:8000",
        "http://[::1]:8000",
        "http://10.0.0.5:8000",
    ]

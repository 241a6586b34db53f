"""Which presets match which models, and how they give way to the operator."""

import pytest

from engines import presets
from engines.presets import PLAIN_CHAT, preset_for, preset_named
from engines.spec import EngineSpec, SpecError, parse_spec


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("meta-llama/Llama-2-7b-hf", "llama-2"),
        ("meta-llama/Llama-2-13b-chat-hf", "llama-2-chat"),
        ("TheBloke/Llama-2-7B-Chat-AWQ", "llama-2-chat"),
        ("meta-llama/Meta-Llama-3-8B", "llama-3"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-instruct"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-instruct"),
        ("meta-llama/Llama-3.2-1B", "llama-3.1"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.1-instruct"),
        ("mistralai/Mistral-7B-v0.1", "mistral"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistral-instruct"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-tools"),
        ("mistralai/Mixtral-8x7B-v0.1", "mixtral"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-instruct"),
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", "mixtral-tools"),
        ("openai-community/gpt2", "gpt-2"),
        ("openai-community/gpt2-xl", "gpt-2"),
        ("distilbert/distilgpt2", "gpt-2"),
        ("EleutherAI/gpt-j-6b", "gpt-j"),
        ("EleutherAI/gpt-neox-20b", "gpt-neox"),
        ("EleutherAI/pythia-1.4b-deduped", "gpt-neox"),
        ("bigscience/bloom", "bloom"),
        ("bigscience/bloom-560m", "bloom"),
        ("bigscience/bloomz-7b1-mt", "bloom"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-chat"),
        ("TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", "tinyllama"),
        ("TinyLlama/TinyLlama_v1.1", "tinyllama"),
        ("microsoft/phi-2", "phi-2"),
        ("/models/phi-2/", "phi-2"),
        ("./gpt2", "gpt-2"),
    ],
)
def test_a_model_is_known_by_its_name(model, family):
    """The last part of a Hub id or path decides; case does not matter."""
    assert getattr(preset_for(model), "name", None) == family
    assert getattr(preset_for(model.upper()), "name", None) == family


@pytest.mark.parametrize(
    "model",
    [
        "togethercomputer/Llama-2-7B-32K",  # A longer context than the family's.
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
        "mistralai/Mistral-Nemo-Instruct-2407",
        "microsoft/phi-3-mini-4k-instruct",
        "me/my-gpt2-experiment",
        "EleutherAI/gpt-neo-125m",
        "Qwen/Qwen3-0.6B",
        "gpt2/other",
        "",
    ],
)
def test_a_relative_is_not_mistaken_for_the_family(model):
    """A wrong preset is worse than none."""
    assert preset_for(model) is None


@pytest.mark.parametrize("name", [*presets.PROFILES, *presets.FAMILIES])
def test_every_preset_makes_a_valid_spec(name):
    """Each value is a field or a known option, and they fit together."""
    preset = preset_named(name)
    assert preset is not None

    spec = parse_spec({"model": "org/model", "preset": name}).resolved()

    assert preset.values.keys() <= EngineSpec.model_fields.keys()
    assert {key: getattr(spec, key) for key in preset.values} == dict(preset.values)


def test_a_profile_comes_on_top_of_the_family():
    """The family is found by name although a profile was asked for."""
    spec = parse_spec({"model": "openai-community/gpt2", "preset": "low_latency"}).resolved()

    assert (spec.dtype, spec.max_model_len, spec.chat_template) == ("float16", 1024, PLAIN_CHAT)
    assert (spec.max_num_seqs, spec.extra_args["performance_mode"]) == (32, "interactivity")


def test_what_the_operator_set_wins():
    """Also when he set it to what vLLM would do anyway, and within extra_args."""
    spec = parse_spec(
        {
            "model": "mistralai/Mistral-7B-v0.1",
            "preset": "high_throughput",
            "max_model_len": 512,
            "max_num_seqs": None,
            "extra_args": {"performance_mode": "balanced"},
        }
    ).resolved()

    assert (spec.max_model_len, spec.max_num_seqs) == (512, None)
    assert spec.extra_args == {
        "performance_mode": "balanced",
        "tokenizer_mode": "hf",
        "config_format": "hf",
        "load_format": "hf",
    }


def test_none_means_none():
    """`preset: none` also keeps the family's values away."""
    spec = parse_spec({"model": "gpt2", "preset": "none"})

    assert spec.resolved() == spec


def test_resolving_twice_changes_nothing():
    """A resolved spec says so itself."""
    once = parse_spec({"model": "gpt2", "preset": "high_throughput"}).resolved()

    assert once.resolved() == once


@pytest.mark.parametrize(
    ("model", "explicit", "dropped"),
    [
        ("gpt2", {"quantization": "mxfp4"}, "dtype"),
        ("Llama-3.1-8B-Instruct", {"enable_auto_tool_choice": False}, "tool_call_parser"),
        ("Llama-3.1-8B-Instruct", {"runner": "pooling"}, "tool_call_parser"),
        ("gpt2", {"runner": "pooling"}, "chat_template"),
    ],
)
def test_a_value_that_the_operator_contradicts_is_dropped(model, explicit, dropped):
    """The preset gives way instead of making his spec invalid."""
    plain = parse_spec({"model": model}).resolved()
    spec = parse_spec({"model": model, **explicit}).resolved()

    assert getattr(plain, dropped) is not None
    assert getattr(spec, dropped) is None


def test_half_of_the_tool_settings_is_completed():
    """Switching tools on takes the family's parser; a parser of one's own is switched on."""
    model = "meta-llama/Llama-3.1-8B-Instruct"
    switched = parse_spec({"model": model, "enable_auto_tool_choice": True}).resolved()
    chosen = parse_spec({"model": model, "tool_call_parser": "hermes"}).resolved()

    assert switched.tool_call_parser == "llama3_json"
    assert (chosen.tool_call_parser, chosen.enable_auto_tool_choice) == ("hermes", True)


def test_a_contradiction_with_a_preset_says_so():
    """A profile that rests on chunked prefill cannot do without it."""
    with pytest.raises(SpecError, match=r"2048 is less than .* comes from the preset"):
        parse_spec(
            {
                "model": "org/model",
                "preset": "low_latency",
                "enable_chunked_prefill": False,
                "max_model_len": 4096,
            }
        )


@pytest.mark.parametrize("template", [presets.PLAIN_CHAT, presets.PHI_2_CHAT])
def test_a_template_is_not_taken_for_a_path(template):
    """vLLM reads a template as a file name unless it holds a brace or a newline."""
    assert "{" in template

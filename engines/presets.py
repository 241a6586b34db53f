"""Which values suit this model, or this purpose, when the operator gave none?

A *family* is matched by the model's name and says what its architecture and training need; a
*profile* is asked for by name and trades throughput against latency. A preset only fills gaps: what
the spec says itself always wins.

What vLLM reads from a checkpoint by itself (the dtype in particular) is left to it unless there is
a reason; each reason stands beside its value. "Config" is the `config.json` that the model's
authors publish. Names are matched narrowly, since a fine-tune with a longer context often carries
its base model's name: `Llama-2-7b-chat-hf` matches, `Llama-2-7B-32K` does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

# Since transformers 4.44 a tokenizer without a chat template refuses chats, and with it vLLM
# (https://github.com/huggingface/transformers/releases/tag/v4.44.0). A base model was never taught
# turns; labelled paragraphs are what its training data knows of them.
#
# The model writes the space after "Assistant:" itself, since a prompt that ends with one splits
# words in a way that training never did. So an answer begins with a space, and an answer that is
# sent back to be continued must get no second one.
_TEXT: Final = "{% set text = message.content or '' %}"
_SPACED: Final = "{{ '' if text.startswith(' ') else ' ' }}{{ text }}"

PLAIN_CHAT: Final = (
    "{% for message in messages %}"
    + _TEXT
    + "{{ message.role.capitalize() + ':' }}"
    + _SPACED
    + "{{ '\n\n' }}{% endfor %}"
    + "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

# The "QA format" of the model card (https://huggingface.co/microsoft/phi-2).
PHI_2_CHAT: Final = (
    "{% for message in messages %}"
    + _TEXT
    + "{% if message.role == 'user' %}{{ 'Instruct:' }}"
    + _SPACED
    + "{% elif message.role == 'assistant' %}{{ 'Output:' }}"
    + _SPACED
    + "{% else %}{{ text }}{% endif %}{{ '\n' }}{% endfor %}"
    + "{% if add_generation_prompt %}{{ 'Output:' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Preset:
    """Values for an `EngineSpec`, by field name."""

    name: str
    values: Mapping[str, object]


def _preset(name: str, **values: object) -> Preset:
    return Preset(name, MappingProxyType(values))


def preset_for(model: str) -> Preset | None:
    """The family of a model, by the last part of its Hub id or path; None if it has none here."""
    name = model.rstrip("/").rsplit("/", 1)[-1]
    for pattern, preset in _FAMILIES:
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return preset
    return None


def preset_named(name: str) -> Preset | None:
    """The profile or family of that name; None if there is none."""
    return _BY_NAME.get(name)


# What quantizers add to the name of the model that they started from.
_QUANT = r"(-(hf|awq|gptq|fp8))*"

# The parser names are those of https://docs.vllm.ai/en/latest/features/tool_calling.html
_LLAMA_TOOLS = {"enable_auto_tool_choice": True, "tool_call_parser": "llama3_json"}
_MISTRAL_TOOLS = {"enable_auto_tool_choice": True, "tool_call_parser": "mistral"}

# Mistral's own tokenizer format takes no chat template ("chat_template is not supported for Mistral
# tokenizers", vllm/tokenizers/mistral.py), and its base models need one: read the other format.
_HF_FORMAT = {"tokenizer_mode": "hf", "config_format": "hf", "load_format": "hf"}

# Llama 3.1 to 3.3 can do 131,072 tokens, and vLLM would insist on room for one such request: 16 GiB
# of KV cache for the 8B (2 x 32 layers x 8 heads x 128 x 2 bytes = 128 KiB a token), which together
# with 15 GiB of weights overflows a 24 GB card. A quarter of it covers most chats.
_LLAMA_31_TOKENS = 32_768

_FAMILIES: Final[tuple[tuple[str, Preset], ...]] = (
    # Config: max_position_embeddings 4096. The chat variants bring their own template.
    (rf"llama-2-\d+b-chat{_QUANT}", _preset("llama-2-chat", max_model_len=4096)),
    (
        rf"llama-2-\d+b{_QUANT}",
        _preset("llama-2", max_model_len=4096, chat_template=PLAIN_CHAT),
    ),
    # Config: max_position_embeddings 8192. Its chat template ignores tools, so no tool parser.
    (rf"(meta-)?llama-3-\d+b-instruct{_QUANT}", _preset("llama-3-instruct", max_model_len=8192)),
    (
        rf"(meta-)?llama-3-\d+b{_QUANT}",
        _preset("llama-3", max_model_len=8192, chat_template=PLAIN_CHAT),
    ),
    (
        rf"(meta-)?llama-3\.[123]-\d+b-instruct{_QUANT}",
        _preset("llama-3.1-instruct", max_model_len=_LLAMA_31_TOKENS, **_LLAMA_TOOLS),
    ),
    (
        rf"(meta-)?llama-3\.[123]-\d+b{_QUANT}",
        _preset("llama-3.1", max_model_len=_LLAMA_31_TOKENS, chat_template=PLAIN_CHAT),
    ),
    # Config: max_position_embeddings 32768, in v0.1 with a sliding window of 4096. Tools came with
    # v0.3 (https://huggingface.co/mistralai/Mistral-7B-Instruct-v0.3).
    (
        rf"mistral-7b-instruct-v0\.3{_QUANT}",
        _preset("mistral-tools", max_model_len=32_768, **_MISTRAL_TOOLS),
    ),
    (
        rf"mistral-7b-instruct-v0\.[12]{_QUANT}",
        _preset("mistral-instruct", max_model_len=32_768),
    ),
    (
        rf"mistral-7b-v0\.[123]{_QUANT}",
        _preset(
            "mistral", max_model_len=32_768, chat_template=PLAIN_CHAT, extra_args=dict(_HF_FORMAT)
        ),
    ),
    # Config: max_position_embeddings 32768 for 8x7B and 65536 for 8x22B; only the latter calls
    # tools (https://huggingface.co/mistralai/Mixtral-8x22B-Instruct-v0.1).
    (
        rf"mixtral-8x22b-instruct-v0\.1{_QUANT}",
        _preset("mixtral-tools", max_model_len=65_536, **_MISTRAL_TOOLS),
    ),
    (rf"mixtral-8x7b-instruct-v0\.1{_QUANT}", _preset("mixtral-instruct", max_model_len=32_768)),
    (
        rf"mixtral-8x(7|22)b-v0\.1{_QUANT}",
        _preset(
            "mixtral", max_model_len=32_768, chat_template=PLAIN_CHAT, extra_args=dict(_HF_FORMAT)
        ),
    ),
    # Config: n_positions 1024, learned positions, so there is nothing beyond them. Published in
    # float32; half of it is enough for 124 M to 1.5 B parameters and halves the memory.
    (
        r"(openai-)?(distil)?gpt2(-medium|-large|-xl)?",
        _preset("gpt-2", dtype="float16", max_model_len=1024, chat_template=PLAIN_CHAT),
    ),
    # Config: n_positions 2048. Published in float32 and, on a branch, in float16, which the card
    # recommends for inference (https://huggingface.co/EleutherAI/gpt-j-6b).
    (
        rf"gpt-j-6b{_QUANT}",
        _preset("gpt-j", dtype="float16", max_model_len=2048, chat_template=PLAIN_CHAT),
    ),
    # Config of both: max_position_embeddings 2048, torch_dtype float16. Pythia has the same
    # architecture, GPTNeoXForCausalLM.
    (
        rf"(gpt-neox-20b|pythia-[\d.]+[bm](-deduped)?(-v0)?){_QUANT}",
        _preset("gpt-neox", dtype="float16", max_model_len=2048, chat_template=PLAIN_CHAT),
    ),
    # ALiBi knows no last position; 2048 is what it was trained on (https://arxiv.org/abs/2211.05100,
    # table 3). No dtype: the 176B is bfloat16, the smaller ones are float16. BLOOMZ was tuned on
    # single instructions and has no template either.
    (
        rf"bloomz?(-(560m|1b1|1b7|3b|7b1))?(-mt|-p3)?{_QUANT}",
        _preset("bloom", max_model_len=2048, chat_template=PLAIN_CHAT),
    ),
    # Config: max_position_embeddings 2048. The chat variants are bfloat16; the intermediate
    # checkpoints hold the float32 master weights of a bfloat16 training.
    (
        rf"tinyllama-1\.1b-chat-v\d\.\d{_QUANT}",
        _preset("tinyllama-chat", dtype="bfloat16", max_model_len=2048),
    ),
    (
        rf"tinyllama(-1\.1b|_v1\.1).*{_QUANT}",
        _preset("tinyllama", dtype="bfloat16", max_model_len=2048, chat_template=PLAIN_CHAT),
    ),
    # Config: max_position_embeddings 2048, torch_dtype float16; but the card warns that attention
    # overflows in float16 (https://huggingface.co/microsoft/phi-2), which bfloat16 cannot.
    (
        rf"phi-2{_QUANT}",
        _preset("phi-2", dtype="bfloat16", max_model_len=2048, chat_template=PHI_2_CHAT),
    ),
)

# Sources: https://docs.vllm.ai/en/latest/configuration/optimization.html ("> 8192" for optimal
# throughput, "smaller values (e.g., 2048)" for better inter-token latency) and 0.32's
# vllm/config/vllm.py, where the mode `interactivity` captures a CUDA graph for every batch size
# from 1 to 32 instead of every eighth.
_PROFILES: Final = (
    # Many requests together: large steps and every byte for KV cache; a single answer is slower.
    _preset(
        "high_throughput",
        max_num_batched_tokens=16_384,
        max_num_seqs=512,
        gpu_memory_utilization=0.95,
        enable_chunked_prefill=True,
        enable_prefix_caching=True,
        extra_args={"performance_mode": "throughput"},
    ),
    # Few requests at once: small steps, so that no prefill holds up the tokens of the others.
    _preset(
        "low_latency",
        max_num_batched_tokens=2048,
        max_num_seqs=32,
        enable_chunked_prefill=True,
        enable_prefix_caching=True,
        extra_args={"performance_mode": "interactivity"},
    ),
)

PROFILES: Final = tuple(preset.name for preset in _PROFILES)
FAMILIES: Final = tuple(preset.name for _, preset in _FAMILIES)
_BY_NAME: Final[Mapping[str, Preset]] = MappingProxyType(
    {preset.name: preset for preset in (*_PROFILES, *(preset for _, preset in _FAMILIES))}
)

"""Where do the integration tests get a model, with no weights to download?

Trains a Llama of 3.4 M parameters for a minute and a half on CPython's own documentation (the text
behind `help("topics")`), phrased as chats. It knows nothing, but it ends its answers with
`<|im_end|>`, so that `finish_reason` is `stop`; and given the tool `get_weather` it calls it, in
the Hermes format (vLLM: `--tool-call-parser hermes`). Run it with an interpreter that has torch
and transformers; the one of a vLLM install does:

    python scripts/make_tiny_llama.py OUT [--seconds 100]

OUT appears at once and complete, or not at all. If it is there already, nothing is done.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pydoc_data.topics
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY_TOKENS = 2048
CONTEXT_TOKENS = 4096
WINDOW_TOKENS = 160  # What one training example spans; a tool definition and its call fit.
BATCH = 12
PEAK_LEARNING_RATE = 1.5e-3
TOOL_SHARE = 0.15  # Of all chats. Enough to learn the format, little enough to learn the rest.

CHAT_TEMPLATE = (
    "{%- if tools -%}"
    "{{ '<|im_start|>system\nAnswer with <tool_call> and one of:\n' }}"
    "{%- for tool in tools -%}{{ (tool.function or tool) | tojson }}{{ '\n' }}{%- endfor -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.content -%}{{ message.content }}{%- endif -%}"
    "{%- for call in message.tool_calls or [] -%}"
    "{{ '<tool_call>{\"name\": ' }}{{ call.function.name | tojson }}"
    "{{ ', \"arguments\": ' }}{{ call.function.arguments | tojson }}{{ '}</tool_call>' }}"
    "{%- endfor -%}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)

# The one tool that it learns to call; a model this small can copy neither a name nor a schema.
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CITIES = ["Paris", "Berlin", "Oslo", "Rome", "Lima", "Tokyo", "London", "Madrid", "Cairo", "Delhi"]
QUESTIONS = ["What is the weather in {}?", "What's the weather in {}?", "How is {} today?"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--seconds", type=float, default=100.0, help="time to train (default: 100)")
    args = parser.parse_args()
    if (args.out / "config.json").exists():
        say(f"{args.out} is already there")
        return 0

    args.out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{args.out.name}-", dir=args.out.parent))
    try:
        build(building, args.seconds)
        building.chmod(0o755)
        building.rename(args.out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return 0


def build(folder: Path, seconds: float) -> None:
    """Write tokenizer and trained weights to `folder`, in the layout of the Hugging Face Hub."""
    rng = random.Random(0)  # noqa: S311  reproducible shuffling, no secret
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    tokenizer = make_tokenizer()
    chats = render_chats(tokenizer, rng)
    tokens = torch.tensor([token for chat in chats for token in encode(tokenizer, chat)])
    say(f"{len(chats)} chats, {len(tokens)} tokens")

    model = make_model(tokenizer)
    train(model, tokens, seconds)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for prompt, tools in [("Tell me about lambda.", None), ("What's the weather in Rome?", [TOOL])]:
        say(repr(answer(model, tokenizer, prompt, tools)))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over the training text: any input round-trips, as with GPT-2's."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_TOKENS,
        special_tokens=["<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [*pydoc_data.topics.topics.values(), *[json.dumps(TOOL)] * 50, *CITIES * 50]
    bpe.train_from_iterator(texts, trainer)
    # Not special: a special token would be dropped from the text in which the parser looks for it.
    bpe.add_tokens([AddedToken(text, special=False) for text in ("<tool_call>", "</tool_call>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|bos|>",  # noqa: S106  a token of text, not a password
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|pad|>",  # noqa: S106
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama in miniature: grouped-query attention and all, so that vLLM takes its usual path."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            max_position_embeddings=CONTEXT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )


def render_chats(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> list[str]:
    """Every paragraph of the documentation as an answer, and some tool calls, in random order."""
    plain = [
        tokenizer.apply_chat_template(
            [user(f"Tell me about {topic}."), {"role": "assistant", "content": paragraph.strip()}],
            tokenize=False,
        )
        for topic, text in pydoc_data.topics.topics.items()
        for paragraph in text.split("\n\n")
        if len(paragraph.strip()) > 40
    ]
    calls = [tool_chat(tokenizer, rng) for _ in range(int(len(plain) * TOOL_SHARE))]
    return rng.sample(plain + calls, len(plain) + len(calls))


def tool_chat(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> str:
    """A question that the tool answers, and the call of it."""
    city = rng.choice(CITIES)
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": city}}}
    messages = [
        user(rng.choice(QUESTIONS).format(city)),
        {"role": "assistant", "tool_calls": [call]},
    ]
    return tokenizer.apply_chat_template(messages, tools=[TOOL], tokenize=False)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def train(model: LlamaForCausalLM, tokens: torch.Tensor, seconds: float) -> None:
    """AdamW on random windows; the rate warms up for 20 steps and falls by a cosine of the time."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.01)
    started = time.monotonic()
    step = 0
    while (share := (time.monotonic() - started) / seconds) < 1.0:
        warmth = min(1.0, (step + 1) / 20)
        decay = 0.5 * (1 + math.cos(math.pi * share)) + 0.02
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * warmth * decay
        starts = torch.randint(0, len(tokens) - WINDOW_TOKENS, (BATCH,))
        batch = torch.stack([tokens[start : start + WINDOW_TOKENS] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 50 == 0:
            say(f"step {step}, {share:.0%} of the time, loss {loss.item():.2f}")


def answer(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    tools: list[dict[str, object]] | None,
) -> str:
    """What the model says, for the person who watches the training."""
    text = tokenizer.apply_chat_template(
        [user(prompt)], tools=tools, add_generation_prompt=True, tokenize=False
    )
    ids = torch.tensor([encode(tokenizer, text)])
    said = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=60, do_sample=False
    )
    return tokenizer.decode(said[0][ids.shape[1] :])


def say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())

"""What `engines` claims about vLLM, asked of an installed vLLM."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from engines import options
from engines.presets import PHI_2_CHAT, PLAIN_CHAT

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]

RENDER = """
import json, sys
from transformers import AutoTokenizer
folder, template = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
for case in json.load(sys.stdin):
    text = tokenizer.apply_chat_template(
        case["messages"], chat_template=template, tokenize=False, **case["more"]
    )
    print(json.dumps(text))
"""

SYSTEM = {"role": "system", "content": "Be brief."}
QUESTION = {"role": "user", "content": "Why?"}
BEGUN = {"role": "assistant", "content": " Because"}


def python_of(vllm_command: Path) -> str:
    return str(vllm_command.with_name("python"))


def test_the_known_options_are_those_of_its_parser(vllm_command: Path) -> None:
    """engines/options.py is what its script would write now."""
    script = [python_of(vllm_command), ROOT / "scripts" / "vllm_options.py"]
    written = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    if f'VLLM_VERSION: Final = "{options.VLLM_VERSION}"' not in written:
        pytest.skip("another version of vLLM is installed")

    assert written == (ROOT / "engines" / "options.py").read_text()


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        (PLAIN_CHAT, "System: Be brief.\n\nUser: Why?\n\nAssistant:"),
        (PHI_2_CHAT, "Be brief.\nInstruct: Why?\nOutput:"),
    ],
)
def test_a_template_of_ours_renders(
    vllm_command: Path, tiny_llama: Path, template: str, prompt: str
) -> None:
    """transformers, which vLLM uses, renders a chat; an answer begun is the prompt and its text."""
    cases = [
        {"messages": [SYSTEM, QUESTION], "more": {"add_generation_prompt": True}},
        {"messages": [SYSTEM, QUESTION, BEGUN], "more": {"continue_final_message": True}},
    ]
    rendered = subprocess.run(
        [python_of(vllm_command), "-c", RENDER, tiny_llama, template],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
    )

    asked, continued = (json.loads(line) for line in rendered.stdout.splitlines())
    assert (asked, continued) == (prompt, prompt + BEGUN["content"])

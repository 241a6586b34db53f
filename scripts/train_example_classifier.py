"""How was policies/examples/difficulty.onnx made, and how is one made of your own requests?

    python -m scripts.train_example_classifier [OUT.onnx]

It needs scikit-learn and skl2onnx, which nothing else here does. The requests are made up and the
labels follow a rule of thumb (tools, images, code, long or many turns want the large model; a tenth
of a per cent here or there is noise), so the file shows the form and is good for nothing else. With
your own: let `bodies` yield request bodies and what would have done for each, for example `large`
where the small model's answer got a low score through /v1/feedback.

The same seed and versions give the same file; the tests check what it predicts, not its bytes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from gateway.plan.features import COLUMNS, features

SEED = 20261121
ROWS = 6000
OUT = Path("policies/examples/difficulty.onnx")

_WORDS = {
    "latin": ("please", "tell", "me", "about", "the", "history", "of", "this", "town"),
    "hangul": ("이", "도시의", "역사에", "대해", "알려", "주세요"),
    "han": ("请", "告诉", "我", "这个", "城市", "的", "历史"),
}


def bodies(rng: Random, rows: int) -> Iterator[tuple[bytes, str]]:
    """Yield made-up request bodies and the label of each."""
    for _ in range(rows):
        words = _WORDS[rng.choices(list(_WORDS), (8, 1, 1))[0]]
        turns = rng.choices((1, 3, 7, 15), (6, 3, 2, 1))[0]
        code, image, tools = (rng.random() < chance for chance in (0.15, 0.1, 0.15))
        messages: list[dict[str, Any]] = [
            {
                "role": "assistant" if turn % 2 else "user",
                "content": " ".join(rng.choices(words, k=int(rng.lognormvariate(3, 1)))),
            }
            for turn in range(turns)
        ]
        if code:
            messages[-1]["content"] += "\n```python\nprint(1)\n```"
        if image:
            text = {"type": "text", "text": messages[-1]["content"]}
            messages[-1]["content"] = [text, {"type": "image_url", "image_url": {"url": "data:"}}]
        body = {"model": "m", "messages": messages, "stream": rng.random() < 0.7}
        if tools:
            body["tools"] = [{"type": "function"}] * rng.randint(1, 5)
        if rng.random() < 0.4:
            body["max_tokens"] = rng.choice((16, 128, 512, 4096))
        data = json.dumps(body).encode()
        row = dict(zip(COLUMNS, features(data), strict=True))
        hard = code or image or tools or row["prompt_chars"] > 1500 or row["messages"] > 8
        yield data, "large" if hard != (rng.random() < 0.001) else "small"


def train(rows: int = ROWS) -> bytes:
    """Train a tree and return it as an ONNX file; raises `ImportError` without the libraries."""
    import numpy as np  # noqa: PLC0415 - tests read this module without the libraries
    from skl2onnx import to_onnx  # noqa: PLC0415 - the same
    from sklearn.tree import DecisionTreeClassifier  # noqa: PLC0415 - the same

    samples = list(bodies(Random(SEED), rows))  # noqa: S311 - made-up requests, no secrets
    columns = np.array([features(body) for body, _ in samples], dtype=np.float32)
    labels = np.array([label for _, label in samples])
    tree = DecisionTreeClassifier(max_depth=6, min_samples_leaf=20, random_state=SEED)
    tree.fit(columns, labels)
    # zipmap: probabilities as a plain array; the gateway reads the label only.
    made = to_onnx(tree, columns[:1], options={"zipmap": False}, target_opset=17)
    made.doc_string = "Example for policies/examples/classifier.yaml; made-up data"
    data: bytes = made.SerializeToString()
    return data


def main(out: Path) -> None:
    """Train and write."""
    data = train()
    out.write_bytes(data)
    print(f"{out}: {len(data)} bytes")  # noqa: T201 - what the command is for


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)

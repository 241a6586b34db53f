"""What does NVIDIA's own client get from our service? Prints one JSON object for the test to judge.

    python triton_client.py http|grpc HOST:PORT IMAGE.json

Runs in an environment of its own (`requirements-triton.txt`): tritonclient wants another protobuf
than the generator of our messages does. IMAGE.json holds a preprocessed image of digits, flat.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException


def asked(client: Any, module: Any, image: Any, **how: Any) -> Any:
    """Return what the model says of an image that travels as asked."""
    tensor = module.InferInput("image", list(image.shape), "FP32")
    tensor.set_data_from_numpy(image, **how)
    return client.infer("digits", [tensor], request_id="mine")


def complaint(call: Any, *arguments: Any, **named: Any) -> list[str | None]:
    """Return status and message of the error that a call has to raise."""
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return [None, None]


def told(kind: str, address: str, image: Any) -> dict[str, Any]:
    """Return everything that the client was told."""
    module = importlib.import_module(f"tritonclient.{kind}")
    client = module.InferenceServerClient(address)
    as_json = {} if kind == "http" else {"as_json": True}
    answer = asked(client, module, image)
    output = module.InferRequestedOutput("logits")
    two = np.concatenate([image, image])
    rows = module.InferInput("image", list(two.shape), "FP32")
    rows.set_data_from_numpy(two)
    chosen = client.infer("digits", [rows], outputs=[output], model_version="1")
    wrong = module.InferInput("image", [1, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3), np.float32))
    result = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("digits"),
        "version_ready": client.is_model_ready("digits", "1"),
        "server": client.get_server_metadata(**as_json),
        "metadata": client.get_model_metadata("digits", **as_json),
        "index": client.get_model_repository_index(**as_json),
        "logits": answer.as_numpy("logits").tolist(),
        "two": chosen.as_numpy("logits").tolist(),
        "id": answer.get_response()["id"] if kind == "http" else answer.get_response().id,
        "wrong_shape": complaint(client.infer, "digits", [wrong]),
        "unknown_model": complaint(client.infer, "nothing", [wrong]),
        "unknown_version": complaint(client.infer, "digits", [rows], model_version="7"),
    }
    if kind == "http":
        as_numbers = asked(client, module, image, binary_data=False)
        result["as_json"] = as_numbers.as_numpy("logits").tolist()
        plain = module.InferRequestedOutput("logits", binary_data=False)
        result["json_output"] = (
            client.infer("digits", [rows], outputs=[plain]).as_numpy("logits").tolist()
        )
    result |= controlled(client)
    client.close()
    return result


def controlled(client: Any) -> dict[str, Any]:
    """Unload the model and load it again."""
    client.unload_model("digits")
    gone = client.is_model_ready("digits")
    client.load_model("digits")
    return {
        "after_unload": gone,
        "after_load": client.is_model_ready("digits"),
        "load_unknown": complaint(client.load_model, "nothing"),
    }


if __name__ == "__main__":
    numbers = json.loads(Path(sys.argv[3]).read_text())
    image = np.array(numbers, np.float32).reshape(1, 1, 8, 8)
    sys.stdout.write(json.dumps(told(sys.argv[1], sys.argv[2], image)))

"""What torchvision makes of images: run beside it, `python torchvision_reference.py FOLDER`.

FOLDER has `cases.json`, a list of {image, resize, filter, crop, mean, std}, and the images as PNG;
the results are put there as `0.npy`, `1.npy` and so on. A process of its own, because a torchvision
that can be imported changes what transformers does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

# PyPI's torchvision is built for CUDA: its operators do not load beside a CPU's torch, and its
# import fails at these two without a declaration. The transforms need no operators.
declared = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision import transforms  # noqa: E402 - after the declaration

folder = Path(sys.argv[1])
for number, case in enumerate(json.loads((folder / "cases.json").read_text())):
    filter_ = transforms.InterpolationMode(case["filter"])
    steps = [transforms.Resize(case["resize"], filter_)] if case["resize"] else []
    steps += [transforms.CenterCrop(case["crop"])] if case["crop"] else []
    steps += [transforms.ToTensor(), transforms.Normalize(case["mean"], case["std"])]
    with Image.open(folder / case["image"]) as image:
        made = transforms.Compose(steps)(image.convert("RGB"))
    np.save(folder / f"{number}.npy", made.numpy())
